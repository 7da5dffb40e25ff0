//! What the report says of a case.

use ala_loss::cuda::instruments::{Instruments, TIERS};
use serde::Serialize;
use softcuda::client::SoftCuda;
use softcuda::device::{SECTOR, Sm};
use softcuda::occupancy::Block;
use softcuda::ptxas::Usage;

use crate::case::{Case, Counted, Failure, Path, count};
use crate::model::Work;

/// The architecture whose registers and occupancy are reported, as ptxas and as a capability.
const ARCHITECTURE: (&str, u32) = ("sm_90", 90);

/// One object of the JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) tier: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) n: usize,
    pub(crate) c: usize,
    /// Whether logits and gradient start at 16 bytes, or one element behind that.
    pub(crate) aligned: bool,
    pub(crate) launches: u64,
    /// 32-byte sectors that DRAM moves at least.
    pub(crate) distinct_sectors: u64,
    /// The fewest that any kernel can.
    pub(crate) min_sectors: u64,
    /// Sectors that loads and stores ask of L2.
    pub(crate) sector_requests: u64,
    pub(crate) lane_instructions_per_element: f64,
    pub(crate) shared_wavefronts: u64,
    pub(crate) barriers: u64,
    pub(crate) shuffles: u64,
    pub(crate) registers: u32,
    pub(crate) spill_bytes: u32,
    /// Of a block, static and dynamic.
    pub(crate) shared_bytes: u32,
    /// Between 0 and 1, of what an SM of an H100 holds.
    pub(crate) occupancy: f64,
    pub(crate) unfused_launches: u64,
    pub(crate) unfused_sectors: u64,
    /// By softcuda's latencies, the longest chain of dependent operations of the tier's launch: to
    /// where the last gradient's store begins, and to its end; and the round trips to global memory
    /// on it. None where blocks wait for one another.
    pub(crate) cycles_to_gradient: Option<u64>,
    pub(crate) round_trips_to_gradient: Option<u64>,
    pub(crate) cycles_to_end: Option<u64>,
    pub(crate) round_trips_to_end: Option<u64>,
    #[serde(skip)]
    pub(crate) warp_instructions: u64,
}

impl Row {
    /// Runs and counts a case on softcuda's device; `usages` are ptxas' figures of the same build.
    pub(crate) fn of(
        instruments: &Instruments,
        soft: SoftCuda,
        usages: &[Usage],
        case: Case,
    ) -> Result<Self, Failure> {
        let fused = count(instruments, soft, case, Path::Fused)?;
        let unfused = count(instruments, soft, case, Path::Unfused)?;
        Self::new(case, &fused, &unfused, usages)
    }

    fn new(
        case: Case,
        fused: &Counted,
        unfused: &Counted,
        usages: &[Usage],
    ) -> Result<Self, Failure> {
        let (architecture, capability) = ARCHITECTURE;
        let kernel = &fused.launch.kernel;
        let tier = TIERS
            .iter()
            .find(|tier| *kernel == format!("ala_{}_{}_uniform", tier.name, case.dtype.name()))
            .ok_or_else(|| {
                format!("the step ended with {kernel}, which is the kernel of no tier")
            })?;
        let usage = usages
            .iter()
            .find(|usage| usage.kernel == *kernel && usage.architecture == architecture)
            .ok_or_else(|| {
                format!("{kernel} was not compiled for {architecture}: ALA_CUDA_ARCHS must name it")
            })?;
        let sm =
            Sm::of(capability).ok_or_else(|| format!("no limits of {architecture} are known"))?;
        let block = Block {
            threads: fused.launch.block.iter().product(),
            registers: usage.registers,
            shared: usage.smem + fused.launch.dynamic_shared,
        };
        let counters = fused.counters;
        Ok(Self {
            tier: tier.name,
            dtype: case.dtype.name(),
            n: case.rows,
            c: case.classes,
            aligned: case.aligned,
            launches: counters.launches,
            distinct_sectors: counters.distinct_sectors,
            min_sectors: fused.least_sectors,
            sector_requests: fused.requests(),
            lane_instructions_per_element: counters.lane_instructions as f64
                / case.elements() as f64,
            shared_wavefronts: counters.shared_wavefronts,
            barriers: counters.barriers,
            shuffles: counters.shuffles,
            registers: usage.registers,
            spill_bytes: usage.spills,
            shared_bytes: block.shared,
            occupancy: sm.occupancy(block),
            unfused_launches: unfused.counters.launches,
            unfused_sectors: unfused.counters.distinct_sectors,
            cycles_to_gradient: fused.waits.map(|waits| waits.to_gradient.cycles),
            round_trips_to_gradient: fused.waits.map(|waits| waits.to_gradient.trips),
            cycles_to_end: fused.waits.map(|waits| waits.to_end.cycles),
            round_trips_to_end: fused.waits.map(|waits| waits.to_end.trips),
            warp_instructions: counters.warp_instructions,
        })
    }

