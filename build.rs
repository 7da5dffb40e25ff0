//! With the feature `cuda`, compiles the kernels into a fatbin for each element type and map, which
//! the crate embeds; with `instruments`, those that measurements stand beside into one more.
//!
//! Without nvcc the crate still builds, with a warning, and the CUDA path answers with an error
//! that says what to do.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ala_kernels)");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::build();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    /// Architectures that get machine code, as far as the toolkit knows them.
    const MACHINE_CODE: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
    /// The newest architecture whose PTX is embedded: devices without machine code of their own
    /// compile it.
    const PTX: u32 = 90;
    const KERNELS: &str = "kernels";
    /// The units that kernels are loaded by, as in `src/cuda/module.rs`.
    const TYPES: [&str; 3] = ["f32", "f16", "bf16"];
    const MAPS: [&str; 2] = ["uniform", "per_class"];
    const VARIABLES: [&str; 6] = [
        "ALA_CUDA_ARCHS",
        "CUDA_HOME",
        "CUDA_PATH",
        "DOCS_RS",
        "NVCC",
        "PATH",
    ];

    pub(super) fn build() {
        for variable in VARIABLES {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let kernels = Path::new(KERNELS);
        println!("cargo::rerun-if-changed={}", kernels.display());
        if env::var_os("DOCS_RS").is_some() || env::var("NVCC").is_ok_and(|nvcc| nvcc == "off") {
            return;
        }
        let Some(nvcc) = find_nvcc() else {
            println!(
                "cargo::warning=ala-loss: no nvcc found, so the CUDA path will only return errors; install the CUDA toolkit (or set NVCC, CUDA_HOME or CUDA_PATH), or set NVCC=off to silence this"
            );
            return;
        };
        let known = known_architectures(&nvcc);
        let (machine, ptx) = match env::var("ALA_CUDA_ARCHS") {
            Ok(list) => chosen_architectures(&list, &known),
            Err(_) => {
                let machine: Vec<u32> = MACHINE_CODE
                    .into_iter()
                    .filter(|arch| known.contains(arch))
                    .collect();
                let ptx = known.iter().copied().filter(|&arch| arch <= PTX).max();
                (machine, ptx.into_iter().collect())
            }
        };
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let compile = |source: &str, options: &[String], name: &str| {
            let (source, fatbin) = (
                kernels.join(source),
                out.join(name).with_extension("fatbin"),
            );
            compile(&nvcc, &machine, &ptx, &source, options, &fatbin)
        };

        let mut report = String::new();
        for (ty, map) in TYPES.iter().flat_map(|ty| MAPS.map(|map| (ty, map))) {
            let unit = [format!("-DALA_TYPE={ty}"), format!("-DALA_MAP={map}")];
            report.push_str(&compile("ala.cu", &unit, &format!("{ty}_{map}")));
        }
        if cfg!(feature = "instruments") {
            report.push_str(&compile("dev/instruments.cu", &[], "instruments"));
            fs::write(out.join("ptxas.txt"), report).expect("OUT_DIR is writable");
        }
        println!("cargo::rustc-cfg=ala_kernels");
        println!("cargo::rustc-env=ALA_KERNELS={}", out.display());
    }

    /// Compiles one source into a fatbin, and gives what ptxas says of its kernels.
    fn compile(
        nvcc: &Path,
        machine: &[u32],
        ptx: &[u32],
        source: &Path,
        options: &[String],
        fatbin: &Path,
    ) -> String {
        let mut command = Command::new(nvcc);
        command
            .args(["-fatbin", "-std=c++17", "-O3", "-Xptxas=-v"])
            // One process an architecture, as many at a time as there are cores.
            .args(["--threads", "0"])
            .args(["-I", KERNELS])
            .args(options);
        // Readable PTX, so that a driver in software can run it. From version to version it is
        // asked for in another way.
        if let Some(readable) = ["--no-compress", "--compress-mode=none"]
            .into_iter()
            .find(|option| knows(nvcc, option))
        {
            command.arg(readable);
        }
        if let Some(compiler) = host_compiler() {
            command.arg("-ccbin").arg(compiler);
        }
        for arch in machine {
            // The PTX of 89 is that of 86 but for the name: where both are wanted it is made once.
            let shared = *arch == 89 && machine.contains(&86);
            let ptx = if shared { 86 } else { *arch };
            command.arg(format!("-gencode=arch=compute_{ptx},code=sm_{arch}"));
        }
        for arch in ptx {
            command.arg(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
        }
        command.arg("-o").arg(fatbin).arg(source);
        let Output {
            status,
            stdout,
            stderr,
        } = match command.output() {
            Ok(output) => output,
            Err(error) => panic!("cannot run {}: {error}", nvcc.display()),
        };
        let report = format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
        assert!(status.success(), "{command:?} failed ({status}):\n{report}");
        report
    }

    fn find_nvcc() -> Option<PathBuf> {
        let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
        if let Some(nvcc) = env::var_os("NVCC") {
            let nvcc = PathBuf::from(nvcc);
            assert!(
                runs(&nvcc),
                "NVCC is set to {}, which does not run",
                nvcc.display()
            );
            return Some(nvcc);
        }
        let toolkits = ["CUDA_HOME", "CUDA_PATH"]
            .into_iter()
            .filter_map(env::var_os)
            .map(|home| PathBuf::from(home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path: Vec<PathBuf> = env::split_paths(&path).collect();
        let usual = ["/usr/local/cuda/bin", "/opt/cuda/bin"].map(PathBuf::from);
        toolkits
            .chain(path)
            .chain(usual)
            .map(|folder| folder.join(&name))
            .find(|nvcc| nvcc.is_file() && runs(nvcc))
    }

    fn runs(nvcc: &Path) -> bool {
        Command::new(nvcc)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Whether nvcc lists an option.
    fn knows(nvcc: &Path, option: &str) -> bool {
        let name = option.split('=').next().unwrap_or(option);
        Command::new(nvcc)
            .arg("--help")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(name))
    }

    fn known_architectures(nvcc: &Path) -> Vec<u32> {
        let output = Command::new(nvcc)
            .arg("--list-gpu-arch")
            .output()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("compute_")?.parse().ok())
            .collect()
    }

    /// `ALA_CUDA_ARCHS`: numbers as in `80,90`; a `+PTX` behind one embeds its PTX too, and the
    /// last number has it where none does.
    fn chosen_architectures(list: &str, known: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let (mut machine, mut ptx) = (Vec::new(), Vec::new());
        for entry in list
            .split([',', ';', ' '])
            .filter(|entry| !entry.is_empty())
        {
            let (number, with_ptx) = match entry.strip_suffix("+PTX") {
                Some(number) => (number, true),
                None => (entry, false),
            };
            let arch = number
                .parse()
                .ok()
                .filter(|arch| known.contains(arch))
                .unwrap_or_else(|| {
                    panic!("ALA_CUDA_ARCHS has {entry:?}: this nvcc knows {known:?}")
                });
            machine.push(arch);
            if with_ptx {
                ptx.push(arch);
            }
        }
        assert!(
            !machine.is_empty(),
            "ALA_CUDA_ARCHS is empty: this nvcc knows {known:?}"
        );
        if ptx.is_empty() {
            ptx.extend(machine.last());
        }
        (machine, ptx)
    }

    /// nvcc finds gcc and clang in PATH by itself, but not MSVC outside a developer prompt.
    fn host_compiler() -> Option<PathBuf> {
        let msvc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "msvc");
        msvc.then(|| cc::Build::new().get_compiler().path().to_path_buf())
    }
}
