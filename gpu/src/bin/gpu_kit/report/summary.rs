//! A short table of a folder, for whoever has just run the kit.

use std::fmt::Write;

use ala_loss_gpu::record::{Kind, Line, Op};

use super::figures::{DTYPES, counters, outcomes, peers, tiers, times};
use super::folder::Folder;
use super::numbers::{or_dash, percent, times as factor, us};
use super::table::Table;

/// Rows of what is sorted by how bad it is.
const WORST: usize = 5;

pub(crate) fn of(folder: &Folder) -> String {
    let lines = &folder.lines;
    let mut text = String::new();
    if folder.is_dry() {
        text += "A dry run in software: it measures nothing, and its times mean nothing.\n";
    }
    for error in &folder.unreadable {
        let _ = writeln!(text, "left out: {error}");
    }
    if lines.is_empty() {
        return text + "There are no records.\n";
    }
    text += &stages(lines);
    text += &failures(lines);
    if let Some(device) = folder.device() {
        let _ = writeln!(
            text,
            "device: {}, {} SMs, driver for CUDA {}",
            device.name, device.multiprocessors, device.driver
        );
    }
    let parts = [
        (
            "large batches: per cent of the copy kernel's rate; times the unfused's speed",
            batches(lines, Kind::Large, large),
        ),
        (
            "small batches in graphs: us a step; over (empty + copy)",
            batches(lines, Kind::Small, small),
        ),
        (
            "tiers: where the crate's choice loses the most",
            regrets(lines),
        ),
        (
            "counters: where DRAM moves the most over the least bytes",
            counted(lines),
        ),
    ];
    for (title, table) in parts {
        if !table.is_empty() {
            let _ = write!(text, "{title}\n{}", table.plain());
        }
    }
    text
}

fn stages(lines: &[Line]) -> String {
    let one = |stage: &ala_loss_gpu::record::Outcome| {
        let seconds = stage
            .seconds
            .map_or(String::new(), |seconds| format!(" {seconds:.0} s"));
        let reason = stage
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        format!("{} {}{seconds}{reason}", stage.name, stage.outcome)
    };
    let all: Vec<_> = outcomes::stages(lines).map(one).collect();
    match all.is_empty() {
        true => "stages: none has ended\n".into(),
        false => format!("stages: {}\n", all.join("; ")),
    }
}

fn failures(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut list = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            let _ = writeln!(text, "{what}: {}", names.join(", "));
        }
    };
    let tests = outcomes::failed_tests(lines);
    list(
        "FAILED tests",
        tests.iter().map(|test| test.name.clone()).collect(),
    );
    let findings = outcomes::sanitizer(lines)
        .into_iter()
        .filter(|tool| outcomes::did_not_pass(tool));
    let finding = |tool: &ala_loss_gpu::record::Outcome| {
        let reason = tool.reason.as_deref().unwrap_or(&tool.outcome);
        format!("{} ({reason})", tool.name)
    };
    list(
        "FOUND by compute-sanitizer",
        findings.map(finding).collect(),
    );
    let differing = outcomes::repeats(lines)
        .into_iter()
        .filter(|repeat| !repeat.differed.is_empty());
    list(
        "OTHER BITS from run to run",
        differing.map(outcomes::kernel).collect(),
    );
    let ours = peers::cases(lines);
    let ours = ours.iter().flat_map(peers::Case::ours_without_time);
    let place = |ours: &ala_loss_gpu::record::Peer| {
        format!("{} {} {} x {}", ours.op, ours.dtype, ours.n, ours.c)
    };
    list("OURS had no time beside peers", ours.map(place).collect());
    text
}

/// A row a shape: what `cell` says of each type, then the hardest peer of each type.
fn batches(lines: &[Line], kind: Kind, cell: fn(&times::Batch) -> String) -> Table {
    let timed = times::batches(lines, kind);
    let cases: Vec<_> = peers::cases(lines)
        .into_iter()
        .filter(|case| case.batch() == kind)
        .collect();
    let mut shapes: Vec<_> = timed
        .iter()
        .map(|batch| (batch.classes(), batch.rows()))
        .collect();
    shapes.extend(cases.iter().map(|case| (case.classes(), case.rows())));
    shapes.sort_unstable();
    shapes.dedup();
    let mut heads = vec!["N x C".to_owned()];
    heads.extend(DTYPES.map(String::from));
    if !cases.is_empty() {
        heads.extend(DTYPES.map(|dtype| format!("hardest peer / ours, {dtype}")));
    }
    let with_peers = heads.len() > 4;
    let mut table = Table::new(heads);
    for (c, n) in shapes {
        let mut row = vec![format!("{n} x {c}")];
        for dtype in DTYPES {
            let mut those = timed.iter().filter(|batch| batch.dtype() == dtype);
            let batch = those.find(|batch| (batch.classes(), batch.rows()) == (c, n));
            row.push(batch.map_or_else(|| "-".into(), cell));
        }
        for dtype in DTYPES.into_iter().filter(|_| with_peers) {
            let mut those = cases.iter().filter(|case| case.dtype() == dtype);
            let case = those.find(|case| (case.classes(), case.rows()) == (c, n));
            let hardest = case.and_then(peers::Case::hardest);
            let hardest = hardest.map(|duel| format!("{} {}", duel.peer.op, factor(duel.ahead)));
            row.push(hardest.unwrap_or_else(|| "-".into()));
        }
        table.row(row);
    }
    table
}

