//! What a user gets: the crate as it is published, on a machine with a driver and no nvcc.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ala_loss::cuda::{self, Origin};
use softcuda::client::SoftCuda;

use super::{has_gpu, root, text, without_driver};
use crate::problem::{assert_within, loss_bound};

/// What would point a build to nvcc, or to this build's own choices.
const OF_THIS_BUILD: [&str; 8] = [
    "NVCC",
    "ALA_CUDA_ARCHS",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_ROOT",
    "CUDA_TOOLKIT_ROOT_DIR",
    "RUSTFLAGS",
    "CARGO_TARGET_DIR",
];

fn run(command: &mut Command) -> Output {
    for variable in OF_THIS_BUILD {
        command.env_remove(variable);
    }
    let path = env::var_os("PATH").expect("a PATH");
    let without_nvcc = env::split_paths(&path).filter(|folder| !folder.join("nvcc").exists());
    command.env(
        "PATH",
        env::join_paths(without_nvcc).expect("no separators in folders"),
    );
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}\n{}",
        text(&output.stderr)
    );
    output
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    command
}

/// Packages the crates and unpacks them where `tests/downstream` looks for them.
fn unpack() {
    let said = run(Command::new(root().join("scripts/package")).current_dir(root()));
    let said = text(&said.stdout);
    eprint!("{said}");
    let bytes = said
        .lines()
        .find_map(|line| line.strip_prefix("ala-loss: ")?.strip_suffix(" bytes"));
    let bytes: u64 = bytes.expect(&said).parse().expect(&said);
    // Nearly all of it is kernels: 2 MB of plain steps', 0.9 MB of recipes', 0.07 MB of shards'.
    assert!(bytes < 3_300_000, "{bytes}");
}

/// The project that uses it, built in a folder of its own.
fn downstream() -> PathBuf {
    let project = root().join("tests/downstream");
    // The same versions as everywhere else.
    fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).expect("a lock file");
    let target = root().join("target/downstream");
    let target = ["--target-dir", target.to_str().expect("text")];
    let built = run(cargo(&["build"]).args(target).current_dir(&project));
    // It says nothing of kernels or toolkits.
    assert!(
        !text(&built.stderr).contains("warning"),
        "{}",
        text(&built.stderr)
    );
    run(cargo(&["check", "--features", "own-cudarc"])
        .args(target)
        .current_dir(&project));
    root().join("target/downstream/debug/downstream")
}

/// The losses before and after training of one device.
fn losses(printed: &str, device: &str) -> [f64; 2] {
    let line = printed.lines().find_map(|line| line.strip_prefix(device));
    let numbers: Vec<f64> = line
        .unwrap_or_else(|| panic!("no line of {device}: {printed}"))
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{printed}"))
}

/// As on a machine with the driver in software, of some version.
fn with_driver(program: &Path, version: &str) -> String {
    let mut command = Command::new(program);
    command.env("SOFTCUDA_DRIVER", version);
    command.env(
        "LD_PRELOAD",
        SoftCuda::locate().expect("softcuda is built beside the tests"),
    );
    text(&run(&mut command).stdout)
}

#[test]
fn a_project_trains_on_the_package_alone_without_nvcc() {
    unpack();
    let program = downstream();
    let printed = with_driver(&program, "13.0");
    assert!(printed.contains("origin: Prebuilt"), "{printed}");
    let [before, after] = losses(&printed, "cpu ");
    assert!(after < before, "{printed}");
    for (cuda, cpu) in losses(&printed, "cuda ").into_iter().zip([before, after]) {
        assert_within(cuda, cpu, loss_bound(cpu), &|| printed.clone());
    }
    if !has_gpu() {
        let printed = text(&without_driver(&program).stdout);
        losses(&printed, "cpu ");
        assert!(printed.contains("cuda error: no CUDA driver"), "{printed}");
    }
    // Its PTX is newer than this driver, and so is its machine code than the next.
    let printed = with_driver(&program, "11.8");
    assert!(
        printed.contains("of CUDA 11.8, and the kernels need one of 12.0"),
        "{printed}"
    );
    let printed = with_driver(&program, "12.4");
    assert!(
        printed.contains("of CUDA 12.4, and the kernels need one of 12.9"),
        "{printed}"
    );
}

/// Of the kernels as they are, so that all tests of this build are of them.
#[test]
fn the_kernels_are_the_prebuilt_ones_where_nothing_else_is_asked_for() {
    let kernels = cuda::kernels().expect("there are kernels");
    let asked = option_env!("ALA_CUDA_ARCHS").is_some() || option_env!("NVCC").is_some();
    let origin = if asked {
        Origin::Nvcc
    } else {
        Origin::Prebuilt
    };
    assert_eq!(kernels.origin, origin, "scripts/prebuild renews them");
    let manifest = root().join("kernels/prebuilt/manifest.txt");
    let manifest = fs::read_to_string(manifest).expect("it is there");
    assert!(
        manifest.contains(&format!("\nsources {}\n", kernels.sources)),
        "{manifest}"
    );
    if !asked {
        assert!(manifest.contains(&format!("\ncompiler {}\n", kernels.compiler)));
        let mut machine_code = kernels.machine_code.to_vec();
        machine_code.sort_unstable();
        assert_eq!(
            (machine_code, kernels.ptx),
            (vec![75, 80, 86, 89, 90, 100, 120], &[90][..])
        );
    }
}
