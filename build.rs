//! With the feature `cuda`, decides which kernels the crate embeds, and tells `src/cuda/image.rs`:
//! those of `kernels/prebuilt`, or what nvcc makes of `kernels` where it is asked for or where they
//! have changed. With `instruments`, compiles those that measurements stand beside.
//!
//! A user needs no nvcc. Without one `instruments` has no kernels of its own, and changed kernels
//! are an error when they are called.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::build();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::collections::BTreeMap;
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use hmac_sha256::Hash;

    const KERNELS: &str = "kernels";
    const PREBUILT: &str = "kernels/prebuilt";
    /// The units that kernels are loaded by, as in `src/cuda/image.rs`.
    const TYPES: [&str; 3] = ["f32", "f16", "bf16"];
    const MAPS: [&str; 2] = ["uniform", "per_class"];
    /// How prebuilt files are named, before the numbers of their architectures.
    const KINDS: [&str; 4] = ["sm", "compute", RECIPE_PTX, SHARD_PTX];
    const RECIPE_PTX: &str = "recipe_compute";
    const SHARD_PTX: &str = "shard_compute";
    /// What asks for nvcc, and what says where it is.
    const ASKING: [&str; 2] = ["ALA_CUDA_ARCHS", "NVCC"];
    const SEARCHED: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "PATH"];

    pub(super) fn build() {
        rerun_if_changed(ASKING);
        println!("cargo::rerun-if-changed={KERNELS}");
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let prebuilt = Prebuilt::read();
        let sources = sources_hash();
        let current = prebuilt.sources == sources;
        let asked = env::var_os("NVCC").is_some_and(|nvcc| nvcc != "off")
            || env::var_os("ALA_CUDA_ARCHS").is_some();

        // Looked for only where it is used: nothing else depends on what is in PATH.
        let needed = asked || !current || cfg!(feature = "instruments");
        if needed {
            rerun_if_changed(SEARCHED);
        }
        let toolkit = needed
            .then(find_nvcc)
            .flatten()
            .map(|nvcc| Toolkit::new(nvcc, &prebuilt));
        // What ptxas says of what nvcc compiles.
        let mut report = String::new();
        let embedded = match &toolkit {
            Some(toolkit) if asked || !current => toolkit.embed(&sources, &out, &mut report),
            _ if current => {
                if asked {
                    println!(
                        "cargo::warning=ala-loss: ALA_CUDA_ARCHS is set, but no nvcc was found: the prebuilt kernels are taken"
                    );
                }
                prebuilt.embed()
            }
            _ => {
                println!(
                    "cargo::warning=ala-loss: the kernels have changed since they were prebuilt and no nvcc was found, so the CUDA path will only return errors; install the CUDA toolkit (or set NVCC, CUDA_HOME or CUDA_PATH)"
                );
                "None".into()
            }
        };
        let write = |name: &str, text: &str| {
            fs::write(out.join(name), text).expect("OUT_DIR is writable");
        };
        write("embedded.rs", &embedded);
        if cfg!(feature = "instruments") {
            let fatbin = toolkit.map(|toolkit| {
                let fatbin = out.join("instruments.fatbin");
                report += &toolkit.compile("dev/instruments.cu", &[], &fatbin);
                fatbin
            });
            let fatbin = match fatbin {
                Some(path) => format!("Some(include_bytes!({path:?}))"),
                None => "None".into(),
            };
            let instruments = format!("Compiled {{ fatbin: {fatbin}, report: {report:?} }}");
            write("instruments.rs", &instruments);
        }
    }

    fn rerun_if_changed<const N: usize>(variables: [&str; N]) {
        for variable in variables {
            println!("cargo::rerun-if-env-changed={variable}");
        }
    }

    /// What `kernels/prebuilt/manifest.txt` says.
    struct Prebuilt {
        compiler: String,
        sources: String,
        driver_for_machine_code: String,
        driver_for_ptx: String,
        /// By name.
        files: Vec<String>,
    }

    impl Prebuilt {
        fn read() -> Self {
            let manifest = Path::new(PREBUILT).join("manifest.txt");
            let text = fs::read_to_string(&manifest)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", manifest.display()));
            let mut said: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (key, value) = line.split_once(' ').expect("a key and a value");
                said.entry(key).or_default().push(value);
            }
            let one = |key| said[key][0].to_owned();
            let files = said["file"].iter();
            Self {
                compiler: one("compiler"),
                sources: one("sources"),
                driver_for_machine_code: one("driver_for_machine_code"),
                driver_for_ptx: one("driver_for_ptx"),
                files: files
                    .filter_map(|file| Some(file.split_once(' ')?.0.to_owned()))
                    .collect(),
            }
        }

        /// The architectures of the files of one kind, `sm` or `compute`.
        fn architectures(&self, kind: &str) -> Vec<u32> {
            let files = self.files.iter();
            files
                .flat_map(|file| architectures_of(file, kind))
                .collect()
        }

        fn embed(&self) -> String {
            let files: String = self
                .files
                .iter()
                .map(|file| {
                    let kind = KINDS
                        .into_iter()
                        .find(|kind| !architectures_of(file, kind).is_empty())
                        .unwrap_or_else(|| panic!("{file} is of no kind"));
                    let of = architectures_of(file, kind);
                    let is_ptx = kind != "sm";
                    let steps = match kind {
                        RECIPE_PTX => "Recipe",
                        SHARD_PTX => "Shard",
                        _ => "Plain",
                    };
                    let path = fs::canonicalize(Path::new(PREBUILT).join(file));
                    let path = path.unwrap_or_else(|error| panic!("cannot find {file}: {error}"));
                    format!(
                        "Family {{ steps: Steps::{steps}, is_ptx: {is_ptx}, architectures: &{of:?}, packed: include_bytes!({path:?}) }}, "
                    )
                })
                .collect();
            embedded(
                &self.compiler,
                &self.sources,
                [&self.architectures("sm"), &self.architectures("compute")],
                [&self.driver_for_machine_code, &self.driver_for_ptx],
                &format!("Images::Prebuilt(&[{files}])"),
            )
        }
    }

    /// `sm_80_86.lzma` has those of 80 and 86.
    fn architectures_of(file: &str, kind: &str) -> Vec<u32> {
        let stem = file.split('.').next().unwrap_or_default();
        let numbers = stem.strip_prefix(kind).unwrap_or_default().split('_');
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// An `Option<Embedded>` of `src/cuda/image.rs`, as source.
    fn embedded(
        compiler: &str,
        sources: &str,
        [machine_code, ptx]: [&[u32]; 2],
        drivers: [&str; 2],
        images: &str,
    ) -> String {
        let [for_machine_code, for_ptx] = drivers.map(|version| {
            let (major, minor) = version.split_once('.').expect("a version has a point");
            format!("({major}, {minor})")
        });
        format!(
            "Some(Embedded {{ compiler: {compiler:?}, sources: {sources:?}, machine_code: &{machine_code:?}, ptx: &{ptx:?}, driver_for_machine_code: {for_machine_code}, driver_for_ptx: {for_ptx}, images: {images} }})"
        )
    }

    /// SHA-256 over the path and text of every file that the kernels are made of, as
    /// `scripts/prebuild` takes it.
    fn sources_hash() -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(KERNELS)
            .expect("the kernels are there")
            .map(|entry| entry.expect("a file").path())
            .filter(|file| {
                file.extension()
                    .is_some_and(|kind| kind == "cu" || kind == "cuh" || kind == "h")
            })
            .collect();
        files.sort();
        let mut hash = Hash::new();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
                // A checkout may have lines end in another way.
                .replace("\r\n", "\n");
            for part in [name.as_bytes(), text.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let bytes = hash.finalize();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An nvcc, and the architectures that it compiles for.
    struct Toolkit {
        nvcc: PathBuf,
        /// `13.0.88`.
        version: String,
        machine_code: Vec<u32>,
        ptx: Vec<u32>,
    }

    impl Toolkit {
        fn new(nvcc: PathBuf, prebuilt: &Prebuilt) -> Self {
            let said = says(&nvcc, "--version").unwrap_or_default();
            let version = said
                .split([',', ' ', '\n'])
                .find_map(|word| word.strip_prefix('V').filter(|rest| rest.contains('.')))
                .unwrap_or_else(|| panic!("{} tells no version:\n{said}", nvcc.display()))
                .to_owned();
            let known = known_architectures(&nvcc);
            let (machine_code, ptx) = match env::var("ALA_CUDA_ARCHS") {
                Ok(list) => chosen_architectures(&list, &known),
                // As prebuilt, as far as this nvcc knows them.
                Err(_) => {
                    let mut machine_code = prebuilt.architectures("sm");
                    machine_code.retain(|arch| known.contains(arch));
                    let most = prebuilt.architectures("compute").into_iter().max();
                    let ptx = known
                        .iter()
                        .copied()
                        .filter(|&arch| Some(arch) <= most)
                        .max();
                    (machine_code, ptx.into_iter().collect())
                }
            };
            Self {
                nvcc,
                version,
                machine_code,
                ptx,
            }
        }

        /// Compiles every unit.
        fn embed(&self, sources: &str, out: &Path, report: &mut String) -> String {
            let mut fatbins = String::new();
            for (steps, options) in [
                ("plain", &[][..]),
                ("recipe", &["-DALA_RECIPE"]),
                ("shard", &["-DALA_SHARD"]),
            ] {
                fatbins += "[";
                for (ty, map) in TYPES.iter().flat_map(|ty| MAPS.map(|map| (ty, map))) {
                    let mut unit = vec![format!("-DALA_TYPE={ty}"), format!("-DALA_MAP={map}")];
                    unit.extend(options.iter().map(ToString::to_string));
                    let fatbin = out.join(format!("{steps}_{ty}_{map}.fatbin"));
                    *report += &self.compile("ala.cu", &unit, &fatbin);
                    fatbins += &format!("include_bytes!({fatbin:?}), ");
                }
                fatbins += "], ";
            }
            let numbers: Vec<&str> = self.version.split('.').collect();
            embedded(
                &format!("nvcc {}", self.version),
                sources,
                [&self.machine_code, &self.ptx],
                [&format!("{}.0", numbers[0]), &numbers[..2].join(".")],
                &format!("Images::Fatbins(&[{fatbins}])"),
            )
        }

        /// Compiles one source into a fatbin, and gives what ptxas says of its kernels.
        fn compile(&self, source: &str, options: &[String], fatbin: &Path) -> String {
            let nvcc = &self.nvcc;
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
            for arch in &self.machine_code {
                // The PTX of 89 is that of 86 but for the name: it is made once.
                let shared = *arch == 89 && self.machine_code.contains(&86);
                let ptx = if shared { 86 } else { *arch };
                command.arg(format!("-gencode=arch=compute_{ptx},code=sm_{arch}"));
            }
            for arch in &self.ptx {
                command.arg(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
            }
            command
                .arg("-o")
                .arg(fatbin)
                .arg(Path::new(KERNELS).join(source));
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
    }

    fn find_nvcc() -> Option<PathBuf> {
        let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
        if let Some(nvcc) = env::var_os("NVCC") {
            if nvcc == "off" {
                return None;
            }
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

    /// What a program prints, where it runs.
    fn says(program: &Path, option: &str) -> Option<String> {
        let output = Command::new(program).arg(option).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(said)
    }

    fn runs(nvcc: &Path) -> bool {
        says(nvcc, "--version").is_some()
    }

    /// Whether nvcc lists an option.
    fn knows(nvcc: &Path, option: &str) -> bool {
        let name = option.split('=').next().unwrap_or(option);
        says(nvcc, "--help").is_some_and(|help| help.contains(name))
    }

    fn known_architectures(nvcc: &Path) -> Vec<u32> {
        says(nvcc, "--list-gpu-arch")
            .unwrap_or_else(|| panic!("{} lists no architectures", nvcc.display()))
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
