//! The bounds on what a step costs, held by counts of the kernels in software, which are exact and repeatable.
//!
//! `cargo run --release -p softcuda --example kernel_report` prints the same counts for more shapes.

use std::ops::RangeInclusive;

use ala_loss::cuda::{TIERS, Tier, ptxas_report};
use softcuda::client::Launch;
use softcuda::occupancy::{Block, Sm};
use softcuda::ptxas::{Usage, parse};

use crate::case::{Case, Counted, Dtype, Path, count};
use crate::device::device;

/// Enough for a tier's steady state, and still counted in seconds.
const ELEMENTS: usize = 200_000;

/// Class counts: each tier, the data sets' (iNaturalist 2018: 8142, Places-LT: 365), and powers of two beside them.
const CLASSES: [usize; 12] = [
    10, 64, 100, 256, 365, 512, 1000, 2048, 4099, 8142, 8192, 12_000,
];
/// Rows that no tier holds on chip.
const STREAMED: [usize; 2] = [50_257, 262_144];

/// A figure of a step.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// Distinct sectors, against the least: what DRAM moves.
    Moved,
    /// Sectors that loads and stores ask for, against the least: what L2 serves.
    Asked,
    /// Lane instructions an element.
    Instructions,
}

impl Figure {
    fn of(self, case: Case, counted: &Counted) -> f64 {
        let of_least = |sectors: u64| sectors as f64 / counted.least_sectors as f64;
        match self {
            Self::Moved => of_least(counted.counters.distinct_sectors),
            Self::Asked => of_least(counted.requests()),
            Self::Instructions => {
                counted.counters.lane_instructions as f64 / case.elements() as f64
            }
        }
    }
}

/// Which rows a bound is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// Those that a tier holds on chip.
    Resident,
    /// Those that are read twice.
    Streamed,
}

/// The most that a figure may be, with f32 and with a 16-bit type.
#[derive(Debug)]
struct Bound {
    figure: Figure,
    rows: Rows,
    classes: RangeInclusive<usize>,
    f32: f64,
    half: f64,
}

const fn bound(
    figure: Figure,
    rows: Rows,
    classes: RangeInclusive<usize>,
    f32: f64,
    half: f64,
) -> Bound {
    Bound {
        figure,
        rows,
        classes,
        f32,
        half,
    }
}

const BOUNDS: [Bound; 11] = {
    use Figure::{Asked, Instructions, Moved};
    use Rows::{Resident, Streamed};
    [
        bound(Moved, Resident, 64..=usize::MAX, 1.02, 1.02),
        bound(Moved, Streamed, 64..=usize::MAX, 1.02, 1.02),
        bound(Asked, Resident, 365..=usize::MAX, 1.15, 1.25),
        bound(Asked, Resident, 64..=364, 1.5, 1.5),
        bound(Asked, Resident, 10..=63, 2.0, 2.0),
        // One more read of the logits is a third or half of the least; with it, as far off as above.
        bound(Asked, Streamed, 365..=usize::MAX, 1.65, 1.65),
        bound(Instructions, Resident, 1000..=1000, 16.0, 14.0),
        bound(Instructions, Resident, 8142..=8142, 16.0, 14.0),
        bound(Instructions, Resident, 100..=100, 20.0, 20.0),
        bound(Instructions, Resident, 365..=365, 20.0, 20.0),
        bound(Instructions, Resident, 10..=10, 40.0, 40.0),
    ]
};

fn rows_of(classes: usize) -> Rows {
    match Tier::of(classes as u32, false, true) == TIERS.len() - 1 {
        true => Rows::Streamed,
        false => Rows::Resident,
    }
}

fn cases(classes: &[usize]) -> impl Iterator<Item = Case> {
    classes.iter().flat_map(|&classes| {
        Dtype::ALL.into_iter().flat_map(move |dtype| {
            [true, false].map(|aligned| Case::of_size(ELEMENTS, dtype, classes, aligned))
        })
    })
}

/// Counts cases in software; nothing where a GPU runs the tests, which counts none of this.
fn counted(cases: impl Iterator<Item = Case>, path: Path) -> Vec<(Case, Counted)> {
    let device = device();
    let Some(soft) = device.soft else {
        eprintln!("steps are counted in software only");
        return Vec::new();
    };
    cases
        .map(|case| {
            let counted = count(&device.context, soft, case, path)
                .unwrap_or_else(|failure| panic!("{case:?}: {failure}"));
            (case, counted)
        })
        .collect()
}

