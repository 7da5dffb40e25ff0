//! The kernels that are embedded: those of `kernels/prebuilt`, packed, or what nvcc made of
//! `kernels` when the crate was built. `build.rs` decides; this gives the driver what fits it.

use std::borrow::Cow;
use std::io::{self, Read};

use lzma_rust2::LzmaReader;

use super::error::CudaError;

/// As [`ElementType`](super::module::ElementType).
pub(super) const ELEMENTS: [&str; 3] = ["f32", "f16", "bf16"];
pub(super) const MAPS: [&str; 2] = ["uniform", "per_class"];
/// The kernels of an element type and a map, as they are loaded: the index of [`unit`].
const UNITS: usize = ELEMENTS.len() * MAPS.len();
/// Whose steps they are, as [`Steps`].
const STEPS: usize = 3;

/// Whose kernels: of a step with labels alone, with what a training recipe adds
/// (`kernels/terms.cuh`), or over some of the classes (`kernels/shard.cuh`). Apart, so that who
/// uses none of it loads and pays nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steps {
    Plain = 0,
    Recipe = 1,
    Shard = 2,
}

impl Steps {
    /// How the kernels' names begin.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Plain => "ala_",
            Self::Recipe => "ala_recipe_",
            Self::Shard => "ala_shard_",
        }
    }
}

/// The kernels that this build embeds, as [`kernels`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbeddedKernels {
    /// Where they are from.
    pub origin: Origin,
    /// What compiled them: `NVRTC 12.9.86`, `nvcc 13.0.88`.
    pub compiler: &'static str,
    /// Compute capabilities, times ten, that they have machine code for; it also runs on later ones
    /// of the same generation.
    pub machine_code: &'static [u32],
    /// Compute capabilities, times ten, that they have PTX for, which later devices compile.
    pub ptx: &'static [u32],
    /// SHA-256 of the sources that they were compiled from, in hexadecimal.
    pub sources: &'static str,
}

/// Where embedded kernels are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// They came compiled with the crate.
    Prebuilt,
    /// nvcc compiled them when the crate was built, as `NVCC` or `ALA_CUDA_ARCHS` asked.
    Nvcc,
}

/// Which kernels this build embeds. `None` where the sources of the kernels were changed and no
/// nvcc was there to compile them.
///
/// ```
/// let kernels = ala_loss::cuda::kernels().expect("unchanged");
/// println!("{} for {:?}", kernels.compiler, kernels.machine_code);
/// ```
pub fn kernels() -> Option<EmbeddedKernels> {
    EMBEDDED.as_ref().map(|embedded| EmbeddedKernels {
        origin: match embedded.images {
            Images::Prebuilt(_) => Origin::Prebuilt,
            Images::Fatbins(_) => Origin::Nvcc,
        },
        compiler: embedded.compiler,
        machine_code: embedded.machine_code,
        ptx: embedded.ptx,
        sources: embedded.sources,
    })
}

/// What build.rs tells.
struct Embedded {
    compiler: &'static str,
    sources: &'static str,
    machine_code: &'static [u32],
    ptx: &'static [u32],
    /// The oldest drivers that take them, by CUDA version.
    driver_for_machine_code: Version,
    driver_for_ptx: Version,
    images: Images,
}

/// Major and minor.
pub(super) type Version = (u32, u32);

// One of the two is built.
#[allow(dead_code)]
enum Images {
    Prebuilt(&'static [Family]),
    /// By steps, then unit; the driver chooses of what is in them.
    Fatbins(&'static [[&'static [u8]; UNITS]; STEPS]),
}

/// A file of `kernels/prebuilt`.
struct Family {
    steps: Steps,
    is_ptx: bool,
    architectures: &'static [u32],
    /// Of each architecture the units, then what the assembler said; each with its length before
    /// it (`u32`, little-endian), all of it as LZMA.
    packed: &'static [u8],
}

static EMBEDDED: Option<Embedded> = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// What nvcc compiled when the crate was built.
#[cfg(feature = "instruments")]
pub(super) struct Compiled {
    /// Of `kernels/dev/instruments.cu`, if there was an nvcc.
    pub(super) fatbin: Option<&'static [u8]>,
    /// What ptxas said.
    pub(super) report: &'static str,
}

#[cfg(feature = "instruments")]
pub(super) static COMPILED: Compiled = include!(concat!(env!("OUT_DIR"), "/instruments.rs"));

/// Where a unit is among those of a family.
pub(super) fn unit(element: usize, per_class: bool) -> usize {
    element * MAPS.len() + usize::from(per_class)
}

