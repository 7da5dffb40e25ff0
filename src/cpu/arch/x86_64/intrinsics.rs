//! Vectors and instances of intrinsics that differ in name only.

use std::arch::x86_64::*;

/// A vector of `$n` registers, from intrinsics that differ in name only.
macro_rules! vector {
    (
        $name:ident, $isa:ident, $float:ident, $register:ident x $n:literal,
        $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident, $fmadd:ident, $max:ident, $min:ident,
        shift: |$x:ident| $shift:expr,
        select: |$from:ident, $to:ident, $a:ident, $b:ident| $select:expr $(,)?
    ) => {
        /// Made with the instruction set's token only, so whoever holds one may use it.
        #[derive(Clone, Copy)]
        pub(in crate::cpu::arch) struct $name([$register; $n]);

        impl $name {
            const PER_REGISTER: usize = size_of::<$register>() / size_of::<$float>();
            const LANES: usize = $n * Self::PER_REGISTER;

            #[inline(always)]
            fn map(self, each: impl Fn(usize, $register) -> $register) -> Self {
                let mut all = self.0;
                let mut i = 0;
                while i < $n {
                    all[i] = each(i, all[i]);
                    i += 1;
                }
                Self(all)
            }
        }

        // SAFETY (every block): the instruction set's token exists, as the vectors do, so its
        // instructions may be used. Loads and stores are of arrays of as many lanes as the
        // registers have.
        impl Vector<$isa, $float> for $name {
            #[inline(always)]
            fn splat(_: $isa, x: $float) -> Self {
                // SAFETY: above.
                Self([unsafe { $set1(x) }; $n])
            }

            #[inline(always)]
            fn load(isa: $isa, from: &[$float]) -> Self {
                let from: &[$float; Self::LANES] = whole(from);
                Self::splat(isa, 0.0).map(|i, _| {
                    // SAFETY: above.
                    unsafe { $loadu(from.as_ptr().add(i * Self::PER_REGISTER)) }
                })
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                let to: &mut [$float; Self::LANES] = whole_mut(to);
                for (i, register) in self.0.into_iter().enumerate() {
                    // SAFETY: above.
                    unsafe { $storeu(to.as_mut_ptr().add(i * Self::PER_REGISTER), register) }
                }
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $add(x, other.0[i]) })
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $sub(x, other.0[i]) })
            }

            #[inline(always)]
            fn times(self, other: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $mul(x, other.0[i]) })
            }

            #[inline(always)]
            fn times_plus(self, a: Self, b: Self) -> Self {
                // SAFETY: above.
                self.map(|i, x| unsafe { $fmadd(x, a.0[i], b.0[i]) })
            }

            #[inline(always)]
            fn or_higher(self, other: Self) -> Self {
                // The instruction gives its second operand where either is a NaN.
                // SAFETY: above.
                self.map(|i, x| unsafe { $max(x, other.0[i]) })
            }

            #[inline(always)]
            fn or_lower(self, other: Self) -> Self {
                // As above.
                // SAFETY: above.
                self.map(|i, x| unsafe { $min(x, other.0[i]) })
            }

            #[inline(always)]
            fn low_bits_to_exponent(self) -> Self {
                // SAFETY: above.
                self.map(|_, $x| unsafe { $shift })
            }

            #[inline(always)]
            fn within(self, lanes: Range<usize>, other: Self) -> Self {
                self.map(|i, $a| {
                    let $b = other.0[i];
                    // The register's own part of the lanes; neither end exceeds a vector's lanes.
                    let $from = lanes.start as i32 - (i * Self::PER_REGISTER) as i32;
                    let $to = lanes.end as i32 - (i * Self::PER_REGISTER) as i32;
                    // SAFETY: above.
                    unsafe { $select }
                })
            }
        }
    };
}
pub(super) use vector;

/// Stores `from` past the cache, 16 bytes at once, or 32 where its size allows.
///
/// # Safety
///
/// The machine must have AVX. `to` must be aligned to its step, which must divide its size.
#[inline(always)]
pub(super) unsafe fn stream<T: Copy>(from: &[T], to: &mut [T], step: usize) {
    let from = from.as_ptr().cast::<u8>();
    for at in (0..size_of_val(to)).step_by(step) {
        // SAFETY: the caller's word; the `step` bytes from `at` lie within both slices, which are
        // of one length.
        unsafe {
            let to = to.as_mut_ptr().cast::<u8>().add(at);
            if step == 32 {
                _mm256_stream_si256(to.cast(), _mm256_loadu_si256(from.add(at).cast()));
            } else {
                _mm_stream_si128(to.cast(), _mm_loadu_si128(from.add(at).cast()));
            }
        }
    }
}

