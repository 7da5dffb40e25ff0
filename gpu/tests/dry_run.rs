//! The kit as `scripts/gpu pack` packs it, run in software from a bare environment: every stage's
//! code runs before there is a GPU, and what it writes down is what the report reads.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use ala_loss_gpu::batch::TierCase;
use ala_loss_gpu::record::{Kind, Line, Op, Outcome, Record, read};
use ala_loss_gpu::sizes::DRY;

const DTYPES: [&str; 3] = ["f32", "bf16", "f16"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the repository")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A folder of this test program's own, empty.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the target folder is writable");
    path
}

/// The packed kit, made of what the tests have built.
fn kit() -> &'static Path {
    static KIT: OnceLock<PathBuf> = OnceLock::new();
    KIT.get_or_init(|| {
        let kit = folder("kit");
        let output = Command::new("bash")
            .arg(root().join("scripts/gpu"))
            .args(["pack", "--profile", "dev"])
            .arg(&kit)
            .output()
            .expect("bash runs");
        assert!(output.status.success(), "{}", text(&output));
        kit
    })
}

/// `pack` into a folder, with a cargo that builds nothing, and no toolkit to look for.
fn pack_without_cargo(place: &Path) -> Output {
    Command::new("bash")
        .arg(root().join("scripts/gpu"))
        .arg("pack")
        .arg(place)
        .envs([("CARGO", "false"), ("NVCC", "true"), ("LIBCLANG_PATH", "/")])
        .output()
        .expect("bash runs")
}

#[test]
fn a_pack_that_fails_leaves_the_earlier_kit() {
    let around = folder("earlier");
    let place = around.join("kit");
    fs::create_dir(&place).expect("the target folder is writable");
    fs::write(place.join("bin.tar.gz"), "an earlier kit").expect("the target folder is writable");
    let output = pack_without_cargo(&place);
    assert!(!output.status.success(), "{}", text(&output));
    let kept = fs::read_to_string(place.join("bin.tar.gz")).expect("the kit is still there");
    assert_eq!(kept, "an earlier kit");
    let beside = fs::read_dir(&around).expect("it is there").count();
    assert_eq!(beside, 1, "nothing is left beside");
}

#[test]
fn a_folder_that_is_no_kit_is_not_replaced_by_one() {
    let place = folder("no_kit");
    fs::write(place.join("notes.txt"), "mine").expect("the target folder is writable");
    let output = pack_without_cargo(&place);
    assert!(!output.status.success());
    let printed = text(&output);
    assert!(
        printed.contains("no_kit is not empty and holds no kit"),
        "{printed}"
    );
    let kept = fs::read_to_string(place.join("notes.txt")).expect("it is still there");
    assert_eq!(kept, "mine");
}

/// One run at a time: each has limits of time, and the machine few cores.
static TURN: Mutex<()> = Mutex::new(());

/// `run --dry` with nothing in the environment, in a folder that is neither the kit's nor the
/// repository's.
fn run(out: &Path, stages: &[&str], tools: Option<&Path>, variables: &[(&str, &str)]) -> Output {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    let path = env::join_paths(tools.map(Path::to_owned).into_iter().chain(usual));
    Command::new("bash")
        .arg(kit().join("run"))
        .arg("--dry")
        .arg(out)
        .args(stages)
        .env_clear()
        .env("PATH", path.expect("no separators in folders"))
        .envs(variables.iter().copied())
        .current_dir("/")
        .output()
        .expect("bash runs")
}

/// The limits are a GPU's, and this machine may be busy: what a stage leaves out by them is another
/// test's.
const UNHURRIED: (&str, &str) = ("ALA_GPU_LIMIT", "900");

fn stand_ins() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in")
}

fn records(out: &Path, stage: &str) -> Vec<Record> {
    let lines = read(&out.join(format!("{stage}.jsonl"))).expect("lines");
    let own = |line: &Line| line.stage == stage && line.dry;
    assert!(
        lines.iter().all(own),
        "every line says whose it is, and that it is dry"
    );
    lines.into_iter().map(|line| line.record).collect()
}

