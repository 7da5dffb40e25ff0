//! What the hardware counted, and what softcuda did.

use ala_loss_gpu::record::{Counted, Line};

use super::{of_kind, place};

/// One kernel by both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel<'a> {
    hardware: Option<&'a Counted>,
    software: Option<&'a Counted>,
    either: &'a Counted,
}

/// The kernels by tier, in the order in which they ran, and type.
pub(crate) fn kernels(lines: &[Line]) -> Vec<Kernel<'_>> {
    let all: Vec<&Counted> = of_kind!(lines, Counted).collect();
    let mut tiers: Vec<&str> = Vec::new();
    for counted in &all {
        if !tiers.contains(&counted.tier.as_str()) {
            tiers.push(&counted.tier);
        }
    }
    let mut kernels: Vec<Kernel> = Vec::new();
    for either in &all {
        let by = |source: &str| {
            let mut same = all.iter().filter(|counted| counted.kernel == either.kernel);
            same.rfind(|counted| counted.source == source).copied()
        };
        if kernels
            .iter()
            .all(|kernel| kernel.either.kernel != either.kernel)
        {
            let (hardware, software) = (by("ncu"), by("softcuda"));
            kernels.push(Kernel {
                hardware,
                software,
                either,
            });
        }
    }
    let tier = |name: &str| tiers.iter().position(|tier| *tier == name);
    kernels.sort_by_key(|kernel| (tier(kernel.tier()), place(kernel.dtype())));
    kernels
}

fn get(counted: Option<&Counted>, name: &str) -> Option<f64> {
    counted?.counters.get(name).copied()
}

fn an_element(counted: Option<&Counted>, name: &str) -> Option<f64> {
    let elements = (counted?.n * counted?.c) as f64;
    Some(get(counted, name)? / elements)
}

fn against_least(counted: Option<&Counted>, bytes: Option<f64>) -> Option<f64> {
    Some(bytes? / counted?.least_bytes as f64)
}

impl<'a> Kernel<'a> {
    pub(crate) fn tier(&self) -> &'a str {
        &self.either.tier
    }

    pub(crate) fn dtype(&self) -> &'a str {
        &self.either.dtype
    }

    /// Bytes that the hardware's DRAM read and wrote, over the least.
    pub(crate) fn dram_of_hardware(&self) -> Option<f64> {
        let bytes = |name| get(self.hardware, name);
        let both = bytes("dram_bytes_read").zip(bytes("dram_bytes_written"));
        against_least(self.hardware, both.map(|(read, written)| read + written))
    }

    /// Bytes of the sectors that softcuda saw touched, over the least.
    pub(crate) fn dram_of_software(&self) -> Option<f64> {
        against_least(self.software, get(self.software, "dram_bytes"))
    }

    /// The hardware's bytes over softcuda's, each against the least of its own batch.
    pub(crate) fn hardware_over_software(&self) -> Option<f64> {
        Some(self.dram_of_hardware()? / self.dram_of_software()?)
    }

    /// Lanes' instructions an element, by the hardware and by softcuda.
    pub(crate) fn instructions(&self) -> [Option<f64>; 2] {
        [self.hardware, self.software].map(|counted| an_element(counted, "lane_instructions"))
    }

    /// Warps that were active, in per cent of the most.
    pub(crate) fn occupancy(&self) -> Option<f64> {
        get(self.hardware, "occupancy_percent")
    }

    /// The two reasons for which warps waited the longest, in warps for each that issued.
    pub(crate) fn stalls(&self) -> Vec<(&'a str, f64)> {
        let counters = self
            .hardware
            .into_iter()
            .flat_map(|counted| &counted.counters);
        let mut stalls: Vec<_> = counters
            .filter_map(|(name, &warps)| Some((name.strip_prefix("stall_")?, warps)))
            .collect();
        stalls.sort_by(|a, b| b.1.total_cmp(&a.1));
        stalls.truncate(2);
        stalls
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::counted;
    use super::*;

    #[test]
    fn both_counts_are_held_against_their_own_least() {
        let lines = [
            counted(
                "softcuda",
                100,
                &[("dram_bytes", 110.0), ("lane_instructions", 1500.0)],
            ),
            counted(
                "ncu",
                1000,
                &[
                    ("dram_bytes_read", 700.0),
                    ("dram_bytes_written", 510.0),
                    ("lane_instructions", 1600.0),
                    ("occupancy_percent", 71.0),
                    ("stall_barrier", 0.5),
                    ("stall_wait", 2.0),
                    ("stall_long_scoreboard", 9.0),
                ],
            ),
        ];
        let kernels = kernels(&lines);
        let [kernel] = &kernels[..] else {
            panic!("{kernels:?}")
        };
        assert_eq!(kernel.dram_of_hardware(), Some(1.21));
        assert_eq!(kernel.dram_of_software(), Some(1.1));
        let ratio = kernel.hardware_over_software().expect("both");
        assert!((ratio - 1.1).abs() < 1e-9, "{ratio}");
        assert_eq!(kernel.instructions(), [Some(16.0), Some(15.0)]);
        assert_eq!(kernel.stalls(), [("long_scoreboard", 9.0), ("wait", 2.0)]);
        assert_eq!(kernel.occupancy(), Some(71.0));
    }

    #[test]
    fn what_was_not_counted_is_none() {
        let lines = [counted("ncu", 1000, &[("dram_bytes_read", 700.0)])];
        let kernel = kernels(&lines)[0];
        assert_eq!(kernel.dram_of_hardware(), None, "half of it is not all");
        assert_eq!(kernel.dram_of_software(), None);
        assert!(kernel.stalls().is_empty());
    }
}