/// What compiles kernels for an instruction set: `entry` those that the CPU path starts, `apart`
/// those that are [`apart`](Isa::apart) from one. Each is a module: units of compilation follow
/// modules, and are compiled side by side.
macro_rules! units {
    (@ $unit:ident $(, $features:tt)?) => {
        mod $unit {
            use crate::cpu::arch::isa::{Isa, Kernel};

            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            pub(super) fn run<I: Isa, K: Kernel>(isa: I, kernel: K) -> K::Output {
                kernel.run(isa)
            }
        }
    };
    ($($features:tt)?) => {
        units!(@ entry $(, $features)?);
        units!(@ apart $(, $features)?);
    };
}
pub(super) use units;

/// 16-bit conversions of one register, and what both instances share.
macro_rules! isa {
    (
        $isa:ident, $single:ident, $double:ident, $lanes:literal, $half:ident, $load:ident, $store:ident,
        widen_f16: |$wf:ident| $widen_f16:expr,
        narrow_f16: |$nf:ident| $narrow_f16:expr,
        widen_bf16: |$wb:ident| $widen_bf16:expr,
        narrow_bf16: |$nb:ident| $narrow_bf16:expr $(,)?
    ) => {
        impl Isa for $isa {
            const LANES: usize = $lanes;
            const FUSED: bool = true;
            type Single = $single;
            type Double = $double;

            #[inline(always)]
            fn widen_f16(self, from: &[f16]) -> $single {
                let from: &[f16; $lanes] = whole(from);
                // SAFETY: `self` means these instructions, and the lanes fill the register.
                unsafe {
                    let $wf = $load(from.as_ptr().cast::<$half>());
                    $single([$widen_f16])
                }
            }

            #[inline(always)]
            fn narrow_f16(self, x: $single, to: &mut [f16]) {
                let to: &mut [f16; $lanes] = whole_mut(to);
                let $nf = x.0[0];
                // SAFETY: `self` means these instructions, and the register fills the lanes.
                unsafe { $store(to.as_mut_ptr().cast::<$half>(), $narrow_f16) };
            }

            #[inline(always)]
            fn widen_bf16(self, from: &[bf16]) -> $single {
                let from: &[bf16; $lanes] = whole(from);
                // SAFETY: `self` means these instructions, and the lanes fill the register.
                unsafe {
                    let $wb = $load(from.as_ptr().cast::<$half>());
                    $single([$widen_bf16])
                }
            }

            /// As [`half_bits::narrow_bf16`](crate::cpu::half_bits::narrow_bf16). A NaN's low half
            /// must be clear: a carry out of it would turn the NaN over.
            #[inline(always)]
            fn narrow_bf16(self, x: $single, to: &mut [bf16]) {
                let to: &mut [bf16; $lanes] = whole_mut(to);
                let $nb = x.0[0];
                // SAFETY: `self` means these instructions, and the register fills the lanes.
                unsafe { $store(to.as_mut_ptr().cast::<$half>(), $narrow_bf16) };
            }

            #[inline(always)]
            fn stream<T: Copy>(self, from: &[T], to: &mut [T]) {
                // 32 bytes at once where a vector of elements has as many.
                let step = if size_of::<T>() * $lanes % 32 == 0 {
                    32
                } else {
                    16
                };
                let whole_steps = to.as_ptr().addr() % step == 0 && size_of_val(to) % step == 0;
                if whole_steps && from.len() == to.len() {
                    // SAFETY: `self` means AVX; the alignment and the size were asked for.
                    unsafe { stream(from, to, step) };
                } else {
                    to.copy_from_slice(from);
                }
            }

            #[inline(always)]
            fn apart<K: Kernel>(self, kernel: K) -> K::Output {
                // SAFETY: `self` means these instructions.
                unsafe { apart::run(self, kernel) }
            }

            #[inline(always)]
            fn fence_streamed_stores(self) {
                // SAFETY: SSE is part of x86-64.
                unsafe { _mm_sfence() }
            }

            #[inline(always)]
            fn prefetch<T>(self, at: *const T) {
                // SAFETY: a prefetch faults at no address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>()) }
            }
        }
    };
}
pub(super) use isa;