/// How a stage ended: its last line.
fn ended(records: &[Record]) -> &Outcome {
    match records.last() {
        Some(Record::Stage(outcome)) => outcome,
        other => panic!("a stage ends with its outcome, not {other:?}"),
    }
}

fn assert_ended(records: &[Record], outcome: &str, reason: Option<&str>) {
    let ended = ended(records);
    assert_eq!(ended.outcome, outcome, "{ended:?}");
    match reason {
        Some(part) => {
            let reason = ended.reason.as_deref().unwrap_or_default();
            assert!(reason.contains(part), "{part:?} in {reason:?}");
        }
        None => assert_eq!(ended.reason, None),
    }
}

#[test]
fn every_stage_runs_without_tools_and_says_what_it_lacks() {
    let out = folder("bare");
    let output = run(&out, &[], None, &[UNHURRIED]);
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");

    let facts = records(&out, "facts");
    assert_ended(&facts, "ok", None);
    let device = facts
        .iter()
        .any(|r| matches!(r, Record::Device(device) if device.name == "softcuda"));
    assert!(device, "{facts:?}");
    let copies = facts
        .iter()
        .filter(|r| matches!(r, Record::Bandwidth(_)))
        .count();
    assert_eq!(copies, 2 * DRY.copies.len(), "{facts:?}");

    assert_ended(&records(&out, "parity"), "ok", None);
    check_repeats(&records(&out, "parity"));
    assert_ended(
        &records(&out, "sanitize"),
        "skipped",
        Some("no compute-sanitizer"),
    );
    check_times(&records(&out, "times"));
    check_tiers(&records(&out, "tiers"));
    let candle = records(&out, "candle");
    assert_ended(&candle, "ok", None);
    for name in [
        "streams::two_models_on_two_streams",
        "matrix_products_equal_the_cpus",
        "trainer",
    ] {
        let passed = |r: &Record| matches!(r, Record::Test(test) if test.name == name && test.outcome == "ok");
        assert!(candle.iter().any(passed), "{name} in {candle:?}");
    }
    let nccl = records(&out, "nccl");
    assert_ended(&nccl, "ok", None);
    let name = "steps_over_ranks_are_those_of_all_classes";
    let passed =
        |r: &Record| matches!(r, Record::Test(test) if test.name == name && test.outcome == "ok");
    assert!(nccl.iter().any(passed), "{nccl:?}");
    let peers = records(&out, "peers");
    assert_ended(&peers, "ok", None);
    let ours = peers
        .iter()
        .any(|r| matches!(r, Record::Peer(peer) if peer.op == "ours ALA" && peer.status == "ok"));
    assert!(ours, "{peers:?}");
    let counters = records(&out, "counters");
    assert_ended(&counters, "skipped", Some("no ncu"));
    check_counted(
        &counters,
        "softcuda",
        &["dram_bytes", "l2_sectors", "warp_instructions"],
    );

    let log = fs::read_to_string(out.join("log.txt")).expect("a log");
    assert!(log.contains("== times: ok"), "{log}");
    // A file for each of the nine stages, and the log: some machines let out few files.
    assert!(fs::read_dir(&out).expect("a folder").count() <= 10);
    report_of_a_dry_run(&out);
}

fn check_repeats(parity: &[Record]) {
    let repeats: Vec<_> = parity
        .iter()
        .filter_map(|record| match record {
            Record::Repeat(repeat) => Some(repeat),
            _ => None,
        })
        .collect();
    // Each kernel, and the one of recipes.
    let kernels = DTYPES.len() * TierCase::all(1).count();
    assert_eq!(repeats.len(), 2 * kernels);
    let of_recipes = repeats.iter().filter(|repeat| repeat.recipe);
    assert_eq!(of_recipes.count(), kernels);
    assert!(
        repeats.iter().all(|repeat| repeat.differed.is_empty()),
        "{repeats:?}"
    );
    let test = |name: &str| {
        let mut tests = parity.iter().filter_map(|record| match record {
            Record::Test(test) => Some(test),
            _ => None,
        });
        tests
            .find(|test| test.name.contains(name))
            .map(|test| test.outcome.as_str())
    };
    assert_eq!(test("quickstart"), Some("ok"));
    assert_eq!(test("every_label_type"), Some("ok"));
    assert_eq!(
        test("launches::a_step_can_be_captured_into_a_graph"),
        Some("ok")
    );
    assert_eq!(test("abi::"), Some("skipped"), "what is left out is named");
}

