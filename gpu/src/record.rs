//! What is written down: one JSON object a line, as it is measured, so that what was measured is
//! there even where the program is stopped. `gpu/run` writes the lines of its own in the same form.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::clock::Spread;

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The stage of the kit that wrote it.
    pub stage: String,
    /// Whether it comes of a dry run, in software: its times mean nothing.
    pub dry: bool,
    /// What it says.
    #[serde(flatten)]
    pub record: Record,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// The device that everything else was measured on.
    Device(Device),
    /// What `nvidia-smi` says, a field each.
    Smi(serde_json::Map<String, serde_json::Value>),
    /// A copy of so many bytes, by the copy kernel or by the driver, L2 cold.
    Bandwidth(Bandwidth),
    /// From binding the first loss of a process to its first step's result, in milliseconds.
    FirstStep {
        /// Opening the context.
        context_ms: f64,
        /// Loading the kernels and uploading the table.
        bind_ms: f64,
        /// The first launch and its result.
        step_ms: f64,
    },
    /// The outcome of one test.
    Test(Outcome),
    /// Whether a step's bits are the same from run to run.
    Repeat(Repeat),
    /// What one tool of compute-sanitizer found in one program.
    Sanitizer(Outcome),
    /// The time of a step, or of what it stands beside.
    Time(Time),
    /// The time of a step in a launch shape of one's own.
    Tier(Tier),
    /// What one launch cost, counted by hardware or by softcuda.
    Counted(Counted),
    /// The machine that the peers ran on.
    Machine(serde_json::Map<String, serde_json::Value>),
    /// A peer's time; written by `peers.py`.
    Peer(Peer),
    /// What was not measured, and why.
    LeftOut {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// How a stage ended; the last line of each.
    Stage(Outcome),
}

/// A device's figures, as the driver gives them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Compute capability, as in 9.0.
    pub capability: String,
    /// The CUDA version that the driver supports, 13000 for 13.0.
    pub driver: i32,
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// The highest clock of the multiprocessors, in MHz.
    pub clock_mhz: f64,
    /// The highest clock of the memory, in MHz.
    pub memory_clock_mhz: f64,
    /// Width of the memory's bus.
    pub memory_bus_bits: i32,
    /// Bytes of L2.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
}

/// See [`Record::Bandwidth`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What copied.
    pub op: Op,
    /// Bytes read, and as many written.
    pub bytes: u64,
    /// Its time in microseconds.
    pub device_us: Spread,
    /// Bytes read and written a second, by the median, in 10^9.
    pub gb_s: f64,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the test, the tool or the stage.
    pub name: String,
    /// `ok`, `failed`, `timed out` or `skipped`.
    pub outcome: String,
    /// Why, where it did not pass.
    #[serde(default)]
    pub reason: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// See [`Record::Repeat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// The tier that ran.
    pub tier: String,
    /// Type of the logits.
    pub dtype: String,
    /// Whether each class had a map of its own.
    pub per_class: bool,
    /// Whether it was the kernel of recipes. Older records have none.
    #[serde(default)]
    pub recipe: bool,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// How often it ran.
    pub repeats: usize,
    /// What differed from the first run, empty where nothing did.
    pub differed: Vec<String>,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Loss and gradient, fused.
    Fused,
    /// The same, each launch of which may begin while the one before it ends.
    Overlapped,
    /// The same with a second label for each row, as mixup has it.
    Mixed,
    /// The same with smoothed labels.
    Smoothed,
    /// The same by the baseline of one kernel an operation.
    Unfused,
    /// A copy of the logits by the copy kernel.
    Copy,
    /// The same by the driver.
    DriverCopy,
    /// A kernel that does nothing.
    Empty,
}

/// Which of the two kinds of batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Far beyond L2: what memory decides.
    Large,
    /// A training step's: what latency decides.
    Small,
}

/// See [`Record::Time`]. Microseconds a step throughout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// What was timed.
    pub op: Op,
    /// Large or small.
    pub batch: Kind,
    /// Type of the logits.
    pub dtype: String,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// Bytes that a step moves at least; of a copy those that it moves, of an empty kernel 0.
    pub bytes: u64,
    /// On the device, between two events around it; of a small batch, around many plain launches in
    /// a row.
    pub device_us: Spread,
    /// On the device, in a graph of many steps; small batches only.
    #[serde(default)]
    pub graph_us: Option<Spread>,
    /// Of the call on the host; small batches only.
    #[serde(default)]
    pub host_us: Option<Spread>,
}

