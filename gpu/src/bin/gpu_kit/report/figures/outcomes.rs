//! What passed and what did not.

use ala_loss_gpu::record::{Line, Outcome, Record, Repeat};

use super::of_kind;

/// How many of some outcomes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) ok: usize,
    /// Also those that took too long.
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// How the stages ended.
pub(crate) fn stages(lines: &[Line]) -> impl Iterator<Item = &Outcome> {
    of_kind!(lines, Stage)
}

/// Tests by outcome.
pub(crate) fn tests(lines: &[Line]) -> Counts {
    let mut counts = Counts::default();
    for test in of_kind!(lines, Test) {
        match test.outcome.as_str() {
            "ok" => counts.ok += 1,
            "skipped" => counts.skipped += 1,
            _ => counts.failed += 1,
        }
    }
    counts
}

/// Tests that failed or took too long.
pub(crate) fn failed_tests(lines: &[Line]) -> Vec<&Outcome> {
    of_kind!(lines, Test)
        .filter(|test| did_not_pass(test))
        .collect()
}

/// What compute-sanitizer did.
pub(crate) fn sanitizer(lines: &[Line]) -> Vec<&Outcome> {
    of_kind!(lines, Sanitizer).collect()
}

/// Whether it failed or took too long.
pub(crate) fn did_not_pass(outcome: &Outcome) -> bool {
    !matches!(outcome.outcome.as_str(), "ok" | "skipped")
}

/// Kernels that were run again and again.
pub(crate) fn repeats(lines: &[Line]) -> Vec<&Repeat> {
    of_kind!(lines, Repeat).collect()
}

/// A kernel's name, for a person.
pub(crate) fn kernel(repeat: &Repeat) -> String {
    let map = if repeat.per_class {
        "per class"
    } else {
        "uniform"
    };
    let family = if repeat.recipe { " of recipes" } else { "" };
    format!("{} {} {map}{family}", repeat.tier, repeat.dtype)
}

/// What a stage left out, and why.
pub(crate) fn left_out<'a>(
    lines: &'a [Line],
    stage: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let of_stage = lines.iter().filter(move |line| line.stage == stage);
    of_stage.filter_map(|line| match &line.record {
        Record::LeftOut { what, reason } => Some((what.as_str(), reason.as_str())),
        _ => None,
    })
}