/// Blocks of a launch that an SM holds, and its occupancy, with the shared memory that the launch asked for. By the
/// device that softcuda is, an H100.
fn residency(usages: &[Usage], launch: &Launch) -> (u32, f64) {
    let usage = usages
        .iter()
        .find(|usage| usage.kernel == launch.kernel && usage.architecture == "sm_90")
        .unwrap_or_else(|| {
            panic!(
                "{} was not compiled for sm_90: ALA_CUDA_ARCHS must name it",
                launch.kernel
            )
        });
    let block = Block {
        threads: launch.block.iter().product(),
        registers: usage.registers,
        shared: usage.smem + launch.dynamic_shared,
    };
    let sm = Sm::of(90).expect("in the table");
    (sm.resident_blocks(block), sm.occupancy(block))
}

#[test]
fn every_figure_of_a_step_is_within_its_bound() {
    let all: Vec<usize> = CLASSES.into_iter().chain(STREAMED).collect();
    let usages = parse(ptxas_report().expect("the kernels were built"));
    let mut broken = Vec::new();
    for (case, counted) in counted(cases(&all), Path::Fused) {
        assert_eq!(counted.counters.launches, 1, "{case:?}");
        let (blocks, occupancy) = residency(&usages, &counted.launch);
        if blocks < 2 && occupancy < 0.5 {
            broken.push(format!(
                "{blocks} block an SM, occupancy {occupancy:.2}: {:?}",
                counted.launch
            ));
        }
        let rows = rows_of(case.classes);
        let bounds = BOUNDS
            .iter()
            .filter(|bound| bound.rows == rows && bound.classes.contains(&case.classes));
        for bound in bounds {
            let most = match case.dtype {
                Dtype::F32 => bound.f32,
                Dtype::F16 | Dtype::Bf16 => bound.half,
            };
            let figure = bound.figure.of(case, &counted);
            assert!(figure > 0.0, "nothing was counted: {case:?} {counted:?}");
            if figure > most {
                broken.push(format!(
                    "{:?} {figure:.3} > {most} by {} at C = {}, {} (N = {}, {})",
                    bound.figure,
                    counted.launch.kernel,
                    case.classes,
                    case.dtype.name(),
                    case.rows,
                    if case.aligned { "aligned" } else { "unaligned" },
                ));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{} figures are out of bounds:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

/// Fewer sectors than the least would mean that the least, or the counting, is wrong.
#[test]
fn no_step_moves_less_than_the_least() {
    for (case, counted) in counted(cases(&[10, 365, 8142]), Path::Fused) {
        for figure in [Figure::Moved, Figure::Asked] {
            assert!(figure.of(case, &counted) >= 1.0, "{figure:?} of {case:?}");
        }
    }
}

#[test]
fn a_counted_mean_takes_two_launches() {
    for (case, counted) in counted(cases(&[100]), Path::FusedCounting) {
        assert_eq!(counted.counters.launches, 2, "{case:?}");
    }
}

/// Rows of 8142 elements start at every alignment, rows of 8192 at 16 bytes.
#[test]
fn an_odd_class_count_costs_what_its_even_neighbour_does() {
    let odd = counted(cases(&[8142]), Path::Fused);
    let even = counted(cases(&[8192]), Path::Fused);
    for ((case, odd), (neighbour, even)) in odd.iter().zip(&even) {
        let an_element = |case: &Case, count: u64| count as f64 / case.elements() as f64;
        let ratio = |count: fn(&Counted) -> u64| {
            an_element(case, count(odd)) / an_element(neighbour, count(even))
        };
        let sectors = ratio(|counted| counted.counters.distinct_sectors);
        let instructions = ratio(|counted| counted.counters.lane_instructions);
        assert!(
            (sectors - 1.0).abs() <= 0.03,
            "{sectors} of the sectors: {case:?}"
        );
        assert!(
            (instructions - 1.0).abs() <= 0.10,
            "{instructions} of the instructions: {case:?}"
        );
    }
}

#[test]
fn the_unfused_baseline_moves_four_times_as_much_in_eight_times_the_launches() {
    let fused = counted(cases(&[1000]), Path::Fused);
    let unfused = counted(cases(&[1000]), Path::Unfused);
    for ((case, fused), (_, unfused)) in fused.iter().zip(&unfused) {
        let (fused, unfused) = (fused.counters, unfused.counters);
        assert!(
            unfused.distinct_sectors >= 4 * fused.distinct_sectors,
            "{case:?}"
        );
        assert!(unfused.launches >= 8 * fused.launches, "{case:?}");
    }
}
