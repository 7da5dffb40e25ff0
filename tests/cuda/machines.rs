//! Machines that lack something: no driver, or an older device. Neither may panic or fail to start.

mod packaged;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use softcuda::client::SoftCuda;

use crate::problem::{assert_within, loss_bound};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program on a machine without a driver: the loader's path holds no libcuda.
fn without_driver(program: &Path) -> Output {
    Command::new(program)
        .env_remove("LD_PRELOAD")
        .output()
        .expect("it starts")
}

/// A program on a machine whose driver is the one in software.
fn with_softcuda(program: &Path) -> Output {
    let driver = SoftCuda::locate().expect("softcuda is built beside the tests");
    Command::new(program)
        .env("LD_PRELOAD", driver)
        .output()
        .expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An example. cargo builds it with all targets, but not where only this test is asked for.
fn example(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("a test has a path");
    let profile = tests
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    let example = profile.join("examples").join(name);
    if !example.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--features", "cuda", "--example", name]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let output = build.current_dir(root()).output().expect("cargo runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    example
}

fn has_gpu() -> bool {
    Command::new("nvidia-smi")
        .arg("-L")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn a_binary_with_the_cuda_path_starts_without_a_driver_and_says_so() {
    if has_gpu() {
        eprintln!("this machine has a driver");
        return;
    }
    for name in ["cuda_quickstart", "cuda_training"] {
        let output = without_driver(&example(name));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("no CUDA driver") && error.contains("libcuda.so.1"),
            "{error}"
        );
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn the_quickstart_runs_unchanged_in_software() {
    let output = with_softcuda(&example("cuda_quickstart"));
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let losses = printed.lines().next().expect("a line for the loss");
    let numbers: Vec<f64> = losses
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [gpu, cpu] = numbers[..] else {
        panic!("{printed}")
    };
    assert_within(gpu, cpu, loss_bound(cpu), &|| printed.clone());
}

/// A graph of the whole step, replayed: the loss falls, and classes are told apart that were not.
#[test]
fn the_training_learns_in_software() {
    let output = with_softcuda(&example("cuda_training"));
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let after = |start: &str| -> Vec<f64> {
        let lines = printed.lines().filter(|line| line.starts_with(start));
        let words = lines.flat_map(str::split_whitespace);
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let [before_all, before_few] = after("accuracy before")[..] else {
        panic!("{printed}")
    };
    let [all, few] = after("accuracy after")[..] else {
        panic!("{printed}")
    };
    assert!(before_all < 20.0 && all > 90.0, "{printed}");
    assert!(before_few < 20.0 && few > 80.0, "{printed}");
    let losses: Vec<f64> = printed
        .lines()
        .filter_map(|line| line.split_once("loss ")?.1.parse().ok())
        .collect();
    assert_eq!(losses.len(), 5, "{printed}");
    assert!(losses[4] < 0.5 * losses[0], "{printed}");
}

/// Only where there is that nvcc: another one writes other PTX.
#[test]
fn the_training_s_kernels_are_what_nvcc_makes_of_their_source() {
    let version = Command::new("nvcc").arg("--version").output();
    if !version.is_ok_and(|output| text(&output.stdout).contains("V13.0.88")) {
        eprintln!("no nvcc 13.0.88");
        return;
    }
    let folder = tempfile::tempdir().expect("the system has a folder for such files");
    let made = folder.path().join("kernels.ptx");
    let source = root().join("examples/cuda_training/kernels.cu");
    let output = Command::new("nvcc")
        .args(["-arch=compute_75", "-ptx", "-O3", "-std=c++17", "-o"])
        .args([&made, &source])
        .output()
        .expect("nvcc runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made = std::fs::read_to_string(&made).expect("nvcc wrote it");
    let made = made.replacen(".version 9.0\n", ".version 6.5\n", 1);
    let committed = source.with_extension("ptx");
    if env::var_os("ALA_BLESS").is_some() {
        std::fs::write(&committed, &made).expect("the repository is writable");
    }
    let committed = std::fs::read_to_string(&committed).expect("it is committed");
    assert!(
        committed == made,
        "kernels.ptx is not of kernels.cu: ALA_BLESS=1 writes it"
    );
}

/// The kernels' code differs by compute capability: 16-bit maxima and asynchronous copies came with
/// 8.0, overlapping launches with 9.0. The tests of values on a device of each, by nvcc's own PTX.
#[test]
fn every_tier_is_right_at_every_capability() {
    let built = option_env!("ALA_CUDA_ARCHS").unwrap_or_default();
    for capability in [75, 80, 90] {
        if !built.contains(&format!("{capability}+PTX")) || has_gpu() {
            eprintln!("no PTX for {capability} to run in software; scripts/test has it built");
            continue;
        }
        let output = Command::new(env::current_exe().expect("a test has a path"))
            .args([
                "extreme_rows",
                "edges",
                "parity::every_tier",
                "steps_may_overlap",
                "--test-threads=1",
            ])
            .env("SOFTCUDA_CAPABILITY", capability.to_string())
            .output()
            .expect("it starts");
        let printed = text(&output.stdout);
        assert!(
            output.status.success(),
            "{capability}: {printed}{}",
            text(&output.stderr)
        );
        let passed = printed.matches("... ok").count();
        assert!(passed >= 10, "{passed} tests at {capability}");
    }
}