/// What a device may be given, in the order in which to try.
pub(super) struct Candidate {
    source: Source,
    /// The oldest driver that takes it.
    pub(super) driver: Version,
}

enum Source {
    Fatbin(&'static [&'static [u8]; UNITS]),
    Packed {
        family: &'static Family,
        architecture: usize,
    },
}

/// What there is for a device of that compute capability, times ten.
///
/// # Errors
/// [`CudaError::NotBuilt`], [`CudaError::NoKernelsForDevice`].
pub(super) fn candidates(steps: Steps, capability: u32) -> Result<Vec<Candidate>, CudaError> {
    let embedded = EMBEDDED.as_ref().ok_or(CudaError::NotBuilt)?;
    let [all_machine_code, all_ptx] = embedded.architectures(steps);
    // Of machine code the same generation's, of PTX any earlier; each the latest.
    let best = |of: &[u32], suits: &dyn Fn(u32) -> bool| {
        of.iter()
            .copied()
            .filter(|&arch| arch <= capability && suits(arch))
            .max()
    };
    let machine_code = best(all_machine_code, &|arch| arch / 10 == capability / 10);
    let ptx = best(all_ptx, &|_| true);
    if machine_code.is_none() && ptx.is_none() {
        return Err(none_for(steps, capability));
    }
    Ok(match &embedded.images {
        Images::Fatbins(fatbins) => {
            let driver = match machine_code {
                Some(_) => embedded.driver_for_machine_code,
                None => embedded.driver_for_ptx,
            };
            let source = Source::Fatbin(&fatbins[steps as usize]);
            vec![Candidate { source, driver }]
        }
        Images::Prebuilt(families) => {
            let find = |wanted: Option<u32>, is_ptx: bool, driver: Version| {
                families
                    .iter()
                    .filter(|family| family.steps == steps && family.is_ptx == is_ptx)
                    .find_map(|family| {
                        let place = |&arch: &u32| Some(arch) == wanted;
                        let architecture = family.architectures.iter().position(place)?;
                        let source = Source::Packed {
                            family,
                            architecture,
                        };
                        Some(Candidate { source, driver })
                    })
            };
            let machine_code = find(machine_code, false, embedded.driver_for_machine_code);
            machine_code
                .into_iter()
                .chain(find(ptx, true, embedded.driver_for_ptx))
                .collect()
        }
    })
}

/// That there is nothing that a device of that compute capability, times ten, can run.
pub(super) fn none_for(steps: Steps, capability: u32) -> CudaError {
    let none: [&'static [u32]; 2] = [&[]; 2];
    let [machine_code, ptx] = EMBEDDED
        .as_ref()
        .map_or(none, |embedded| embedded.architectures(steps));
    CudaError::NoKernelsForDevice {
        capability: (capability / 10, capability % 10),
        machine_code,
        ptx,
    }
}

impl Embedded {
    /// Compute capabilities, times ten, that there is machine code for, and PTX. Those of recipes
    /// and shards come prebuilt as PTX alone.
    fn architectures(&self, steps: Steps) -> [&'static [u32]; 2] {
        match (steps, &self.images) {
            (Steps::Recipe | Steps::Shard, Images::Prebuilt(families)) => {
                let own = families.iter().find(|family| family.steps == steps);
                [&[], own.map_or(&[], |family| family.architectures)]
            }
            _ => [self.machine_code, self.ptx],
        }
    }
}

impl Candidate {
    /// The image of a unit, for the driver to load.
    pub(super) fn image(&self, unit: usize) -> Cow<'static, [u8]> {
        match &self.source {
            Source::Fatbin(fatbins) => fatbins[unit].into(),
            Source::Packed {
                family,
                architecture,
            } => {
                let mut image = family.part(*architecture, unit).expect(SOUND);
                // PTX is text, which ends at a zero.
                image.push(0);
                image.into()
            }
        }
    }
}

/// Tests unpack every part of every file.
const SOUND: &str = "the prebuilt kernels are as scripts/prebuild wrote them";

impl Family {
    /// One part of one architecture: a unit, or behind them what the assembler said. What is
    /// behind it stays packed.
    fn part(&self, architecture: usize, part: usize) -> io::Result<Vec<u8>> {
        let mut unpacked = LzmaReader::new_mem_limit(self.packed, u32::MAX, None)?;
        let before = architecture * (UNITS + 1) + part;
        for _ in 0..before {
            let length = length(&mut unpacked)?;
            io::copy(&mut (&mut unpacked).take(length), &mut io::sink())?;
        }
        let length = length(&mut unpacked)?;
        let mut bytes = Vec::new();
        unpacked.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

fn length(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes).into())
}

