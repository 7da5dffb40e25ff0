//! What every processor of the target has.

#[cfg(target_arch = "x86_64")]
pub(super) fn run<K: super::isa::Kernel>(kernel: K) -> K::Output {
    super::x86_64::Sse2.run(kernel)
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use arrays::run;

#[cfg(not(target_arch = "x86_64"))]
mod arrays {
    use crate::cpu::arch::isa::{Isa, Kernel};
    use crate::cpu::arch::portable::portable_vectors;

    #[derive(Clone, Copy)]
    struct Arrays;

    impl Isa for Arrays {
        const FUSED: bool = false;
        portable_vectors!(8);
    }

    #[inline(never)]
    pub(in crate::cpu::arch) fn run<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Arrays)
    }
}
