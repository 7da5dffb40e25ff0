//! Instances of the row routine for instruction sets, and the choice of one at run time. All unsafe code of the CPU path is here.
//!
//! The routine is written once, over vectors; an instance says what a vector is and which instructions the compiler may
//! use. Where it brings no vectors of its own they are arrays, whose loops the compiler turns into vector code.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod baseline;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use half::{bf16, f16};

/// No instance has more lanes: what is read in whole vectors is padded by so many elements.
pub(super) const MOST_LANES: usize = 16;

/// The right to use an instruction set: holding a value means that the machine has it.
pub trait Isa: Copy {
    /// Whether a fused multiply-add is an instruction. As a call into a library it would cost a hundredfold.
    const FUSED: bool;
    type Single: Vector<Self, f32>;
    /// As many lanes as [`Single`](Self::Single) has.
    type Double: Vector<Self, f64>;

    fn widen_f16<const L: usize>(self, x: [f16; L]) -> Self::Single;
    fn narrow_f16<const L: usize>(self, x: Self::Single) -> [f16; L];
    fn widen_bf16<const L: usize>(self, x: [bf16; L]) -> Self::Single;
    /// A NaN whose low 16 bits are not 0 may become a number.
    fn narrow_bf16<const L: usize>(self, x: Self::Single) -> [bf16; L];

    /// Stores what is made of `from`, past the cache where the instruction set can and `to` is aligned for it.
    #[inline(always)]
    fn stream<T: Copy, U, const L: usize>(
        self,
        to: &mut [[T; L]],
        from: &[U],
        make: &mut impl Make<U, [T; L]>,
    ) {
        store(to, from, make);
    }

    /// Orders earlier [`stream`](Self::stream)s before what other threads are told.
    #[inline(always)]
    fn finish_streams(self) {}

    /// Runs a kernel as a function of its own: what is seldom needed, so that the rest has the registers.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;

    /// Asks for a line of memory that is needed soon; any address will do.
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}

/// Lanes of `f32` or `f64` in registers.
pub trait Vector<I, R>: Copy {
    fn splat(isa: I, x: R) -> Self;
    fn load<const L: usize>(isa: I, x: [R; L]) -> Self;
    fn store<const L: usize>(self) -> [R; L];
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// `self * a + b`, with one rounding where [`Isa::FUSED`].
    fn times_plus(self, a: Self, b: Self) -> Self;
    /// `self` where it is the higher, and so `other` where either is a NaN.
    fn or_higher(self, other: Self) -> Self;
    /// `self` where it is the lower, and so `other` where either is a NaN.
    fn or_lower(self, other: Self) -> Self;
    /// The bits of each lane shifted up by the width of the fraction: an exponent in the lowest bits becomes a power of 2.
    fn low_bits_to_exponent(self) -> Self;
    /// These lanes of `self`, the others of `other`.
    fn within(self, lanes: Range<usize>, other: Self) -> Self;
}

/// So many vectors are stored in one round of a loop.
const GROUP: usize = 4;

/// Stores what is made of `from`.
#[inline(always)]
pub(super) fn store<U, V>(to: &mut [V], from: &[U], make: &mut impl Make<U, V>) {
    let (groups, to) = to.as_chunks_mut::<GROUP>();
    let (from_groups, from) = from.as_chunks::<GROUP>();
    for (to, from) in groups.iter_mut().zip(from_groups) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = make.make(from);
        }
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = make.make(from);
    }
}

/// What [`store`] and [`Isa::stream`] store. A closure would be compiled without the instance's instructions wherever it is
/// not inlined.
pub trait Make<U, V> {
    /// Must be `inline(always)`.
    fn make(&mut self, from: &U) -> V;
}

/// Made already.
pub struct Made;

impl<V: Copy> Make<V, V> for Made {
    #[inline(always)]
    fn make(&mut self, from: &V) -> V {
        *from
    }
}

/// A part of the row routine, to be compiled for each instance.
pub trait Kernel {
    type Output;
    /// Must be `inline(always)`, and so must all that it calls in its loops: code takes the instance's instructions
    /// only where it is inlined into the instance.
    fn run<I: Isa, const L: usize>(self, isa: I) -> Self::Output;
}

/// An instance of the CPU path: the instruction set that its row routine is compiled for.
///
/// The best that the machine has is chosen once, at the first call. For tests, the environment variable `ALA_CPU`
/// (`baseline`, `avx2`, `avx512` or `neon`) chooses another; a name that is unknown, or that the machine does not
/// have, changes nothing: ask [`active`](Self::active) what runs. Instances agree within the accuracy that the README
/// states, not to the bit.
///
/// ```
/// use ala_loss::CpuInstance;
/// println!("the CPU path runs as {}", CpuInstance::active());
/// assert!(CpuInstance::available().any(|instance| instance == CpuInstance::active()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CpuInstance {
    /// What every processor of the target has (SSE2 on x86-64).
    Baseline,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL) with what [`Avx2`](Self::Avx2) has.
    Avx512,
    /// NEON, which every AArch64 processor has.
    Neon,
}

impl CpuInstance {
    /// From the plainest to the fastest.
    const ALL: [Self; 4] = [Self::Baseline, Self::Neon, Self::Avx2, Self::Avx512];

    /// The instance that the CPU path runs as, from the first call to the end of the process.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<CpuInstance> = OnceLock::new();
        *ACTIVE.get_or_init(|| Self::chosen(std::env::var("ALA_CPU").ok().as_deref()))
    }

    /// The instances that this machine has, the plainest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|instance| instance.detect())
    }

    /// The name that `ALA_CPU` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    fn chosen(wish: Option<&str>) -> Self {
        let best = Self::available().last().unwrap_or(Self::Baseline);
        Self::available()
            .find(|instance| Some(instance.name()) == wish)
            .unwrap_or(best)
    }

    fn detect(self) -> bool {
        match self {
            Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86_64::Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86_64::Avx512::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[allow(unreachable_patterns)] // The other targets' instances.
            _ => false,
        }
    }

    /// Runs a kernel; an instance that the machine does not have runs as the baseline.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                if let Some(isa) = x86_64::Avx2::detect() {
                    return isa.run(kernel);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                if let Some(isa) = x86_64::Avx512::detect() {
                    return isa.run(kernel);
                }
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => return aarch64::run(kernel),
            _ => {}
        }
        baseline::run(kernel)
    }
}

impl fmt::Display for CpuInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::CpuInstance;

    #[test]
    fn an_unknown_or_missing_instance_leaves_the_best() {
        let best = CpuInstance::available().last().expect("the baseline");
        for wish in [None, Some(""), Some("sse9"), Some("AVX2")] {
            assert_eq!(CpuInstance::chosen(wish), best, "{wish:?}");
        }
        for instance in CpuInstance::ALL {
            let chosen = CpuInstance::chosen(Some(instance.name()));
            let here = CpuInstance::available().any(|other| other == instance);
            assert_eq!(chosen, if here { instance } else { best });
        }
    }
}
