//! The page: what was measured on each device, in tables with charts beside.

mod bounds;
mod choices;
mod counters;
mod device;
mod peers;
mod proof;
mod times;

use std::fmt::Write;

use ala_loss_gpu::record::Line;

use super::DRY;
use super::figures::outcomes;
use super::folder::Folder;

/// What the page says of one folder.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    pub(crate) folder: &'a Folder,
    /// Names of its charts, and their files.
    pub(crate) charts: Vec<(&'static str, String)>,
    /// The file of its records.
    pub(crate) data: String,
}

/// Headed parts: the stage that they are of, the title, a chart's name and caption, and what they
/// say.
type Part = (
    &'static str,
    &'static str,
    Option<[&'static str; 2]>,
    fn(&[Line]) -> Option<String>,
);

const PARTS: [Part; 6] = [
    ("parity", "Parity", None, proof::parity),
    ("sanitize", "Sanitizers", None, proof::sanitizers),
    ("times", "Times", None, times::section),
    (
        "tiers",
        "The choice of kernel",
        Some([
            "regret",
            "Time that the crate's choice takes more than the best, by the number of classes",
        ]),
        choices::section,
    ),
    ("peers", "Peers", None, peers::section),
    (
        "counters",
        "Counters",
        Some([
            "counters",
            "Bytes over the least possible, counted by the hardware and in software",
        ]),
        counters::section,
    ),
];

/// Of several stages.
const RATES: [&str; 2] = [
    "rates",
    "Rate in per cent of the copy kernel's, by the number of classes: ours and the peers",
];

/// How it was measured, for all devices.
const METHOD: &str = "\
Made by `scripts/gpu report` from records of the [GPU kit](../gpu/README.md). A step gives the loss and its gradient. Times \
are between two CUDA events, with nothing of the step in L2 before, all that is compared in turns; they are medians in \
microseconds. A step's GB/s are of the least bytes that it can move: logits, labels, gradient and row losses once. Per cent \
of the copy are that rate over the copy kernel's own, from the same run. `N x C` are rows and classes.\n";

/// All of it, in Markdown.
pub(crate) fn of(sections: &[Section], dry: bool) -> String {
    let mut text = String::from("# On a GPU");
    if dry {
        let _ = write!(text, " ({DRY})");
    }
    let _ = write!(text, "\n\n{METHOD}");
    if dry {
        text += "\nThis page is of a dry run, in software: every number in it is meaningless.\n";
    }
    for section in sections {
        text += &of_folder(section, dry);
    }
    text
}

fn of_folder(section: &Section, dry: bool) -> String {
    let folder = section.folder;
    let lines = &folder.lines;
    let name = folder.device().map_or("", |device| &device.name);
    let mut text = format!("\n## {name}, {}\n\n", folder.date());
    let _ = writeln!(text, "All records: [{0}]({0}).\n", section.data);
    text += &device::section(lines);
    if let Some(table) = bounds::section(lines) {
        let _ = write!(text, "\n### Bounds\n\n{table}");
    }
    text += &picture(section, RATES, dry);
    for (stage, title, chart, part) in PARTS {
        match part(lines) {
            Some(body) => {
                let _ = write!(text, "\n### {title}\n\n{body}");
                if let Some(chart) = chart {
                    text += &picture(section, chart, dry);
                }
                text += &gaps(lines, stage);
            }
            None => {
                let _ = writeln!(
                    text,
                    "\n{title}: nothing here, the stage `{stage}` {}.",
                    ended(lines, stage)
                );
            }
        }
    }
    text
}

/// A chart, by its name, under which its caption stands; nothing where it was not drawn.
fn picture(section: &Section, [name, caption]: [&str; 2], dry: bool) -> String {
    let drawn = section.charts.iter().find(|(drawn, _)| *drawn == name);
    drawn.map_or_else(String::new, |(_, file)| {
        let caption = captioned(caption, dry);
        format!("\n![{caption}]({file})\n\n{caption}.\n")
    })
}

/// A caption, which says so where it is of a dry run.
pub(crate) fn captioned(caption: &str, dry: bool) -> String {
    match dry {
        true => format!("{caption} ({DRY})"),
        false => caption.to_owned(),
    }
}

fn ended(lines: &[Line], stage: &str) -> String {
    let outcome = outcomes::stages(lines).find(|outcome| outcome.name == stage);
    let Some(outcome) = outcome else {
        return "did not run".into();
    };
    let reason = outcome
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(" ({reason})"));
    match outcome.outcome.as_str() {
        "ok" => format!("left no records{reason}"),
        "skipped" => format!("was skipped{reason}"),
        _ => format!("{}{reason}", outcome.outcome),
    }
}