/// See [`Record::Tier`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Large or small.
    pub batch: Kind,
    /// Type of the logits.
    pub dtype: String,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// The kernel.
    pub tier: String,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks for each multiprocessor, at most.
    pub blocks_per_multiprocessor: u32,
    /// Blocks that share a row.
    pub parts: u32,
    /// Whether it is the crate's own choice.
    pub own: bool,
    /// Of the first run, by which those that are far behind are left out.
    pub first_us: f64,
    /// Of the others, where it was not left out.
    #[serde(default)]
    pub device_us: Option<Spread>,
}

/// See [`Record::Counted`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// `ncu` or `softcuda`.
    pub source: String,
    /// The kernel.
    pub kernel: String,
    /// The tier.
    pub tier: String,
    /// Type of the logits.
    pub dtype: String,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// Bytes that a step moves at least.
    pub least_bytes: u64,
    /// What was counted, by the counter's name.
    pub counters: std::collections::BTreeMap<String, f64>,
}

/// See [`Record::Peer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Which op.
    pub op: String,
    /// `ALA`, `CE` or `copy`.
    pub family: String,
    /// Large or small.
    pub batch: Kind,
    /// Type of the logits.
    pub dtype: String,
    /// Rows.
    pub n: usize,
    /// Classes.
    pub c: usize,
    /// `ok`, `refused`, `absent`, `wrong` or `failed`.
    pub status: String,
    /// Why it is not `ok`.
    #[serde(default)]
    pub reason: Option<String>,
    /// Bytes that such a step moves at least.
    pub bytes: u64,
    /// On the device.
    #[serde(default)]
    pub device_us: Option<Spread>,
    /// On the device, in a graph of many steps.
    #[serde(default)]
    pub graph_us: Option<Spread>,
    /// Of the call on the host.
    #[serde(default)]
    pub host_us: Option<Spread>,
    /// Relative to float64.
    #[serde(default)]
    pub loss_error: Option<f64>,
    /// Relative to float64, by norms.
    #[serde(default)]
    pub gradient_error: Option<f64>,
}

/// Where the lines of a stage go.
#[derive(Debug)]
pub struct Sink {
    file: Option<File>,
    stage: String,
    dry: bool,
}

impl Sink {
    /// Appends to `file`; nothing is written where there is none.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn new(file: Option<&Path>, stage: &str, dry: bool) -> Result<Self, Failure> {
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        Ok(Self {
            file: file.map(open).transpose()?,
            stage: stage.to_owned(),
            dry,
        })
    }

    /// Writes a line, at once and whole.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&mut self, record: Record) -> Result<(), Failure> {
        let line = Line {
            stage: self.stage.clone(),
            dry: self.dry,
            record,
        };
        if let Some(file) = &mut self.file {
            let mut text = serde_json::to_string(&line)?;
            text.push('\n');
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }
}

/// The lines of a file. The last may have been cut off where its writer was stopped, and is then
/// left out.
///
/// # Errors
/// Names the line that is none.
pub fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let whole = text.ends_with('\n');
    let count = text.lines().count();
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) if number + 1 == count && !whole => {}
            Err(error) => {
                return Err(format!("{}, line {}: {error}", path.display(), number + 1).into());
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> Record {
        Record::Time(Time {
            op: Op::DriverCopy,
            batch: Kind::Large,
            dtype: "f32".into(),
            n: 3,
            c: 5,
            bytes: 60,
            device_us: Spread::of(&[2.0, 1.0, 3.0]),
            graph_us: None,
            host_us: None,
        })
    }

    #[test]
    fn a_line_is_what_the_kit_documents() {
        let line = Line {
            stage: "times".into(),
            dry: true,
            record: time(),
        };
        let text = serde_json::to_string(&line).expect("plain data");
        for part in [
            r#""stage":"times""#,
            r#""dry":true"#,
            r#""kind":"time""#,
            r#""op":"driver_copy""#,
            r#""median":2.0"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(serde_json::from_str::<Line>(&text).expect("its own"), line);
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out_and_a_broken_one_named() {
        let folder = std::env::temp_dir().join(format!("ala-loss-record-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("times.jsonl");
        let mut sink = Sink::new(Some(&path), "times", true).expect("a file");
        sink.write(time()).expect("written");
        sink.write(time()).expect("written");
        let text = std::fs::read_to_string(&path).expect("written");
        std::fs::write(&path, &text[..text.len() - 9]).expect("written");
        assert_eq!(read(&path).expect("one line is whole").len(), 1);
        std::fs::write(&path, format!("{{}}\n{text}")).expect("written");
        let error = read(&path).expect_err("the first is none").to_string();
        assert!(error.contains("line 1"), "{error}");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
