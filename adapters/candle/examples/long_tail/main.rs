//! Trains the ALA loss and the losses it is compared with on long-tailed data: `--help` says how.
//!
//! ```text
//! cargo run --release -p ala-loss-candle --example long_tail
//! ```

mod augmentation;
mod batch;
mod chart;
mod data;
mod dataset;
mod difficulty;
mod embedded;
mod idx;
mod method;
mod model;
mod npy;
mod options;
mod report;
mod sweep;
mod tail;
mod task;
mod training;
mod trials;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use output_file::OutputFile;

use crate::method::{Method, Setting};
use crate::options::Options;
use crate::sweep::Sweep;
use crate::task::{Measured, Tasks};
use crate::training::Recipe;

/// Why a run ended early; its message fits on one line.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    for variable in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        // Trials run side by side, each on one thread: candle's own threads only get in their way.
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var(variable, "1") };
    }
    match run(&Options::parse(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln, which panics where nobody reads any more.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The files of a run's charts. Which of them are written depends on the run.
const CHARTS: [&str; 4] = [
    "accuracy_by_class.svg",
    "accuracy_by_epoch.svg",
    "accuracy_by_difficulty.svg",
    "sweep.svg",
];

/// Trains what the options name and writes the tables to `output`, the charts and the JSON to their
/// files.
fn run(options: &Options, output: &mut impl Write) -> Result<(), Failure> {
    options.check()?;
    // All places are tried first: a typing mistake must not cost the whole training.
    fs::create_dir_all(&options.out)
        .map_err(|error| format!("cannot make the folder {}: {error}", options.out.display()))?;
    let places = CHARTS.map(|name| OutputFile::at(options.out.join(name)));
    let [by_class, by_epoch, by_difficulty, of_sweep] = places;
    let places = [by_class?, by_epoch?, by_difficulty?, of_sweep?];
    let json = options.json.as_ref().map(OutputFile::at).transpose()?;

    let tasks = Tasks::load(options, &options.device.open()?)?;
    let methods = options.distinct_methods();
    let recipe = Recipe {
        steps: options.steps(),
        mixup: options.mixup,
        label_smoothing: options.label_smoothing,
        parts: options.accumulate as usize,
    };
    let (seeds, scale) = (options.seeds, options.scale);
    let sweep = match options.sweep {
        true => Some(sweep::run(
            &tasks,
            &methods,
            scale,
            options.sweep_seeds(),
            recipe,
        )?),
        false => None,
    };
    let tested = match &sweep {
        Some(sweep) => sweep.to_test(scale),
        None => methods.iter().map(|method| method.untuned(scale)).collect(),
    };
    let mut trials = trials::run(&tasks, Measured::Test, &tested, seeds, recipe)?;
    difficulty::fill(&mut trials);

    // Every seed has the same counts, only on other classes.
    let example = tasks.of_seed(0, Measured::Test)?;
    let charts = charts(&trials, &tested, sweep.as_ref(), &example.counts)?;
    // The files come before the text: whoever reads that may stop early.
    let drawn = places.iter().zip(charts);
    let mut files: Vec<(&OutputFile, String)> = drawn
        .filter_map(|(place, chart)| Some((place, chart?)))
        .collect();
    let drawn = files.len();
    if let Some(json) = &json {
        let tried = sweep.as_ref().map_or(&[][..], |sweep| &sweep.tried);
        let all: Vec<&report::Trial> = tried.iter().chain(&trials).collect();
        let mut text = serde_json::to_string_pretty(&all)?;
        text.push('\n');
        files.push((json, text));
    }
    output_file::write_all(&files)?;

    writeln!(
        output,
        "{}",
        report::group_line(&example.counts, example.groups)
    )?;
    let over = |seeds: u64| format!("{seeds} seed{}", if seeds == 1 { "" } else { "s" });
    if let Some(Sweep {
        candidates,
        tried,
        chosen,
    }) = &sweep
    {
        writeln!(
            output,
            "Accuracy on validation images in %, mean ± standard deviation, {}.\n{}",
            over(options.sweep_seeds()),
            report::sweep_table(tried, chosen, candidates)
        )?;
    }
    let paired = if methods.contains(&Method::CrossEntropy) && methods.len() > 1 {
        "; below it, the difference to ce paired by seed"
    } else {
        ""
    };
    let recipe = report::recipe(recipe);
    writeln!(
        output,
        "Test accuracy in %, mean ± standard deviation, {}{paired}.{recipe}",
        over(seeds)
    )?;
    writeln!(
        output,
        "{}",
        report::table(&trials, &tested, Method::CrossEntropy)
    )?;
    if let Some(table) = report::difficulty_table(&trials, &tested) {
        writeln!(
            output,
            "Of the test samples in fifths, by the target's cosine under ce-cosine:\n{table}"
        )?;
    }
    for (chart, _) in &files[..drawn] {
        writeln!(output, "Chart: {}", chart.path().display())?;
    }
    if let Some(json) = &json {
        writeln!(output, "JSON: {}", json.path().display())?;
    }
    Ok(())
}

/// The texts of [`CHARTS`], as far as there is something to show. Of a method that was tuned they
/// show what was chosen.
fn charts(
    trials: &[report::Trial],
    tested: &[Setting],
    sweep: Option<&Sweep>,
    counts: &ala_loss::ClassCounts,
) -> Result<[Option<String>; CHARTS.len()], Failure> {
    let shown = sweep.map_or(tested, |sweep| &sweep.chosen);
    let ranked: Vec<u64> = report::ranked(counts)
        .iter()
        .map(|&class| counts.as_slice()[class])
        .collect();
    Ok([
        Some(chart::by_class(trials, shown, &ranked)?),
        Some(chart::by_epoch(trials, shown)?),
        chart::by_difficulty(trials, shown)?,
        match sweep {
            Some(sweep) => chart::sweep(&sweep.tried, &sweep.candidates)?,
            None => None,
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fmt::Write as _;
    use std::path::Path;

    /// Runs the trainer with these options and returns what it prints.
    fn output_of(folder: &Path, arguments: &str) -> Result<String, String> {
        let arguments = arguments.split_whitespace().map(str::to_owned);
        let fixed = [
            "long_tail".to_owned(),
            "--out".to_owned(),
            folder.join("out").display().to_string(),
        ];
        let options = Options::try_parse_from(fixed.into_iter().chain(arguments))
            .map_err(|error| error.to_string())?;
        let mut output = Vec::new();
        run(&options, &mut output).map_err(|error| error.to_string())?;
        String::from_utf8(output).map_err(|error| error.to_string())
    }

    fn json(path: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).expect("the run wrote it");
        serde_json::from_str(&text).expect("the run wrote an array")
    }

    /// Over a method's seeds.
    fn mean_of(trials: &[serde_json::Value], method: &str, column: &str) -> f64 {
        let of_method = trials.iter().filter(|trial| trial["method"] == method);
        let values = of_method.map(|trial| trial[column].as_f64().expect("accuracies are numbers"));
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// A version 1.0 file of little-endian values.
    fn write_npy(path: &Path, kind: &str, shape: &str, values: &[u8]) {
        let mut header = String::new();
        write!(
            header,
            "{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}"
        )
        .expect("a string takes all text");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend_from_slice(&(header.len() as u16).to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(values);
        fs::write(path, file).expect("the folder is writable");
    }

    /// The claim of the whole example, at a fifth of its training.
    #[test]
    fn ala_beats_cross_entropy_on_rare_classes() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let file = folder.path().join("results.json");
        let arguments = format!(
            "--seeds 2 --steps 200 --methods ce,ala --json {}",
            file.display()
        );
        let output = output_of(folder.path(), &arguments).expect("the defaults run");
        assert!(output.contains("few under 93 (3 classes)"), "{output}");
        assert!(folder.path().join("out/accuracy_by_class.svg").exists());
        assert!(output.contains("accuracy_by_class.svg"), "{output}");

        let trials = json(&file);
        assert_eq!(trials.len(), 4);
        let mean = |method: &str, column: &str| mean_of(&trials, method, column);
        assert!(mean("ce", "overall") > 60.0, "the baseline does not learn");
        assert!(mean("ala", "few") > mean("ce", "few") + 1.0);
        assert!(mean("ala", "overall") > mean("ce", "overall"));
    }

    /// A sweep tries every candidate on validation images with every seed, and tests the untuned
    /// setting and the chosen one; of a method without choices there is one.
    #[test]
    fn a_sweep_chooses_on_validation_images_and_tests_both() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let file = folder.path().join("results.json");
        let arguments = format!(
            "--sweep --seeds 3 --sweep-seeds 2 --steps 12 --methods ce,balanced-softmax --json {}",
            file.display()
        );
        let output = output_of(folder.path(), &arguments).expect("valid options");
        let trials = json(&file);
        let named = |measured: &str, seed: u64| -> Vec<(String, String)> {
            let word = |trial: &serde_json::Value, key: &str| {
                trial[key].as_str().expect("a word").to_owned()
            };
            trials
                .iter()
                .filter(|trial| trial["measured"] == measured && trial["seed"] == seed)
                .map(|trial| (word(trial, "method"), word(trial, "setting")))
                .collect()
        };
        let softmax = |tau: &str| ("balanced-softmax".to_owned(), format!("tau {tau}"));
        let ce = ("ce".to_owned(), String::new());
        let tried = [
            ce.clone(),
            softmax("1"),
            softmax("0.5"),
            softmax("1.5"),
            softmax("2"),
        ];
        assert_eq!(named("validation", 0), tried);
        assert_eq!(named("validation", 1), tried);
        assert_eq!(named("validation", 2), []);

        // The best of the four, by the mean of two seeds.
        let mean = |setting: &(String, String)| {
            let values = trials.iter().filter(|trial| {
                trial["measured"] == "validation" && trial["setting"] == setting.1.as_str()
            });
            let values = values.map(|trial| trial["overall"].as_f64().expect("a number"));
            values.sum::<f64>() / 2.0
        };
        let best = tried[2..].iter().fold(&tried[1], |best, other| {
            if mean(other) > mean(best) {
                other
            } else {
                best
            }
        });
        let mut tested = vec![ce, softmax("1")];
        if *best != tested[1] {
            tested.push(best.clone());
        }
        assert_eq!(named("test", 0), tested);
        assert_eq!(named("test", 1), tested);
        assert_eq!(named("test", 2), tested);
        for over in [
            "Accuracy on validation images in %, mean ± standard deviation, 2 seeds.",
            "Test accuracy in %, mean ± standard deviation, 3 seeds;",
        ] {
            assert!(output.contains(over), "{output}");
        }
        let marked: Vec<&str> = output.lines().filter(|line| line.contains('*')).collect();
        assert!(marked.len() == 2 && marked[1].contains(&best.1), "{output}");
        assert!(folder.path().join("out/sweep.svg").exists());
        assert!(output.contains("sweep.svg"), "{output}");
    }

    /// There are as many classes as the field's benchmarks have, and none of the groups is empty.
    #[test]
    fn symbols_are_trained_and_measured_in_every_group() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let file = folder.path().join("results.json");
        let arguments = format!(
            "--dataset symbols --seeds 1 --steps 2 --methods ce-cosine --json {}",
            file.display()
        );
        let output = output_of(folder.path(), &arguments).expect("it is embedded");
        assert!(!output.contains("(0 classes)"), "{output}");
        let trial = &json(&file)[0];
        for group in ["many", "medium", "few"] {
            assert!(trial[group].is_number(), "{group}");
        }
        // What it judges by are its own cosines: where they are small nothing is right.
        let fifths = trial["by_difficulty"]
            .as_array()
            .expect("there is ce-cosine");
        assert_eq!(fifths[0], 0.0);
        for chart in &CHARTS[..3] {
            assert!(folder.path().join("out").join(chart).exists(), "{chart}");
        }
        assert!(!folder.path().join("out/sweep.svg").exists());
    }

    /// The accuracies of these methods, by method and group, after so many steps with one seed.
    fn after_steps_on_symbols(steps: u32, methods: &str) -> impl Fn(&str, &str) -> f64 {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let file = folder.path().join("results.json");
        let arguments = format!(
            "--dataset symbols --seeds 1 --steps {steps} --methods {methods} --json {}",
            file.display()
        );
        output_of(folder.path(), &arguments).expect("it is embedded");
        let trials = json(&file);
        move |method, column| mean_of(&trials, method, column)
    }

    /// After a fifth of the training. That ALA beats cross-entropy on rare classes is not so on
    /// symbols, tuned or not: see docs/results.md.
    #[test]
    fn the_difficulty_factor_pays_on_symbols() {
        let accuracy = after_steps_on_symbols(1200, "quantity-only,ala-attached");
        assert!(
            accuracy("quantity-only", "overall") > 14.0,
            "nothing is learnt"
        );
        for column in ["overall", "medium"] {
            assert!(accuracy("ala-attached", column) > accuracy("quantity-only", column) + 0.5);
        }
    }

    #[test]
    fn class_frequencies_help_rare_symbols() {
        let accuracy = after_steps_on_symbols(600, "ce,balanced-softmax");
        assert!(
            accuracy("ce", "overall") > 10.0,
            "the baseline does not learn"
        );
        assert!(accuracy("balanced-softmax", "few") > accuracy("ce", "few") + 2.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let trials = ["a.json", "b.json"].map(|name| {
            let file = folder.path().join(name);
            let arguments = format!(
                "--seeds 2 --steps 5 --methods ldam,focal --json {}",
                file.display()
            );
            output_of(folder.path(), &arguments).expect("valid options run");
            json(&file)
        });
        assert_eq!(trials[0], trials[1]);
        assert_ne!(trials[0][0]["overall"], trials[0][2]["overall"]);
    }

    /// Above the table the recipe of the training is told, as far as it is not the plain one.
    #[test]
    fn mixup_smoothing_and_accumulation_are_told() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        for (arguments, told) in [
            ("", "1 seed.\n"),
            ("--accumulate 5", "1 seed. Each batch in 5 parts.\n"),
            (
                "--mixup 0.2 --label-smoothing 0.3 --accumulate 2",
                "1 seed. Mixup with alpha 0.2. Label smoothing 0.3. Each batch in 2 parts.\n",
            ),
        ] {
            let arguments = format!("--seeds 1 --steps 2 --methods ala {arguments}");
            let text = output_of(folder.path(), &arguments).expect("valid options");
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn a_smoothed_focal_loss_is_refused_before_anything_is_trained() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        for methods in ["", "--methods ala,focal"] {
            let arguments = format!("--label-smoothing 0.1 --data /no/such/folder {methods}");
            let error = output_of(folder.path(), &arguments).expect_err("no smoothed form");
            assert!(error.contains("focal has no smoothed form"), "{error}");
        }
        let arguments = "--seeds 1 --steps 1 --methods focal --mixup 1 --accumulate 2";
        output_of(folder.path(), arguments).expect("it can be mixed");
    }

    #[test]
    fn extracted_features_are_trained_on_as_they_are() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let at = |name: &str| folder.path().join(name);
        // Two classes of 130 and 10 samples on different axes: any head separates them.
        let counts = [130, 10];
        let mut features = Vec::new();
        let mut labels = Vec::new();
        for (class, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                let mut sample = [0.1f32; 3];
                sample[class] = 1.0;
                features.extend(sample.iter().flat_map(|x| x.to_le_bytes()));
                labels.extend((class as i64).to_le_bytes());
            }
        }
        write_npy(&at("x.npy"), "<f4", "140, 3", &features);
        write_npy(&at("y.npy"), "<i8", "140,", &labels);
        let arguments = format!(
            "--seeds 1 --steps 60 --methods ce,ala --features {x} --labels {y} --test-features {x} --test-labels {y} --json {json}",
            x = at("x.npy").display(),
            y = at("y.npy").display(),
            json = at("r.json").display(),
        );
        let output = output_of(folder.path(), &arguments).expect("the files are valid");
        // The field's groups, on the counts of the labels.
        assert!(
            output.contains(
                "many over 100 (1 class), medium 20 to 100 (0 classes), few under 20 (1 class)"
            ),
            "{output}"
        );
        let trials = json(&at("r.json"));
        assert!(trials.iter().all(|trial| trial["medium"].is_null()));
        assert_eq!(trials[1]["method"], "ala");
        assert_eq!(trials[1]["few"], 100.0);
    }

    /// Of the class that the test set lacks there is no accuracy, and of its group neither; the
    /// others' are there.
    #[test]
    fn a_test_set_that_lacks_a_class_gives_the_accuracy_of_the_others() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let at = |name: &str| folder.path().join(name).display().to_string();
        // Three classes on axes of their own, many, medium and few; counted from 1.
        let write = |name: &str, counts: [usize; 3]| {
            let mut features = Vec::new();
            let mut labels = Vec::new();
            for (class, count) in counts.into_iter().enumerate() {
                for _ in 0..count {
                    let mut sample = [0.1f32; 3];
                    sample[class] = 1.0;
                    features.extend(sample.iter().flat_map(|x| x.to_le_bytes()));
                    labels.extend((class as i64 + 1).to_le_bytes());
                }
            }
            let rows: usize = counts.iter().sum();
            let (x, y) = (at(&format!("{name}_x.npy")), at(&format!("{name}_y.npy")));
            write_npy(Path::new(&x), "<f4", &format!("{rows}, 3"), &features);
            write_npy(Path::new(&y), "<i8", &format!("{rows},"), &labels);
        };
        write("train", [130, 50, 10]);
        write("test", [6, 0, 4]);
        let arguments = format!(
            "--seeds 1 --steps 400 --methods ala --first-label 1 --features {} --labels {} --test-features {} --test-labels {} --json {}",
            at("train_x.npy"),
            at("train_y.npy"),
            at("test_x.npy"),
            at("test_y.npy"),
            at("r.json"),
        );
        let output = output_of(folder.path(), &arguments).expect("the files are valid");
        assert!(!output.contains("NaN"), "{output}");
        let trials = json(Path::new(&at("r.json")));
        let expected = serde_json::json!({
            "method": "ala", "setting": "s 30, log2", "measured": "test", "seed": 0,
            "overall": 100.0, "many": 100.0, "medium": null, "few": 100.0, "by_difficulty": null,
        });
        let mut trial = trials[0].clone();
        let by_epoch = trial
            .as_object_mut()
            .and_then(|trial| trial.remove("by_epoch"));
        let by_epoch = by_epoch.expect("it is measured on the way");
        assert_eq!(by_epoch.as_array().map(Vec::len), Some(8));
        assert_eq!(trials.len(), 1);
        assert_eq!(trial, expected);
        let chart = fs::read_to_string(folder.path().join("out/accuracy_by_class.svg"));
        assert!(!chart.expect("the run wrote it").contains("NaN"));
    }

    #[cfg(unix)]
    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        fs::create_dir(&odd).expect("the file system takes such names");
        write_npy(&odd.join("x.npy"), "<f4", "2, 1", &[0; 8]);
        write_npy(&odd.join("y.npy"), "|u1", "2,", &[0, 1]);
        let mut arguments: Vec<std::ffi::OsString> = "long_tail --seeds 1 --steps 1 --methods ce"
            .split(' ')
            .map(Into::into)
            .collect();
        for (option, file) in [
            ("--features", "x.npy"),
            ("--labels", "y.npy"),
            ("--test-features", "x.npy"),
            ("--test-labels", "y.npy"),
            ("--json", "r.json"),
            ("--out", "charts"),
        ] {
            arguments.extend([option.into(), odd.join(file).into_os_string()]);
        }
        let options = Options::try_parse_from(arguments).expect("paths are bytes");
        run(&options, &mut Vec::new()).expect("the files are valid");
        assert_eq!(json(&odd.join("r.json")).len(), 1);
        assert!(odd.join("charts/accuracy_by_class.svg").exists());
    }

    #[test]
    fn errors_are_one_line_and_name_the_file() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let broken = folder.path().join("broken.npy");
        fs::write(&broken, "no array").expect("the folder is writable");
        let broken = broken.display();
        let cases = [
            ("--data /no/such/folder".to_owned(), "/no/such/folder"),
            (
                format!(
                    "--features {broken} --labels {broken} --test-features {broken} --test-labels {broken}"
                ),
                "broken.npy",
            ),
            (
                "--json /no/such/folder/r.json".to_owned(),
                "/no/such/folder/r.json",
            ),
        ];
        for (arguments, named) in cases {
            let error = output_of(folder.path(), &arguments).expect_err("nothing is there");
            assert!(error.contains(named), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_run_that_fails_leaves_an_earlier_one_s_files_and_one_that_ends_replaces_them() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let (file, chart) = (
            folder.path().join("results.json"),
            folder.path().join("out/accuracy_by_class.svg"),
        );
        let run = |arguments: &str| {
            let fixed = format!(
                "--seeds 1 --steps 3 --methods ala --json {}",
                file.display()
            );
            output_of(folder.path(), &format!("{fixed} {arguments}"))
        };
        run("").expect("valid options run");
        let earlier = [&file, &chart].map(|path| fs::read(path).expect("the run wrote it"));
        // Before the training, and within it.
        for fails in ["--data /no/such/folder", "--scale 1e300"] {
            run(fails).expect_err("it cannot be trained");
            let now = [&file, &chart].map(|path| fs::read(path).expect("it is still there"));
            assert_eq!(now, earlier, "{fails}");
        }
        fs::write(&file, "[]").expect("the folder is writable");
        fs::write(&chart, "").expect("the folder is writable");
        run("").expect("valid options run");
        let again = [&file, &chart].map(|path| fs::read(path).expect("the run wrote it"));
        assert_eq!(again, earlier, "the same run once more");
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("the folder is there")
            .map(|entry| entry.expect("a name").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["out", "results.json"], "nothing is left beside");
    }

    #[test]
    fn places_for_results_are_tried_before_the_samples_are_read() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        fs::create_dir_all(folder.path().join("out/accuracy_by_class.svg")).expect("writable");
        let error = output_of(folder.path(), "--data /no/such/folder").expect_err("a folder");
        assert!(error.contains("accuracy_by_class.svg"), "{error}");
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_so() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let error = output_of(folder.path(), "--device cuda:1").expect_err("no CUDA");
        assert!(error.contains("--features cuda"), "{error}");
    }

    #[test]
    fn a_scale_that_f32_cannot_hold_ends_the_run_with_an_error() {
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let arguments = "--seeds 1 --steps 3 --methods ala --scale 1e300";
        let error = output_of(folder.path(), arguments).expect_err("f32 ends at 3.4e38");
        assert!(error.contains("scale is 1"), "{error}");
    }
}
