//! A folder of records, as `gpu/run` leaves it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ala_loss_gpu::Failure;
use ala_loss_gpu::record::{self, Device, Line, Record};
use serde_json::{Map, Value, json};

use super::figures::{STAGES, of_kind};

/// The name of the device in software.
const SOFTWARE: &str = "softcuda";

/// What is in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Of each stage the last run, in the order of the stages.
    pub(crate) lines: Vec<Line>,
    /// Why a file could not be read.
    pub(crate) unreadable: Vec<String>,
    /// A file with a line of a dry run or of the device in software.
    dry: Option<PathBuf>,
    /// When the newest file was last written.
    newest: SystemTime,
}

impl Folder {
    /// Reads all `*.jsonl` of it. A file that cannot be read is set down as such.
    ///
    /// # Errors
    /// Where there is no such folder.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let cannot = |error| format!("cannot read the folder {}: {error}", path.display());
        let mut folder = Self {
            path: path.into(),
            lines: Vec::new(),
            unreadable: Vec::new(),
            dry: None,
            newest: UNIX_EPOCH,
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            if file
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            folder.add(file);
        }
        folder.lines = last_runs(std::mem::take(&mut folder.lines));
        Ok(folder)
    }

    fn add(&mut self, file: PathBuf) {
        if let Ok(modified) = file.metadata().and_then(|data| data.modified()) {
            self.newest = self.newest.max(modified);
        }
        match record::read(&file) {
            Ok(lines) => {
                let software = |line: &Line| matches!(&line.record, Record::Device(device) if device.name == SOFTWARE);
                if self.dry.is_none() && lines.iter().any(|line| line.dry || software(line)) {
                    self.dry = Some(file);
                }
                self.lines.extend(lines);
            }
            Err(error) => self.unreadable.push(error.to_string()),
        }
    }

    /// Whether any of it comes of a dry run or of the device in software.
    pub(crate) fn is_dry(&self) -> bool {
        self.dry.is_some()
    }

    /// The device that it was measured on.
    pub(crate) fn device(&self) -> Option<&Device> {
        of_kind!(&self.lines, Device).next_back()
    }

    /// Whether a page may be made of it.
    ///
    /// # Errors
    /// Says what is in the way, and what to do.
    pub(crate) fn check(&self, dry: bool) -> Result<(), Failure> {
        if let Some(error) = self.unreadable.first() {
            return Err(format!("{error}; mend or remove that file").into());
        }
        if let (Some(file), false) = (&self.dry, dry) {
            let file = file.display();
            return Err(format!(
                "{file} is of a dry run or of {SOFTWARE}, which measure nothing: run gpu/run on a GPU without --dry, \
                 or give --dry for a page that says so"
            )
            .into());
        }
        if self.device().is_none() {
            let folder = self.path.display();
            return Err(format!(
                "{folder} does not name its device: on the same machine run gpu/run with the stage facts into it"
            )
            .into());
        }
        Ok(())
    }

    /// The device's name, as part of a file's.
    pub(crate) fn slug(&self) -> String {
        let name = self.device().map_or("unknown", |device| &device.name);
        let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        words.join("-").to_ascii_lowercase()
    }

    /// The day on which the newest file was written, in UTC.
    pub(crate) fn date(&self) -> String {
        let seconds = self.newest.duration_since(UNIX_EPOCH);
        date(seconds.map_or(0, |since| since.as_secs()))
    }

    /// All records by stage and kind: the names of their fields once, then a record a line. Times
    /// are arrays.
    ///
    /// # Errors
    /// Where a record is no JSON.
    pub(crate) fn json(&self, dry: bool) -> Result<String, Failure> {
        let dry = dry || self.is_dry();
        let date = self.date();
        let mut text = format!(
            "{{\"date\":{},\"dry\":{dry},\"times\":{}",
            json!(date),
            json!(SPREAD)
        );
        text += ",\n\"stages\":{";
        for (index, stage) in self.lines.chunk_by(|a, b| a.stage == b.stage).enumerate() {
            text += if index == 0 { "\n" } else { ",\n" };
            text += &format!("{}:{{", json!(stage[0].stage));
            text += &kinds(stage)?;
            text.push('}');
        }
        text += "}}\n";
        Ok(text)
    }
}

/// What a time consists of.
const SPREAD: [&str; 4] = ["median", "p10", "p90", "count"];

