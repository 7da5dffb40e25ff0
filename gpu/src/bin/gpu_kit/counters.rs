//! What a launch costs: counted by hardware, read from what Nsight Compute prints, and counted by
//! softcuda.

use std::path::Path;

use ala_loss_gpu::Failure;
use ala_loss_gpu::batch::TierCase;
use ala_loss_gpu::record::{Counted, Record, Sink};
use ala_loss_gpu::sizes::Sizes;
use ala_loss_gpu::stages::{self, Bench};
use softcuda::client::SoftCuda;

const SECTOR: u64 = 32;

/// The driver in software, from beside the program.
pub(crate) fn load_software() -> Result<SoftCuda, Failure> {
    let library = SoftCuda::locate().ok_or("libsoftcuda.so is not beside this program")?;
    Ok(SoftCuda::load(&library)?)
}

/// Runs one launch of every kernel for one slope in softcuda and writes down what it counted.
pub(crate) fn count(bench: &mut Bench, soft: SoftCuda) -> Result<(), Failure> {
    let elements = bench.sizes.counted;
    soft.take_counters();
    stages::launches(bench, elements, false, |bench, mut counted| {
        counted.source = "softcuda".into();
        let launch = soft
            .last_launch()
            .ok_or("softcuda ran no kernel: another driver is loaded")?;
        if launch.kernel != counted.kernel {
            return Err(format!("{} ran instead of {}", launch.kernel, counted.kernel).into());
        }
        let counters = soft.take_counters();
        let requests = counters.global_load_requests + counters.global_store_requests;
        for (name, value) in [
            ("dram_bytes", counters.distinct_sectors * SECTOR),
            ("l2_sectors", requests),
            ("warp_instructions", counters.warp_instructions),
            ("lane_instructions", counters.lane_instructions),
            ("shared_wavefronts", counters.shared_wavefronts),
        ] {
            counted.counters.insert(name.into(), value as f64);
        }
        bench.sink.write(Record::Counted(counted))
    })
}

/// Names of the hardware's counters, and ours for those that softcuda has too.
const NAMES: [(&str, &str); 8] = [
    ("dram__bytes_read.sum", "dram_bytes_read"),
    ("dram__bytes_write.sum", "dram_bytes_written"),
    ("lts__t_sectors_op_read.sum", "l2_sectors_read"),
    ("lts__t_sectors_op_write.sum", "l2_sectors_written"),
    ("smsp__inst_executed.sum", "warp_instructions"),
    ("smsp__thread_inst_executed.sum", "lane_instructions"),
    (
        "sm__warps_active.avg.pct_of_peak_sustained_active",
        "occupancy_percent",
    ),
    ("gpu__time_duration.sum", "nanoseconds"),
];
/// Between these the hardware names why warps did not issue.
const STALL: (&str, &str) = (
    "smsp__average_warps_issue_stalled_",
    "_per_issue_active.ratio",
);

fn name_of(metric: &str) -> String {
    let stall = || {
        Some(format!(
            "stall_{}",
            metric.strip_prefix(STALL.0)?.strip_suffix(STALL.1)?
        ))
    };
    match NAMES.iter().find(|(theirs, _)| *theirs == metric) {
        Some((_, ours)) => (*ours).to_owned(),
        None => stall().unwrap_or_else(|| metric.to_owned()),
    }
}

/// Reads the output of `ncu --csv` and writes down what it counted of each kernel.
pub(crate) fn read(path: &Path, sizes: &Sizes, sink: &mut Sink) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let counted = parse(&text, sizes.watched)?;
    println!("{} kernels counted by hardware", counted.len());
    counted
        .into_iter()
        .try_for_each(|counted| sink.write(Record::Counted(counted)))
}