fn large(batch: &times::Batch) -> String {
    let of_copy = or_dash(batch.percent_of_copy(), percent);
    format!("{of_copy}; {}", or_dash(batch.over_unfused(), factor))
}

fn small(batch: &times::Batch) -> String {
    let graph = or_dash(batch.graph(Op::Fused), us);
    format!("{graph}; {}", or_dash(batch.over_floor(), factor))
}

fn regrets(lines: &[Line]) -> Table {
    let mut table = Table::new(["N x C", "type", "loses", "own", "better"]);
    let worst = tiers::worst(tiers::choices(lines)).into_iter();
    for choice in worst.filter(|choice| choice.regret() > 0.0).take(WORST) {
        let own = choice.own;
        table.row([
            format!("{} x {}", own.n, own.c),
            own.dtype.clone(),
            percent(choice.regret()),
            tiers::shape(own),
            tiers::shape(choice.best),
        ]);
    }
    table
}

fn counted(lines: &[Line]) -> Table {
    let mut kernels = counters::kernels(lines);
    let worst = |kernel: &counters::Kernel| {
        let by_hardware = kernel.dram_of_hardware();
        by_hardware.or(kernel.dram_of_software()).unwrap_or(0.0)
    };
    kernels.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
    let mut table = Table::new(["tier", "type", "by ncu", "by softcuda"]);
    for kernel in kernels.iter().take(WORST) {
        table.row([
            kernel.tier().into(),
            kernel.dtype().into(),
            or_dash(kernel.dram_of_hardware(), factor),
            or_dash(kernel.dram_of_software(), factor),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Scratch, counted, device, line, outcome, peer, tier};
    use super::*;
    use ala_loss_gpu::record::{Record, Repeat};

    fn summary(test: &str, lines: &[Line]) -> String {
        let scratch = Scratch::new(test);
        let folder = scratch.folder("out", lines);
        of(&Folder::read(&folder).expect("a folder"))
    }

    #[test]
    fn what_is_there_is_printed_and_nothing_else_is_asked_for() {
        assert_eq!(summary("nothing", &[]), "There are no records.\n");
        let text = summary("hardly", &[tier(10, "packed", 128, true, 12.0)]);
        assert_eq!(
            text, "stages: none has ended\n",
            "no regret, and nothing else"
        );
        let text = summary("device", &[line("facts", device("Some GPU"))]);
        assert!(text.contains("device: Some GPU"), "{text}");
        assert!(!text.contains("dry"), "{text}");
    }

    #[test]
    fn a_dry_run_is_said_first_and_broken_files_are_named() {
        let scratch = Scratch::new("broken");
        let mut soft = line("facts", device("Some GPU"));
        soft.dry = true;
        let folder = scratch.folder("out", &[soft]);
        std::fs::write(folder.join("times.jsonl"), "{}\n").expect("writable");
        let text = of(&Folder::read(&folder).expect("a folder"));
        assert!(
            text.lines()
                .next()
                .is_some_and(|line| line.contains("measures nothing")),
            "{text}"
        );
        assert!(text.contains("times.jsonl, line 1"), "{text}");
        assert!(text.contains("Some GPU"), "the rest is there: {text}");
    }

    #[test]
    fn what_failed_is_named() {
        let repeat = Repeat {
            tier: "packed".into(),
            dtype: "bf16".into(),
            per_class: true,
            recipe: false,
            n: 1,
            c: 2,
            repeats: 20,
            differed: vec!["gradient".into()],
        };
        let text = summary(
            "failed",
            &[
                line("parity", Record::Test(outcome("edges::good", "ok"))),
                line("parity", Record::Test(outcome("edges::bad", "failed"))),
                line("parity", Record::Repeat(repeat)),
                line(
                    "sanitize",
                    Record::Sanitizer(outcome("racecheck: tests", "timed out")),
                ),
                line("sanitize", Record::Stage(outcome("sanitize", "failed"))),
            ],
        );
        for part in [
            "tests: edges::bad\n",
            "packed bf16 per class",
            "racecheck: tests (timed out)",
            "sanitize failed 2 s",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("good"), "{text}");
    }

    #[test]
    fn a_whole_run_fits_on_a_screen() {
        let mut lines = vec![line("facts", device("Some GPU"))];
        for c in ala_loss_gpu::sizes::FULL.classes {
            for dtype in DTYPES {
                lines.extend(super::super::samples::large(
                    dtype,
                    *c,
                    100,
                    [10.0, 95.0, 9.0],
                ));
            }
            lines.push(peer("ours CE", *c, Some(10.0)));
            lines.push(peer("quack CE", *c, Some(11.0)));
            lines.push(tier(*c, "packed", 128, true, 12.0));
            lines.push(tier(*c, "row", 64, false, 10.0));
        }
        for (n, c) in ala_loss_gpu::sizes::FULL.small {
            lines.extend(super::super::samples::small("f32", *n, *c, [6.0, 1.5, 2.5]));
        }
        lines.push(counted("softcuda", 100, &[("dram_bytes", 110.0)]));
        let text = summary("whole", &lines);
        for part in [
            "90.0 %; 9.50 x",
            "quack CE 1.10 x",
            "6.00; 1.50 x",
            "20.0 %",
            "row 64x2",
            "1.10 x",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.lines().count() <= 40, "{text}");
    }
}
