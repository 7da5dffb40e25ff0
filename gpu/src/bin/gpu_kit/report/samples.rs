//! Handmade records for tests.

use std::path::{Path, PathBuf};

use ala_loss_gpu::clock::Spread;
use ala_loss_gpu::record::{Counted, Device, Kind, Line, Op, Outcome, Peer, Record, Tier, Time};

pub(crate) fn line(stage: &str, record: Record) -> Line {
    Line {
        stage: stage.into(),
        dry: false,
        record,
    }
}

pub(crate) fn device(name: &str) -> Record {
    Record::Device(Device {
        name: name.into(),
        ..Device::default()
    })
}

pub(crate) fn outcome(name: &str, outcome: &str) -> Outcome {
    Outcome {
        name: name.into(),
        outcome: outcome.into(),
        reason: None,
        seconds: Some(1.5),
    }
}

/// A median with a tenth less and a tenth more on its sides.
pub(crate) fn about(median: f64) -> Spread {
    Spread {
        median,
        p10: 0.9 * median,
        p90: 1.1 * median,
        count: 21,
    }
}

/// Times of a large batch: fused, unfused and the copy. A step moves as many bytes as a copy, so
/// that rates are as times.
pub(crate) fn large(dtype: &str, c: usize, n: usize, us: [f64; 3]) -> Vec<Line> {
    let ops = [Op::Fused, Op::Unfused, Op::Copy];
    let time = |(op, us)| Time {
        op,
        batch: Kind::Large,
        dtype: dtype.into(),
        n,
        c,
        bytes: 8 * (n * c) as u64,
        device_us: about(us),
        graph_us: None,
        host_us: None,
    };
    let times = ops.into_iter().zip(us).map(time);
    times
        .map(|time| line("times", Record::Time(time)))
        .collect()
}

/// Times of a small batch in a graph: fused, empty and the copy. Plain launches take twice that.
pub(crate) fn small(dtype: &str, n: usize, c: usize, us: [f64; 3]) -> Vec<Line> {
    let ops = [Op::Fused, Op::Empty, Op::Copy];
    let time = |(op, us)| Time {
        op,
        batch: Kind::Small,
        dtype: dtype.into(),
        n,
        c,
        bytes: 8,
        device_us: about(2.0 * us),
        graph_us: Some(about(us)),
        host_us: Some(about(1.0)),
    };
    let times = ops.into_iter().zip(us).map(time);
    times
        .map(|time| line("times", Record::Time(time)))
        .collect()
}

pub(crate) fn tier(c: usize, tier: &str, threads: u32, own: bool, us: f64) -> Line {
    let tier = Tier {
        batch: Kind::Large,
        dtype: "f32".into(),
        n: 100,
        c,
        tier: tier.into(),
        threads,
        blocks_per_multiprocessor: 2,
        parts: 1,
        own,
        first_us: us,
        device_us: Some(about(us)),
    };
    line("tiers", Record::Tier(tier))
}

pub(crate) fn peer(op: &str, c: usize, us: Option<f64>) -> Line {
    let family = ["ALA", "CE", "copy"];
    let family = family
        .into_iter()
        .find(|family| op.contains(family))
        .unwrap_or("CE");
    let peer = Peer {
        op: op.into(),
        family: family.into(),
        batch: Kind::Large,
        dtype: "f32".into(),
        n: 100,
        c,
        status: if us.is_some() { "ok" } else { "refused" }.into(),
        reason: us.is_none().then(|| "too many classes".into()),
        bytes: 1000,
        device_us: us.map(about),
        graph_us: None,
        host_us: None,
        loss_error: None,
        gradient_error: None,
    };
    line("peers", Record::Peer(peer))
}

pub(crate) fn counted(source: &str, least_bytes: u64, counters: &[(&str, f64)]) -> Line {
    let counted = Counted {
        source: source.into(),
        kernel: "ala_packed_f32_uniform".into(),
        tier: "packed".into(),
        dtype: "f32".into(),
        n: 10,
        c: 10,
        least_bytes,
        counters: counters
            .iter()
            .map(|&(name, value)| (name.into(), value))
            .collect(),
    };
    line("counters", Record::Counted(counted))
}

/// A folder that is gone with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("ala-loss-report-{}-{test}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A folder of such records, a file a stage.
    pub(crate) fn folder(&self, name: &str, lines: &[Line]) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).expect("a writable folder");
        for line in lines {
            append(&folder.join(format!("{}.jsonl", line.stage)), line);
        }
        folder
    }
}

fn append(path: &Path, line: &Line) {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    text.push_str(&serde_json::to_string(line).expect("plain data"));
    text.push('\n');
    std::fs::write(path, text).expect("a writable folder");
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