    /// Sectors as a multiple of the least.
    pub(crate) fn against_least(&self, sectors: u64) -> f64 {
        sectors as f64 / self.min_sectors as f64
    }

    /// What the fused step asks of a GPU, for each element.
    pub(crate) fn work_an_element(&self) -> Work {
        Work {
            bytes: (self.distinct_sectors * SECTOR) as f64,
            warp_instructions: self.warp_instructions as f64,
        }
        .scaled(1.0 / (self.n as f64 * self.c as f64))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use crate::case::{Dtype, Waits};
    use softcuda::client::Launch;
    use softcuda::counters::Counters;
    use softcuda::exec::Reach;

    const CASE: Case = Case {
        dtype: Dtype::Bf16,
        rows: 8,
        classes: 1000,
        aligned: false,
    };

    fn counted(kernel: &str, sectors: u64) -> Counted {
        Counted {
            counters: Counters {
                launches: 1,
                distinct_sectors: sectors,
                global_load_requests: 700,
                global_store_requests: 500,
                lane_instructions: 96_000,
                warp_instructions: 3_000,
                ..Counters::default()
            },
            least_sectors: 1000,
            launch: Launch {
                kernel: kernel.into(),
                grid: [8, 1, 1],
                block: [128, 1, 1],
                dynamic_shared: 1024,
                overlaps: false,
            },
            waits: Some(Waits {
                to_gradient: Reach {
                    cycles: 2100,
                    global: 944,
                    trips: 2,
                },
                to_end: Reach {
                    cycles: 4500,
                    global: 2250,
                    trips: 6,
                },
            }),
        }
    }

    fn usage(kernel: &str, architecture: &str) -> Usage {
        let (kernel, architecture) = (kernel.into(), architecture.into());
        Usage {
            kernel,
            architecture,
            registers: 40,
            stack: 0,
            spills: 0,
            smem: 512,
        }
    }

    fn kernel() -> String {
        format!("ala_{}_bf16_uniform", TIERS[0].name)
    }

    pub(crate) fn row() -> Row {
        let usages = [usage(&kernel(), "sm_80"), usage(&kernel(), "sm_90")];
        Row::new(
            CASE,
            &counted(&kernel(), 1010),
            &counted("ala_unfused_reduce", 5000),
            &usages,
        )
        .expect("all is there")
    }

    #[test]
    fn counts_and_figures_go_where_they_belong() {
        let row = row();
        assert_eq!(
            (row.tier, row.registers, row.shared_bytes),
            (TIERS[0].name, 40, 1536)
        );
        assert_eq!(
            (row.sector_requests, row.lane_instructions_per_element),
            (1200, 12.0)
        );
        // 40 registers are 5 units of 256 a warp, so 48 warps of 64.
        assert_eq!(row.occupancy, 0.75);
        assert_eq!(row.against_least(row.distinct_sectors), 1.01);
        assert_eq!(row.work_an_element().warp_instructions, 0.375);
        assert_eq!(row.work_an_element().bytes, 4.04);
    }

    #[test]
    fn json_has_exactly_the_documented_keys() {
        let json = serde_json::to_value(row()).expect("plain numbers");
        let mut keys: Vec<&str> = json
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = [
            "tier",
            "dtype",
            "n",
            "c",
            "aligned",
            "launches",
            "distinct_sectors",
            "min_sectors",
            "sector_requests",
            "lane_instructions_per_element",
            "shared_wavefronts",
            "barriers",
            "shuffles",
            "registers",
            "spill_bytes",
            "shared_bytes",
            "occupancy",
            "unfused_launches",
            "unfused_sectors",
            "cycles_to_gradient",
            "round_trips_to_gradient",
            "cycles_to_end",
            "round_trips_to_end",
        ];
        // The order is serde_json's choice.
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let failure = |kernel: &str, usages: &[Usage]| {
            let failed = Row::new(
                CASE,
                &counted(kernel, 1),
                &counted("ala_unfused_reduce", 1),
                usages,
            );
            failed.expect_err("something is missing").to_string()
        };
        let text = failure("ala_other_bf16_uniform", &[]);
        assert!(text.contains("ala_other_bf16_uniform"), "{text}");
        let text = failure(&kernel(), &[usage(&kernel(), "sm_80")]);
        assert!(
            text.contains("sm_90") && text.contains("ALA_CUDA_ARCHS"),
            "{text}"
        );
    }
}