/// What the assembler said of the prebuilt kernels, for every architecture with machine code.
#[cfg(feature = "instruments")]
pub(super) fn prebuilt_report() -> String {
    let families = match &EMBEDDED {
        Some(Embedded {
            images: Images::Prebuilt(families),
            ..
        }) => *families,
        _ => &[],
    };
    let with_code = families.iter().filter(|family| !family.is_ptx);
    with_code
        .flat_map(|family| (0..family.architectures.len()).map(move |at| family.part(at, UNITS)))
        .map(|report| String::from_utf8_lossy(&report.expect(SOUND)).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn families() -> &'static [Family] {
        match &EMBEDDED {
            Some(Embedded {
                images: Images::Prebuilt(families),
                ..
            }) => families,
            _ => &[],
        }
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// The units are where they are looked for, of the architecture that the file's name has.
    #[test]
    fn every_prebuilt_file_holds_what_its_name_says() {
        for family in families() {
            for (at, architecture) in family.architectures.iter().enumerate() {
                let begun = Instant::now();
                let last = family.part(at, UNITS - 1).expect("whole").len();
                eprintln!("{architecture}: {last} bytes in {:?}", begun.elapsed());
                for (element, name) in ELEMENTS.iter().enumerate() {
                    for (per_class, map) in [(false, MAPS[0]), (true, MAPS[1])] {
                        let part = family.part(at, unit(element, per_class)).expect("whole");
                        let begins = if family.is_ptx { "//" } else { "\x7fELF" };
                        assert!(part.starts_with(begins.as_bytes()), "{architecture}");
                        let kernel = |steps: Steps, map: &str| {
                            let whose = steps.prefix();
                            let one = if steps == Steps::Shard {
                                "finish"
                            } else {
                                "streamed"
                            };
                            contains(&part, &format!("{whose}{one}_{name}_{map}"))
                        };
                        let other = MAPS[usize::from(!per_class)];
                        for steps in [Steps::Plain, Steps::Recipe, Steps::Shard] {
                            assert_eq!(kernel(steps, map), steps == family.steps);
                        }
                        assert!(!kernel(family.steps, other));
                        if family.is_ptx {
                            assert!(contains(&part, &format!(".target sm_{architecture}")));
                        }
                    }
                }
                let report = family.part(at, UNITS).expect("whole");
                let of = format!("'ala_count' for 'sm_{architecture}'");
                assert_eq!(contains(&report, &of), !family.is_ptx, "{architecture}");
                assert!(family.part(family.architectures.len(), 0).is_err());
            }
        }
    }

    /// As what is taken for a device is named: `sm_90` or `compute_90`.
    fn taken(steps: Steps, capability: u32) -> Vec<String> {
        let named = |candidate: &Candidate| match candidate.source {
            Source::Fatbin(_) => "fatbin".into(),
            Source::Packed {
                family,
                architecture,
            } => {
                let kind = if family.is_ptx { "compute" } else { "sm" };
                format!("{kind}_{}", family.architectures[architecture])
            }
        };
        let candidates = candidates(steps, capability).unwrap_or_default();
        candidates.iter().map(named).collect()
    }

    #[test]
    fn a_device_gets_machine_code_of_its_generation_and_else_ptx() {
        if families().is_empty() {
            return; // nvcc's fatbins, of which the driver chooses
        }
        let plain = |capability| taken(Steps::Plain, capability);
        assert_eq!(plain(75), ["sm_75"]);
        assert_eq!(plain(80), ["sm_80"]);
        assert_eq!(plain(87), ["sm_86"]);
        assert_eq!(plain(89), ["sm_89"]);
        assert_eq!(plain(90), ["sm_90", "compute_90"]);
        assert_eq!(plain(103), ["sm_100", "compute_90"]);
        assert_eq!(plain(110), ["compute_90"]);
        assert_eq!(plain(121), ["sm_120", "compute_90"]);
        assert_eq!(plain(70), [""; 0]);
        for capability in [80, 86, 90, 103, 121] {
            assert_eq!(taken(Steps::Recipe, capability), ["compute_80"]);
            assert_eq!(taken(Steps::Shard, capability), ["compute_80"]);
        }
        for (steps, old, major) in [
            (Steps::Plain, 70, 7),
            (Steps::Recipe, 75, 7),
            (Steps::Shard, 75, 7),
        ] {
            let Err(CudaError::NoKernelsForDevice { capability, .. }) = candidates(steps, old)
            else {
                panic!("{old} is older than any of them");
            };
            assert_eq!(capability.0, major);
        }
    }
}