/// What a stage that left records did not get to.
fn gaps(lines: &[Line], stage: &str) -> String {
    const NAMED: usize = 8;
    let mut text = String::new();
    let outcome = outcomes::stages(lines).find(|outcome| outcome.name == stage);
    if outcome.is_some_and(|outcome| outcome.outcome != "ok") {
        let _ = writeln!(
            text,
            "\nThe stage `{stage}` did not get through: {}.",
            ended(lines, stage)
        );
    }
    let left_out: Vec<_> = outcomes::left_out(lines, stage).collect();
    if !left_out.is_empty() {
        let names = left_out
            .iter()
            .take(NAMED)
            .map(|(what, reason)| format!("{what} ({reason})"));
        let names: Vec<_> = names.collect();
        let more = match left_out.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let _ = writeln!(text, "\nLeft out: {}{more}.", names.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Scratch, device, large, line, outcome, peer};
    use super::*;
    use ala_loss_gpu::record::Record;

    fn page(test: &str, lines: &[Line]) -> String {
        let scratch = Scratch::new(test);
        let folder = Folder::read(&scratch.folder("out", lines)).expect("a folder");
        let section = Section {
            folder: &folder,
            charts: vec![("rates", "gpu_rates.svg".into())],
            data: "gpu/data.json".into(),
        };
        of(&[section], false)
    }

    #[test]
    fn a_stage_that_is_missing_has_one_line_that_says_why() {
        let mut skipped = outcome("counters", "skipped");
        skipped.reason = Some("no ncu".into());
        let text = page(
            "missing",
            &[
                line("facts", device("Some GPU")),
                line("counters", Record::Stage(skipped)),
            ],
        );
        for part in [
            "## Some GPU, ",
            "Counters: nothing here, the stage `counters` was skipped (no ncu).",
            "Times: nothing here, the stage `times` did not run.",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            !text.contains("### "),
            "no heading without a section: {text}"
        );
        assert!(!text.contains("dry run"), "{text}");
    }

    #[test]
    fn what_a_stage_did_not_get_to_is_said() {
        let mut lines = large("f32", 1000, 10, [10.0, 20.0, 9.0]);
        lines.extend((0..10).map(|index| {
            let left_out = Record::LeftOut {
                what: format!("f32 C = {index}"),
                reason: "no time was left".into(),
            };
            line("times", left_out)
        }));
        lines.push(line("times", Record::Stage(outcome("times", "timed out"))));
        let text = page("gaps", &lines);
        for part in [
            "did not get through: timed out",
            "f32 C = 0 (no time was left)",
            "and 2 more",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn times_show_their_spread_and_peers_that_are_ahead_are_listed() {
        let mut lines = large("f32", 1000, 10, [20.0, 40.0, 19.0]);
        lines.extend([
            peer("copy (ours)", 10, Some(9.0)),
            peer("ours CE", 10, Some(10.0)),
            peer("quack CE", 10, Some(8.0)),
            peer("Liger CE", 10, None),
            peer("torch eager CE", 10, Some(90.0)),
        ]);
        let text = page("ahead", &lines);
        for part in [
            "18.0..22.0",
            "95.0 %",
            "| 2.00 x |",
            "quack CE, f32 100 x 10: 8.00 us against 10.0 us, 20.0 % less",
            "refuses",
            "![Rate in per cent",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            !text.contains("torch eager CE, f32"),
            "it is not ahead: {text}"
        );
    }
}