/// Records of a stage, by their kind.
fn kinds(stage: &[Line]) -> Result<String, Failure> {
    let mut kinds: BTreeMap<String, Vec<Map<String, Value>>> = BTreeMap::new();
    for line in stage {
        if let Value::Object(mut fields) = shortened(serde_json::to_value(&line.record)?) {
            let kind = fields.remove("kind");
            let kind = kind.as_ref().and_then(Value::as_str).unwrap_or_default();
            kinds.entry(kind.to_owned()).or_default().push(fields);
        }
    }
    let tables = kinds.iter().map(|(kind, records)| {
        let names: BTreeSet<&String> = records.iter().flat_map(Map::keys).collect();
        let rows = records.iter().map(|record| {
            let cells = names
                .iter()
                .map(|name| record.get(*name).unwrap_or(&Value::Null));
            json!(cells.collect::<Vec<_>>()).to_string()
        });
        let rows: Vec<_> = rows.collect();
        format!(
            "\n{}:{{\"fields\":{},\"rows\":[\n{}]}}",
            json!(kind),
            json!(names),
            rows.join(",\n")
        )
    });
    Ok(tables.collect::<Vec<_>>().join(","))
}

/// In the order of the stages; where a stage was run again, what it wrote before is left out.
fn last_runs(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|line| (place(&line.stage), line.stage.clone()));
    let runs = lines.chunk_by(|a, b| a.stage == b.stage).flat_map(|stage| {
        let ended = |line: &Line| matches!(line.record, Record::Stage(_));
        let before = stage.len().saturating_sub(1);
        let start = stage[..before]
            .iter()
            .rposition(ended)
            .map_or(0, |end| end + 1);
        &stage[start..]
    });
    runs.cloned().collect()
}

fn place(stage: &str) -> usize {
    STAGES
        .iter()
        .position(|known| *known == stage)
        .unwrap_or(STAGES.len())
}

/// Without what is null, times as arrays, and with five digits: more are noise.
fn shortened(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let parts: Option<Vec<_>> = SPREAD.iter().map(|name| fields.get(*name)).collect();
            if let (Some(parts), true) = (parts, fields.len() == SPREAD.len()) {
                return shortened(json!(parts));
            }
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                fields
                    .map(|(name, value)| (name, shortened(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.into_iter().map(shortened).collect()),
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().map(|number| format!("{number:.4e}"));
            let rounded = rounded.and_then(|text| text.parse::<f64>().ok());
            rounded.map_or(Value::Null, |rounded| json!(rounded))
        }
        other => other,
    }
}

/// The day of so many seconds after 1970-01-01, in the Gregorian calendar.
fn date(seconds: u64) -> String {
    // Years begin in March here, so that a leap day is a year's last; eras of 400 years are all
    // alike.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (400 * era + year, month + 3),
        _ => (400 * era + year + 1, month - 9),
    };
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Scratch, device, large, line, outcome};
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_735_603_200, "2024-12-31"),
            (1_767_225_599, "2025-12-31"),
            (1_767_225_600, "2026-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn of_a_stage_that_was_run_again_the_last_run_counts() {
        let end = || line("times", Record::Stage(outcome("times", "ok")));
        let mut lines = large("f32", 10, 100, [5.0, 6.0, 7.0]);
        lines.push(end());
        lines.push(line("facts", device("Some GPU")));
        lines.extend(large("f32", 10, 100, [1.0, 2.0, 3.0]));
        lines.push(end());
        let kept = last_runs(lines);
        assert_eq!(kept.len(), 5);
        assert_eq!(kept[0].stage, "facts");
        assert!(matches!(&kept[1].record, Record::Time(time) if time.device_us.median == 1.0));
    }

    #[test]
    fn the_data_are_small_and_whole() {
        let scratch = Scratch::new("json");
        let mut lines = vec![line("facts", device("NVIDIA H100 80GB (SXM)"))];
        lines.extend(large("f32", 1000, 67_109, [10.123_456_789, 20.0, 9.0]));
        let folder = Folder::read(&scratch.folder("out", &lines)).expect("a folder");
        assert_eq!(folder.slug(), "nvidia-h100-80gb-sxm");
        let text = folder.json(false).expect("plain data");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["date"], json!(folder.date()));
        assert_eq!(value["dry"], json!(false));
        let times = &value["stages"]["times"]["time"];
        let place = |name: &str| {
            let names = times["fields"].as_array().expect("names");
            names
                .iter()
                .position(|field| field == name)
                .expect("a field")
        };
        assert_eq!(times["rows"].as_array().map(Vec::len), Some(3));
        let fused = &times["rows"][0];
        assert_eq!(
            fused[place("device_us")],
            json!([10.123, 9.1111, 11.136, 21])
        );
        assert_eq!(
            fused[place("n")],
            json!(67_109),
            "whole numbers keep their digits"
        );
        assert_eq!(
            value["times"],
            json!(SPREAD),
            "and the file says what they are"
        );
        assert!(!text.contains("null"), "{text}");
    }
}