/// What of `ncu`'s output is about our kernels, as launched with about `elements` logits each.
fn parse(text: &str, elements: usize) -> Result<Vec<Counted>, Failure> {
    // Before the table come lines of the tool and of the program.
    let start = text
        .find("\"ID\",")
        .ok_or("there is no table in the output of ncu")?;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(&text.as_bytes()[start..]);
    let heads = reader.headers()?.clone();
    let column = |name: &str| {
        let at = heads.iter().position(|head| head == name);
        at.ok_or_else(|| format!("the table of ncu has no column {name:?}"))
    };
    let (kernel, metric, value) = (
        column("Kernel Name")?,
        column("Metric Name")?,
        column("Metric Value")?,
    );
    let known = known_kernels(elements);
    let mut all: Vec<Counted> = Vec::new();
    for row in reader.records() {
        let row = row?;
        let (Some(kernel), Some(metric), Some(value)) =
            (row.get(kernel), row.get(metric), row.get(value))
        else {
            continue;
        };
        // Thousands are set apart by commas; what is not to be had is no number.
        let (Some(kernel), Ok(value)) = (
            kernel.split('(').next(),
            value.replace(',', "").parse::<f64>(),
        ) else {
            continue;
        };
        let Some(counted) = known.iter().find(|counted| counted.kernel == kernel) else {
            continue;
        };
        let at = all
            .iter()
            .position(|counted| counted.kernel == kernel)
            .unwrap_or_else(|| {
                all.push(counted.clone());
                all.len() - 1
            });
        all[at].counters.insert(name_of(metric), value);
    }
    if all.is_empty() {
        return Err("ncu counted none of our kernels".into());
    }
    Ok(all)
}

/// Every kernel for one slope, with the batch that `launches` gives it.
fn known_kernels(elements: usize) -> Vec<Counted> {
    let cases = TierCase::all(elements).filter(|case| !case.per_class);
    let kernels = cases.flat_map(|case| case.kernels());
    kernels
        .map(|counted| Counted {
            source: "ncu".into(),
            ..counted
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Nsight Compute prints it with `--csv --metrics`, shortened.
    const PRINTED: &str = concat!(
        "==PROF== Connected to process 4242\n",
        "ala_packed_f32_uniform 4096 x 24\n",
        "==PROF== Profiling \"ala_packed_f32_uniform\": 0%....100% - 9 passes\n",
        r#""ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value""#,
        "\n",
        r#""0","4242","gpu-kit","127.0.0.1","ala_packed_f32_uniform(AlaParams)","1","13","(128, 1, 1)","(32, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","1,048,576""#,
        "\n",
        r#""0","4242","gpu-kit","127.0.0.1","ala_packed_f32_uniform(AlaParams)","1","13","(128, 1, 1)","(32, 1, 1)","0","9.0","Command line profiler metrics","smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio","inst","3.25""#,
        "\n",
        r#""0","4242","gpu-kit","127.0.0.1","ala_packed_f32_uniform(AlaParams)","1","13","(128, 1, 1)","(32, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_write.sum","byte","n/a""#,
        "\n",
        r#""1","4242","gpu-kit","127.0.0.1","somebody_elses()","1","13","(128, 1, 1)","(32, 1, 1)","0","9.0","Command line profiler metrics","dram__bytes_read.sum","byte","7""#,
        "\n",
    );

    #[test]
    fn counters_are_read_by_kernel_and_name() {
        let counted = parse(PRINTED, 1 << 20).expect("a table");
        let [counted] = &counted[..] else {
            panic!("{counted:?}")
        };
        assert_eq!(
            (counted.tier.as_str(), counted.dtype.as_str(), counted.c),
            ("packed", "f32", 24)
        );
        let counters: Vec<_> = counted
            .counters
            .iter()
            .map(|(name, &value)| (name.as_str(), value))
            .collect();
        assert_eq!(
            counters,
            [
                ("dram_bytes_read", 1_048_576.0),
                ("stall_long_scoreboard", 3.25)
            ]
        );
    }

    #[test]
    fn output_without_our_kernels_is_an_error() {
        assert!(parse("==ERROR== ERR_NVGPUCTRPERM", 1 << 20).is_err());
        let others = PRINTED.replace("ala_packed", "other_packed");
        assert!(parse(&others, 1 << 20).is_err());
    }
}