fn check_times(times: &[Record]) {
    assert_ended(times, "ok", None);
    let timed: BTreeSet<_> = times
        .iter()
        .filter_map(|record| match record {
            Record::Time(time) => {
                let small = time.batch == Kind::Small;
                assert_eq!(
                    (time.graph_us.is_some(), time.host_us.is_some()),
                    (small, small)
                );
                assert!(time.device_us.median > 0.0 && time.device_us.p10 <= time.device_us.p90);
                Some((small, time.dtype.clone(), time.n, time.c, time.op))
            }
            _ => None,
        })
        .collect();
    for dtype in DTYPES {
        for op in [Op::Mixed, Op::Smoothed] {
            for &c in DRY.classes {
                let key = (false, dtype.to_owned(), DRY.elements / c, c, op);
                assert!(timed.contains(&key), "{key:?}");
            }
        }
        for op in [Op::Fused, Op::Unfused, Op::Copy, Op::Empty] {
            for &c in DRY.classes {
                let key = (false, dtype.to_owned(), DRY.elements / c, c, op);
                assert!(timed.contains(&key), "{key:?}");
            }
            for &(n, c) in DRY.small {
                let key = (true, dtype.to_owned(), n, c, op);
                assert!(timed.contains(&key), "{key:?}");
                let overlapped = (true, dtype.to_owned(), n, c, Op::Overlapped);
                assert!(timed.contains(&overlapped), "{overlapped:?}");
            }
        }
    }
}

fn check_tiers(tiers: &[Record]) {
    assert_ended(tiers, "ok", None);
    let tiers: Vec<_> = tiers
        .iter()
        .filter_map(|record| match record {
            Record::Tier(tier) => Some(tier),
            _ => None,
        })
        .collect();
    for dtype in DTYPES {
        let large = DRY
            .classes
            .iter()
            .map(|&c| (Kind::Large, DRY.elements / c, c));
        let small = DRY.small.iter().map(|&(n, c)| (Kind::Small, n, c));
        for (kind, n, c) in large.chain(small) {
            let of_batch = || {
                tiers.iter().filter(move |tier| {
                    tier.batch == kind && tier.dtype == dtype && (tier.n, tier.c) == (n, c)
                })
            };
            let own: Vec<_> = of_batch().filter(|tier| tier.own).collect();
            assert_eq!(own.len(), 1, "{kind:?} {dtype} {n} x {c}");
            assert!(
                own[0].device_us.is_some(),
                "the crate's own choice is always timed"
            );
            let kernels: BTreeSet<_> = of_batch().map(|tier| tier.tier.as_str()).collect();
            let takes = |case: &TierCase| !case.per_class && case.tier.uniform as usize >= c;
            let all: BTreeSet<_> = TierCase::all(1)
                .filter(takes)
                .map(|case| case.tier.name)
                .collect();
            assert_eq!(kernels, all, "every kernel that takes {n} x {c}");
        }
    }
}

fn check_counted(counters: &[Record], source: &str, names: &[&str]) {
    let kernels: BTreeSet<_> = counters
        .iter()
        .filter_map(|record| match record {
            Record::Counted(counted) if counted.source == source => {
                for name in names {
                    let value = counted.counters.get(*name);
                    assert!(
                        value.is_some_and(|&value| value > 0.0),
                        "{name} of {counted:?}"
                    );
                }
                Some(counted.kernel.clone())
            }
            _ => None,
        })
        .collect();
    let uniform = TierCase::all(1).filter(|case| !case.per_class).count();
    assert_eq!(kernels.len(), DTYPES.len() * uniform, "{kernels:?}");
}

