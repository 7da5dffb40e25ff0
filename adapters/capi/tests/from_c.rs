//! The library from C: what it computes is what the reference does in `f64`, and what goes wrong is
//! told.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ala_loss::{ClassCounts, Element, Loss, Objective, reference};
use half::{bf16, f16};
use softcuda::client::SoftCuda;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where Cargo puts the libraries: beside the test.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().expect("it is in a folder").to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Has the C compiler make a program, linked by `link`.
fn compile(source: &Path, name: &str, link: &[&OsStr]) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("capi_{name}"));
    let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args([
            "-std=c99",
            "-D_GNU_SOURCE",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        // The driver's functions are looked up as one type and called as others.
        .arg("-Wno-cast-function-type")
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(link)
        .output()
        .expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
    program
}

fn linked_shared(source: &Path, name: &str) -> PathBuf {
    let libraries = libraries();
    let libraries = libraries.to_str().expect("UTF-8");
    let link = [
        format!("-L{libraries}"),
        "-lala_loss_capi".to_owned(),
        // Before LD_LIBRARY_PATH, in which Cargo has a folder with an earlier build's library.
        format!("-Wl,--disable-new-dtags,-rpath,{libraries}"),
        "-ldl".to_owned(),
        "-lm".to_owned(),
    ];
    let link: Vec<&OsStr> = link.iter().map(OsStr::new).collect();
    compile(source, name, &link)
}

fn steps() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| linked_shared(&root().join("tests/steps.c"), "steps"))
}

fn has_gpu() -> bool {
    Command::new("nvidia-smi")
        .arg("-L")
        .output()
        .is_ok_and(|output| output.status.success())
}

