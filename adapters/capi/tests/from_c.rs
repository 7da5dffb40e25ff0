//! The library from C: what it computes is what the reference does in `f64`, and what goes wrong is
//! told.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ala_loss::{ClassCounts, Element, Loss, NO_CLASS, Objective, reference};
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

const ROWS: usize = 9;
const IGNORED: i64 = -100;

/// What rows are held against, and what they weigh.
struct Targets {
    labels: Vec<i64>,
    recipe: Option<Recipe>,
}

/// What steps.c gives a step beside labels, with label smoothing and the mean over rows.
struct Recipe {
    second: Vec<i32>,
    lambdas: Vec<f64>,
    weights: Vec<f64>,
}

/// As steps.c has it.
const SMOOTHING: f64 = 0.125;

impl Targets {
    fn new(random: &mut fastrand::Rng, classes: usize, with_recipe: bool) -> Self {
        let mut labels: Vec<i64> = (0..ROWS).map(|_| random.usize(..classes) as i64).collect();
        labels[4] = IGNORED;
        let recipe = with_recipe.then(|| {
            let mut second: Vec<i32> = (0..ROWS).map(|_| random.i32(0..classes as i32)).collect();
            // Exact in every type.
            let mut number = |most: u32| f64::from(random.u32(1..=most)) / 16.0;
            let mut lambdas: Vec<f64> = (0..ROWS).map(|_| number(15)).collect();
            let weights = (0..ROWS).map(|_| number(64)).collect();
            // Of rows that have one label, or none: both ignored, either, one by its part.
            labels[3] = IGNORED;
            [second[3], second[5]] = [IGNORED as i32; 2];
            [lambdas[6], lambdas[7]] = [0.0, 1.0];
            Recipe {
                second,
                lambdas,
                weights,
            }
        });
        Self { labels, recipe }
    }

    fn bytes<R: InC>(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.labels.iter().flat_map(|x| x.to_ne_bytes()).collect();
        if let Some(recipe) = &self.recipe {
            bytes.extend(recipe.second.iter().flat_map(|label| label.to_ne_bytes()));
            for numbers in [&recipe.lambdas, &recipe.weights] {
                bytes.extend(numbers.iter().flat_map(|&x| R::from_f64(x).bytes()));
            }
        }
        bytes
    }

    /// A row's classes that count, with their shares.
    fn of_row(&self, row: usize) -> Vec<(usize, f64)> {
        let first = self.labels[row];
        let both = match &self.recipe {
            None => vec![(first, 1.0)],
            Some(recipe) => {
                let (lambda, weight) = (recipe.lambdas[row], recipe.weights[row]);
                let second = recipe.second[row].into();
                vec![(first, lambda * weight), (second, (1.0 - lambda) * weight)]
            }
        };
        both.into_iter()
            .filter(|&(label, share)| label != IGNORED && share > 0.0)
            .map(|(label, share)| (label as usize, share))
            .collect()
    }
}