/// It would be taken for a GPU's.
fn report_of_a_dry_run(out: &Path) {
    let report = |dry: &[&str], docs: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-kit"));
        command
            .args(dry)
            .arg("report")
            .arg(out)
            .arg("--docs")
            .arg(docs);
        command.output().expect("the program runs")
    };
    let docs = folder("docs");
    let refused = report(&[], &docs);
    assert!(
        !refused.status.success() && text(&refused).contains("dry run"),
        "{}",
        text(&refused)
    );
    assert_eq!(
        fs::read_dir(&docs).expect("a folder").count(),
        0,
        "nothing is written"
    );

    let made = report(&["--dry"], &docs);
    assert!(made.status.success(), "{}", text(&made));
    let page = fs::read_to_string(docs.join("gpu.md")).expect("a page");
    assert!(page.contains("dry run"), "{page}");
}

#[test]
fn with_tools_their_stages_run_too() {
    let out = folder("tools");
    let output = run(
        &out,
        &["sanitize", "counters"],
        Some(&stand_ins()),
        &[UNHURRIED],
    );
    assert!(output.status.success(), "{}", text(&output));
    let sanitize = records(&out, "sanitize");
    assert_ended(&sanitize, "ok", None);
    let passed =
        |record: &&Record| matches!(record, Record::Sanitizer(tool) if tool.outcome == "ok");
    assert_eq!(
        sanitize.iter().filter(passed).count(),
        8,
        "four tools, two programs: {sanitize:?}"
    );
    let counters = records(&out, "counters");
    assert_ended(&counters, "ok", None);
    check_counted(
        &counters,
        "ncu",
        &[
            "dram_bytes_read",
            "stall_long_scoreboard",
            "occupancy_percent",
        ],
    );
}

#[test]
fn an_older_profiler_counts_without_stall_reasons() {
    let out = folder("older");
    let output = run(
        &out,
        &["counters"],
        Some(&stand_ins()),
        &[("STAND_IN_OLD", "1")],
    );
    assert!(output.status.success(), "{}", text(&output));
    check_counted(&records(&out, "counters"), "ncu", &["dram_bytes_read"]);
}

#[test]
fn what_a_tool_finds_fails_the_run_and_the_other_stages_go_on() {
    let out = folder("found");
    let output = run(
        &out,
        &["sanitize", "facts"],
        Some(&stand_ins()),
        &[("STAND_IN_ERROR", "racecheck")],
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let sanitize = records(&out, "sanitize");
    assert_ended(&sanitize, "failed", Some("racecheck"));
    let found = sanitize.iter().any(|record| {
        matches!(record, Record::Sanitizer(tool) if tool.outcome == "failed"
            && tool.reason.as_deref().is_some_and(|reason| reason.contains("1 error")))
    });
    assert!(found, "{sanitize:?}");
    assert_ended(&records(&out, "facts"), "ok", None);
}

#[test]
fn a_stage_that_takes_too_long_is_stopped_and_keeps_what_it_has() {
    let out = folder("slow");
    let variables = [("STAND_IN_SLOW", "racecheck"), ("ALA_GPU_LIMIT", "48")];
    let output = run(&out, &["sanitize", "facts"], Some(&stand_ins()), &variables);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let sanitize = records(&out, "sanitize");
    let outcome = |tool: &str| {
        sanitize.iter().find_map(|record| match record {
            Record::Sanitizer(found) if found.name == tool => Some(found.outcome.as_str()),
            _ => None,
        })
    };
    assert_eq!(outcome("memcheck: kernels"), Some("ok"), "{sanitize:?}");
    assert_eq!(
        outcome("racecheck: kernels"),
        Some("timed out"),
        "{sanitize:?}"
    );
    assert_ended(&records(&out, "facts"), "ok", None);
}

#[test]
fn an_unknown_stage_or_option_is_refused_before_anything_runs() {
    for arguments in [&["times", "nonsense"][..], &["--fast"]] {
        let out = folder("refused");
        let output = run(&out, arguments, None, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert_eq!(fs::read_dir(&out).expect("a folder").count(), 0);
    }
}
