//! Whether the kernels do what they should.

use std::fmt::Write;

use ala_loss_gpu::record::{Line, Outcome};

use super::super::figures::outcomes;
use super::super::table::Table;

pub(super) fn parity(lines: &[Line]) -> Option<String> {
    let (tests, repeats) = (outcomes::tests(lines), outcomes::repeats(lines));
    if tests == outcomes::Counts::default() && repeats.is_empty() {
        return None;
    }
    let mut table = Table::new(["what", "ok", "failed", "skipped"]);
    if tests != outcomes::Counts::default() {
        let counts = [tests.ok, tests.failed, tests.skipped].map(|count| count.to_string());
        table.row(std::iter::once("tests of the CUDA path".to_owned()).chain(counts));
    }
    let differing: Vec<_> = repeats
        .iter()
        .filter(|repeat| !repeat.differed.is_empty())
        .collect();
    if let Some(most) = repeats.iter().map(|repeat| repeat.repeats).max() {
        table.row([
            format!("kernels whose bits are the same in {most} runs"),
            (repeats.len() - differing.len()).to_string(),
            differing.len().to_string(),
            "0".into(),
        ]);
    }
    let mut text = table.markdown();
    for test in outcomes::failed_tests(lines) {
        let _ = writeln!(text, "\nTest `{}`: {}.", test.name, how(test));
    }
    for repeat in differing {
        let name = outcomes::kernel(repeat);
        let _ = writeln!(
            text,
            "\nKernel {name}: other {} in another run.",
            repeat.differed.join(", ")
        );
    }
    Some(text)
}

fn how(outcome: &Outcome) -> String {
    let reason = outcome
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(" ({reason})"));
    format!("{}{reason}", outcome.outcome)
}

pub(super) fn sanitizers(lines: &[Line]) -> Option<String> {
    let mut table = Table::new(["compute-sanitizer", "outcome", "seconds"]);
    for tool in outcomes::sanitizer(lines) {
        let seconds = tool
            .seconds
            .map_or_else(|| "-".into(), |seconds| format!("{seconds:.0}"));
        table.row([tool.name.clone(), how(tool), seconds]);
    }
    (!table.is_empty()).then(|| table.markdown())
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::{line, outcome};
    use super::*;
    use ala_loss_gpu::record::Record;

    #[test]
    fn tests_are_counted_and_those_that_failed_named() {
        let test = |name, how| line("parity", Record::Test(outcome(name, how)));
        let lines = [
            test("a", "ok"),
            test("b", "ok"),
            test("c", "timed out"),
            test("d", "skipped"),
            test("e", "skipped"),
            test("f", "skipped"),
        ];
        let text = parity(&lines).expect("tests");
        assert!(
            text.contains("| tests of the CUDA path | 2 | 1 | 3 |"),
            "{text}"
        );
        assert!(text.contains("Test `c`: timed out."), "{text}");
        assert_eq!(sanitizers(&lines), None);
    }
}