/// Runs a step in C and holds it against the reference.
fn check<T: InC>(path: &str, classes: usize, stride: usize, place: &str, kind: &str)
where
    T::Real: InC,
{
    let mut random = fastrand::Rng::with_seed(classes as u64);
    let counts: Vec<u64> = (0..classes)
        .map(|class| 1000 / (class as u64 + 1) + 5)
        .collect();
    // Between rows lies what must not be touched.
    let logits: Vec<T> = (0..ROWS * stride)
        .map(|_| T::from_f64(2.0 * random.f64() - 1.0))
        .collect();
    let with_recipe = kind == "recipe";
    let targets = Targets::new(&mut random, classes, with_recipe);
    let loss = Loss::builder(
        Objective::ala(),
        &ClassCounts::new(counts.clone()).expect("counts"),
    )
    .scale(30.0)
    .build()
    .expect("a loss");
    let table = loss.table();
    let smoothing = if with_recipe { SMOOTHING } else { 0.0 };
    let of_rows: Vec<Vec<(usize, f64)>> = (0..ROWS).map(|row| targets.of_row(row)).collect();
    let x: Vec<Vec<f64>> = logits
        .chunks(stride)
        .map(|row| row[..classes].iter().map(|x| x.to_f64()).collect())
        .collect();
    let expected: Vec<_> = (0..ROWS)
        .map(|row| reference::mixed_row(table, &x[row], &of_rows[row], smoothing))
        .collect();
    // ALA's class weights are 1.
    let counted = of_rows.iter().filter(|row| !row.is_empty()).count();
    let weight: f64 = of_rows.iter().flatten().map(|(_, share)| share).sum();
    let divisor = if with_recipe { counted as f64 } else { weight };

    let mut input: Vec<u8> = counts
        .iter()
        .flat_map(|count| count.to_ne_bytes())
        .collect();
    input.extend(logits.iter().flat_map(|x| x.bytes()));
    input.extend(targets.bytes::<T::Real>());
    let words = [T::NUMBER as usize, ROWS, classes, stride].map(|word| word.to_string());
    let mut arguments = vec![path];
    arguments.extend(words.iter().map(String::as_str));
    arguments.extend([place, kind]);
    let output = run(steps(), &arguments, path == "cuda", &input);
    let what = format!("{arguments:?}: {}", text(&output.stderr));
    assert!(output.status.success(), "{what}");

    let (size, real) = (size_of::<T>(), size_of::<T::Real>());
    let (summary, rest) = output.stdout.split_at(24);
    let (gradient, rest) = rest.split_at(size * ROWS * stride);
    let (row_losses, rest) = rest.split_at(real * ROWS);
    let (hits, rest) = rest.split_at(ROWS);
    let (predictions, class_counts) = rest.split_at(4 * ROWS);
    let eight = |bytes: &[u8]| -> [u8; 8] { bytes.try_into().expect("8") };
    let [told, told_weight] = [0, 8].map(|at| f64::from_ne_bytes(eight(&summary[at..at + 8])));
    let told_rows = u64::from_ne_bytes(eight(&summary[16..]));
    let within = |got: f64, wanted: f64, scale: f64, tolerance: f64| {
        assert!(
            (got - wanted).abs() <= tolerance * scale.max(1e-3),
            "{got} {wanted}, {what}"
        );
    };
    // Losses are not rounded to the logits' type.
    let loss_tolerance = if real == 8 { 1e-12 } else { 3e-6 };
    let mean = expected.iter().map(|row| row.loss).sum::<f64>() / divisor;
    within(told, mean, mean, loss_tolerance);
    assert_eq!((told_weight, told_rows), (weight, counted as u64), "{what}");
    let mut of_classes = vec![0u64; 2 * classes];
    for row in 0..ROWS {
        let got = T::Real::of(&row_losses[row * real..][..real]).to_f64();
        let wanted = expected[row].loss;
        within(got, wanted, wanted, loss_tolerance);
        let logits = &logits[row * stride..][..stride];
        let got: Vec<T> = gradient[row * stride * size..][..stride * size]
            .chunks(size)
            .map(T::of)
            .collect();
        let wanted = expected[row].gradient.iter().map(|g| g / divisor);
        let largest = wanted.clone().fold(0.0, |most: f64, g| most.max(g.abs()));
        for (got, wanted) in got.iter().zip(wanted) {
            within(got.to_f64(), wanted, largest, T::TOLERANCE);
        }
        for (got, logit) in got[classes..].iter().zip(&logits[classes..]) {
            match place {
                "in_place" => assert_eq!(got.bytes(), logit.bytes(), "{what}"),
                _ => assert_eq!(got.bytes(), vec![77; size], "{what}"),
            }
        }
        let best = reference::prediction(&x[row]).expect("no logit is NaN");
        let first = targets.labels[row];
        let is_hit = best as i64 == first;
        assert_eq!(hits[row], u8::from(is_hit), "row {row}, {what}");
        let counts = !of_rows[row].is_empty();
        let prediction: [u8; 4] = predictions[4 * row..][..4].try_into().expect("4");
        let prediction = u32::from_ne_bytes(prediction);
        let wanted = match (with_recipe, counts) {
            (false, _) => u32::from_ne_bytes([77; 4]),
            (true, true) => best as u32,
            (true, false) => NO_CLASS,
        };
        assert_eq!(prediction, wanted, "row {row}, {what}");
        if with_recipe && path == "cuda" && counts && first != IGNORED {
            of_classes[first as usize] += 1;
            of_classes[classes + first as usize] += u64::from(is_hit);
        }
    }
    let class_counts: Vec<u64> = class_counts
        .chunks(8)
        .map(|count| u64::from_ne_bytes(eight(count)))
        .collect();
    assert_eq!(class_counts, of_classes, "{what}");
}

fn check_all<T: InC>(path: &str, kind: &str)
where
    T::Real: InC,
{
    for (classes, stride) in [(3, 3), (10, 13), (365, 365)] {
        check::<T>(path, classes, stride, "apart", kind);
    }
    check::<T>(path, 10, 13, "in_place", kind);
}

#[test]
fn steps_on_the_host_are_the_reference_s() {
    check_all::<f32>("cpu", "plain");
    check_all::<f16>("cpu", "plain");
    check_all::<bf16>("cpu", "plain");
    check_all::<f64>("cpu", "plain");
}

#[test]
fn steps_on_a_stream_are_the_reference_s() {
    check_all::<f32>("cuda", "plain");
    check_all::<f16>("cuda", "plain");
    check_all::<bf16>("cuda", "plain");
}

#[test]
fn recipes_on_the_host_are_the_reference_s() {
    check_all::<f32>("cpu", "recipe");
    check_all::<f16>("cpu", "recipe");
    check_all::<bf16>("cpu", "recipe");
    check_all::<f64>("cpu", "recipe");
}

#[test]
fn recipes_on_a_stream_are_the_reference_s() {
    check_all::<f32>("cuda", "recipe");
    check_all::<f16>("cuda", "recipe");
    check_all::<bf16>("cuda", "recipe");
}

fn assert_passes(what: &str, with_driver: bool) {
    let output = run(steps(), &[what], with_driver, &[]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
}

/// Numbers that are known without a computer.
#[test]
fn each_part_of_a_recipe_does_what_it_says() {
    assert_passes("recipes", false);
    assert_passes("cuda-recipes", true);
}

#[test]
fn new_class_counts_make_the_loss_that_they_would_have_made() {
    assert_passes("counts", false);
    assert_passes("cuda-counts", true);
}

#[test]
fn a_mean_s_divisor_is_told() {
    assert_passes("divisor", false);
}

#[test]
fn structs_of_the_first_version_are_taken() {
    assert_passes("first-sizes", false);
    assert_passes("cuda-first-sizes", true);
}

#[test]
fn a_recipe_is_captured_once_its_kernels_are_loaded() {
    assert_passes("capture", true);
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