fn run(program: &Path, arguments: &[&str], with_driver: bool, input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("LD_PRELOAD");
    if with_driver && !has_gpu() {
        let driver = SoftCuda::locate().expect("softcuda is built beside the tests");
        command.env("LD_PRELOAD", driver);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("it reads all of it");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// An element type, by its number in the header.
trait InC: Element {
    const NUMBER: u32;
    /// What a gradient may be off by, to its row's largest entry; and a loss, to itself.
    const TOLERANCE: f64;
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! in_c {
    ($($type:ty, $number:literal, $tolerance:literal;)*) => {$(
        impl InC for $type {
            const NUMBER: u32 = $number;
            const TOLERANCE: f64 = $tolerance;
            fn bytes(self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                Self::from_ne_bytes(bytes.try_into().expect("its size"))
            }
        }
    )*};
}
in_c! {
    f32, 0, 2e-6;
    // Rounded once: half a unit in the last place.
    f16, 1, 6e-4;
    bf16, 2, 4e-3;
    f64, 3, 1e-13;
}

/// Runs a step in C and holds it against the reference.
fn check<T: InC>(path: &str, classes: usize, stride: usize, place: &str) {
    const ROWS: usize = 9;
    let mut random = fastrand::Rng::with_seed(classes as u64);
    let counts: Vec<u64> = (0..classes)
        .map(|class| 1000 / (class as u64 + 1) + 5)
        .collect();
    // Between rows lies what must not be touched.
    let logits: Vec<T> = (0..ROWS * stride)
        .map(|_| T::from_f64(2.0 * random.f64() - 1.0))
        .collect();
    let mut labels: Vec<i64> = (0..ROWS).map(|_| random.usize(..classes) as i64).collect();
    labels[4] = -100;
    let loss = Loss::builder(
        Objective::ala(),
        &ClassCounts::new(counts.clone()).expect("counts"),
    )
    .scale(30.0)
    .ignore_label(-100)
    .build()
    .expect("a loss");
    let rows: Vec<f64> = logits
        .chunks(stride)
        .flat_map(|row| row[..classes].iter().map(|x| x.to_f64()))
        .collect();
    let expected = reference::batch(&loss, &rows, &labels, &[1.0; ROWS]);

    let mut input: Vec<u8> = counts
        .iter()
        .flat_map(|count| count.to_ne_bytes())
        .collect();
    input.extend(logits.iter().flat_map(|x| x.bytes()));
    input.extend(labels.iter().flat_map(|label| label.to_ne_bytes()));
    let words = [T::NUMBER as usize, ROWS, classes, stride].map(|word| word.to_string());
    let mut arguments = vec![path];
    arguments.extend(words.iter().map(String::as_str));
    arguments.push(place);
    let output = run(steps(), &arguments, path == "cuda", &input);
    let what = format!("{arguments:?}: {}", text(&output.stderr));
    assert!(output.status.success(), "{what}");

    let (size, real) = (size_of::<T>(), size_of::<T::Real>());
    let (summary, rest) = output.stdout.split_at(24);
    let (gradient, rest) = rest.split_at(size * ROWS * stride);
    let (row_losses, hits) = rest.split_at(real * ROWS);
    let eight = |place: usize| -> [u8; 8] { summary[place..place + 8].try_into().expect("8") };
    let [told, weight] = [0, 8].map(|place| f64::from_ne_bytes(eight(place)));
    let within = |got: f64, wanted: f64, scale: f64, tolerance: f64| {
        assert!(
            (got - wanted).abs() <= tolerance * scale.max(1e-3),
            "{got} {wanted}, {what}"
        );
    };
    // Losses are not rounded to the logits' type.
    let loss_tolerance = if real == 8 { 1e-12 } else { 3e-6 };
    within(told, expected.loss, expected.loss, loss_tolerance);
    assert_eq!((weight, u64::from_ne_bytes(eight(16))), (8.0, 8), "{what}");
    for row in 0..ROWS {
        let got = &row_losses[row * real..][..real];
        let got = match real {
            8 => f64::of(got),
            _ => f32::of(got).into(),
        };
        let wanted = expected.row_losses[row];
        within(got, wanted, wanted, loss_tolerance);
        let logits = &logits[row * stride..][..stride];
        let got: Vec<T> = gradient[row * stride * size..][..stride * size]
            .chunks(size)
            .map(T::of)
            .collect();
        let wanted = &expected.gradient[row * classes..][..classes];
        let largest = wanted.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
        for (got, wanted) in got.iter().zip(wanted) {
            within(got.to_f64(), *wanted, largest, T::TOLERANCE);
        }
        for (got, logit) in got[classes..].iter().zip(&logits[classes..]) {
            match place {
                "in_place" => assert_eq!(got.bytes(), logit.bytes(), "{what}"),
                _ => assert_eq!(got.bytes(), vec![77; size], "{what}"),
            }
        }
        let best = (0..classes).rev().fold(0, |best, class| {
            match logits[class].to_f64() >= logits[best].to_f64() {
                true => class,
                false => best,
            }
        });
        let hit = u8::from(best as i64 == labels[row]);
        assert_eq!(hits[row], hit, "row {row}, {what}");
    }
}

fn check_all<T: InC>(path: &str) {
    for (classes, stride) in [(3, 3), (10, 13), (365, 365)] {
        check::<T>(path, classes, stride, "apart");
    }
    check::<T>(path, 10, 13, "in_place");
}

#[test]
fn steps_on_the_host_are_the_reference_s() {
    check_all::<f32>("cpu");
    check_all::<f16>("cpu");
    check_all::<bf16>("cpu");
    check_all::<f64>("cpu");
}

#[test]
fn steps_on_a_stream_are_the_reference_s() {
    check_all::<f32>("cuda");
    check_all::<f16>("cuda");
    check_all::<bf16>("cuda");
}

fn assert_passes(what: &str, with_driver: bool) {
    let output = run(steps(), &[what], with_driver, &[]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
}

#[test]
fn what_goes_wrong_on_the_host_is_told() {
    assert_passes("errors", false);
}

#[test]
fn what_goes_wrong_on_a_device_is_told() {
    assert_passes("cuda-errors", true);
}

#[test]
fn the_current_context_is_bound_to_and_stays_current() {
    assert_passes("current", true);
}

#[test]
fn without_a_driver_a_status_says_so() {
    if has_gpu() {
        eprintln!("this machine has a driver");
        return;
    }
    assert_passes("no-driver", false);
}

/// The README's example, by both libraries.
#[test]
fn the_readme_s_example_compiles_and_runs() {
    let readme = fs::read_to_string(root().join("README.md")).expect("it is there");
    let (_, rest) = readme.split_once("```c\n").expect("an example in C");
    let (example, rest) = rest.split_once("```").expect("it ends");
    let (_, rest) = rest.split_once("```text\n").expect("what it prints");
    let (prints, _) = rest.split_once("```").expect("it ends");
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi_example.c");
    fs::write(&source, example).expect("the target folder is writable");
    let archive = libraries().join("libala_loss_capi.a");
    let link = [
        archive.as_os_str(),
        "-lpthread".as_ref(),
        "-ldl".as_ref(),
        "-lm".as_ref(),
    ];
    for program in [
        linked_shared(&source, "example_shared"),
        compile(&source, "example_static", &link),
    ] {
        let output = run(&program, &[], false, &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), prints);
    }
}

#[test]
fn the_training_step_in_c_runs_on_a_device() {
    assert_passes("example", true);
}

#[test]
fn the_training_step_in_c_learns() {
    let source = root().join("examples/training_step.c");
    let output = run(&linked_shared(&source, "training_step"), &[], false, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let losses: Vec<f64> = text(&output.stdout)
        .lines()
        .filter_map(|line| line.split_once("loss ")?.1.parse().ok())
        .collect();
    assert_eq!(losses.len(), 4, "{losses:?}");
    assert!(losses[0] > 10.0 && losses[3] < 0.01, "{losses:?}");
}
