//! A model of a step's time on a GPU, from its published figures: never a measurement.
//!
//! A step takes as long as DRAM needs to move its bytes, or as long as the SMs need to issue its
//! instructions, whichever is longer. The model knows no latency, no launch, no cache beyond the
//! counts, and takes a PTX instruction for one of the machine's; so it shows which of the two binds
//! and the least time, not what a clock would show.

/// Of every architecture here: an SM has four warp schedulers, which issue one instruction a clock
/// each.
const SCHEDULERS: f64 = 4.0;

/// Published figures of a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gpu {
    pub(crate) name: &'static str,
    /// DRAM bandwidth in bytes a second.
    pub(crate) bandwidth: f64,
    sms: f64,
    /// Boost clock in hertz.
    clock: f64,
}

pub(crate) const GPUS: [Gpu; 4] = [
    // NVIDIA A100 Tensor Core GPU data sheet (80 GB SXM: 2,039 GB/s); architecture white paper (108
    // SMs, 1,410 MHz).
    Gpu {
        name: "A100",
        bandwidth: 2.039e12,
        sms: 108.0,
        clock: 1.410e9,
    },
    // NVIDIA H100 data sheet (SXM: 3.35 TB/s; 67 TFLOPS of f32 are 132 SMs of 128 lanes at 1,980
    // MHz); architecture white paper (132 SMs).
    Gpu {
        name: "H100",
        bandwidth: 3.35e12,
        sms: 132.0,
        clock: 1.980e9,
    },
    // NVIDIA DGX B200 data sheet (8 GPUs: 64 TB/s). SMs and clock are those that agree with 75
    // TFLOPS of f32 a GPU, of the HGX B200 data sheet (148 SMs of 128 lanes at 1,980 MHz).
    Gpu {
        name: "B200",
        bandwidth: 8.0e12,
        sms: 148.0,
        clock: 1.980e9,
    },
    // NVIDIA Ada GPU architecture white paper (1,008 GB/s, 128 SMs, 2,520 MHz).
    Gpu {
        name: "RTX 4090",
        bandwidth: 1.008e12,
        sms: 128.0,
        clock: 2.520e9,
    },
];

/// What a step asks of a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Bytes between DRAM and the chip.
    pub(crate) bytes: f64,
    pub(crate) warp_instructions: f64,
}

impl Work {
    /// The same work `times` over.
    pub(crate) fn scaled(self, times: f64) -> Self {
        Self {
            bytes: self.bytes * times,
            warp_instructions: self.warp_instructions * times,
        }
    }

    /// Warp instructions for each byte moved.
    pub(crate) fn intensity(self) -> f64 {
        self.warp_instructions / self.bytes
    }
}

impl Gpu {
    /// Warp instructions a second.
    pub(crate) fn issue_rate(&self) -> f64 {
        self.sms * SCHEDULERS * self.clock
    }

    /// The model's time in seconds.
    pub(crate) fn seconds(&self, work: Work) -> f64 {
        (work.bytes / self.bandwidth).max(work.warp_instructions / self.issue_rate())
    }

    /// Whether instructions bind, not memory.
    pub(crate) fn is_bound_by_issue(&self, work: Work) -> bool {
        work.intensity() > self.ridge()
    }

    /// The intensity at which the roof bends.
    pub(crate) fn ridge(&self) -> f64 {
        self.issue_rate() / self.bandwidth
    }

    /// The roof: bytes a second at an intensity.
    pub(crate) fn roof(&self, intensity: f64) -> f64 {
        self.bandwidth.min(self.issue_rate() / intensity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> Gpu {
        GPUS.into_iter()
            .find(|gpu| gpu.name == name)
            .expect("in the table")
    }

    /// f32 operations a second are two for each lane of a warp and clock where an SM has 128 lanes.
    #[test]
    fn issue_rates_agree_with_published_flops() {
        for (name, teraflops) in [("H100", 66.9), ("B200", 75.0), ("RTX 4090", 82.6)] {
            let derived = gpu(name).issue_rate() * 32.0 * 2.0 / 1e12;
            assert!(
                (derived / teraflops - 1.0).abs() < 0.005,
                "{name}: {derived} TFLOPS"
            );
        }
        // The A100's SM has 64 lanes: half of what it issues.
        let derived = gpu("A100").issue_rate() * 32.0 / 1e12;
        assert!(
            (derived / 19.5 - 1.0).abs() < 0.005,
            "A100: {derived} TFLOPS"
        );
    }

    #[test]
    fn the_longer_of_both_times_counts() {
        let gpu = Gpu {
            name: "toy",
            bandwidth: 100.0,
            sms: 2.0,
            clock: 5.0,
        };
        assert_eq!(gpu.issue_rate(), 40.0);
        let memory = Work {
            bytes: 1000.0,
            warp_instructions: 40.0,
        };
        assert_eq!(
            (gpu.seconds(memory), gpu.is_bound_by_issue(memory)),
            (10.0, false)
        );
        let issue = Work {
            bytes: 100.0,
            warp_instructions: 80.0,
        };
        assert_eq!(
            (gpu.seconds(issue), gpu.is_bound_by_issue(issue)),
            (2.0, true)
        );
        assert_eq!(gpu.seconds(issue.scaled(3.0)), 6.0);
    }

    #[test]
    fn the_roof_bends_at_the_ridge() {
        for gpu in GPUS {
            let ridge = gpu.ridge();
            assert_eq!(gpu.roof(0.5 * ridge), gpu.bandwidth);
            assert!((gpu.roof(2.0 * ridge) / gpu.bandwidth - 0.5).abs() < 1e-12);
        }
    }
}
