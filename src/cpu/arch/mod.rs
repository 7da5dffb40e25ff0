//! Instances of the row routine for instruction sets, and the choice of one at run time. All unsafe
//! code of the CPU path is in this folder.
//!
//! The routine is written once, over vectors ([`vector`]); an instance ([`isa`]) says what a vector
//! is and which instructions the compiler may use. Where it brings no vectors of its own they are
//! arrays, whose loops the compiler turns into vector code.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod baseline;
pub(super) mod isa;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable;
pub(super) mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::fmt;
use std::sync::OnceLock;

use isa::Kernel;

/// An instance of the CPU path: the instruction set that its row routine is compiled for.
///
/// The best that the machine has is chosen once, at the first call. For tests, the environment
/// variable `ALA_CPU` (`baseline`, `avx2`, `avx512` or `neon`) chooses another; a name that is
/// unknown, or that the machine does not have, changes nothing: ask [`active`](Self::active) what
/// runs. Instances agree within the accuracy that the README states, not to the bit.
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
