//! The bounds on what a step costs, held by counts of the kernels in software, which are exact and
//! repeatable.
//!
//! `cargo run --release --features instruments --example kernel_report` prints the same counts for
//! more shapes.

use std::ops::RangeInclusive;

use ala_loss::cuda::instruments::ptxas_report;
use softcuda::client::Launch;
use softcuda::device::Sm;
use softcuda::occupancy::Block;
use softcuda::ptxas::{Usage, parse};

use crate::case::{Case, Counted, Dtype, Path, count};
use crate::device::device;

/// Enough for a tier's steady state, and still counted in seconds.
const ELEMENTS: usize = 200_000;

/// Class counts: each tier, the data sets' (iNaturalist 2018: 8142, Places-LT: 365), and powers of
/// two beside them.
const CLASSES: [usize; 16] = [
    10, 24, 48, 64, 100, 256, 365, 512, 1000, 2048, 4099, 8142, 8192, 12_000, 50_257, 262_144,
];
/// Rows that no shared memory holds, not even that of several blocks.
const STREAMED: usize = 1_000_000;

/// A figure of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The most that a figure may be, with f32 and with a 16-bit type.
#[derive(Debug)]
struct Bound {
    figure: Figure,
    classes: RangeInclusive<usize>,
    f32: f64,
    half: f64,
}

const fn bound(figure: Figure, classes: RangeInclusive<usize>, f32: f64, half: f64) -> Bound {
    Bound {
        figure,
        classes,
        f32,
        half,
    }
}

const BOUNDS: [Bound; 9] = {
    use Figure::{Asked, Instructions, Moved};
    [
        bound(Moved, 64..=usize::MAX, 1.02, 1.02),
        bound(Asked, 365..=usize::MAX, 1.15, 1.25),
        bound(Asked, 64..=364, 1.5, 1.5),
        bound(Asked, 10..=63, 2.0, 2.0),
        bound(Instructions, 1000..=1000, 16.0, 14.0),
        bound(Instructions, 8142..=8142, 16.0, 14.0),
        bound(Instructions, 100..=100, 20.0, 20.0),
        bound(Instructions, 365..=365, 20.0, 20.0),
        bound(Instructions, 10..=10, 40.0, 40.0),
    ]
};

/// A bound that is not met, and what is reached instead.
#[derive(Debug)]
struct Missed {
    figure: Figure,
    classes: usize,
    half: bool,
    /// Where only unaligned rows miss it.
    only_unaligned: bool,
    reached: f64,
}

const fn missed(
    figure: Figure,
    classes: usize,
    half: bool,
    only_unaligned: bool,
    reached: f64,
) -> Missed {
    Missed {
        figure,
        classes,
        half,
        only_unaligned,
        reached,
    }
}

/// What docs/kernels.md says costs more. An entry that is met after all fails the test too.
const MISSED: [Missed; 6] = {
    use Figure::{Asked, Instructions};
    [
        // What a block and a thread cost once, 17 parameters among it, is spread over the ten
        // elements of a row. Two of the 44 ask for the next tile, which takes an eighth off the
        // time of 6.7 million rows on an H100.
        missed(Instructions, 10, false, false, 44.1),
        missed(Instructions, 10, true, false, 44.0),
        // Up to 14 elements before and behind a row's vectors, by four lanes: more lanes would ask
        // for fewer sectors and take half as many instructions again, of which aligned rows would
        // have to pay too.
        missed(Instructions, 100, true, false, 22.5),
        missed(Asked, 100, true, true, 1.70),
        missed(Asked, 64, true, true, 1.92),
        missed(Asked, 48, true, true, 2.19),
    ]
};

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
            let counted = count(device.instruments, soft, case, path)
                .unwrap_or_else(|failure| panic!("{case:?}: {failure}"));
            (case, counted)
        })
        .collect()
}

/// Blocks of a launch that an SM holds, and its occupancy, with the shared memory that the launch
/// asked for. By the device that softcuda is, an H100.
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
    let usages = parse(&ptxas_report());
    let mut broken = Vec::new();
    for (case, counted) in counted(cases(&CLASSES), Path::Fused) {
        assert_eq!(counted.counters.launches, 1, "{case:?}");
        let (blocks, occupancy) = residency(&usages, &counted.launch);
        if blocks < 2 && occupancy < 0.5 {
            broken.push(format!(
                "{blocks} block an SM, occupancy {occupancy:.2}: {:?}",
                counted.launch
            ));
        }
        let half = case.dtype != Dtype::F32;
        for bound in BOUNDS
            .iter()
            .filter(|bound| bound.classes.contains(&case.classes))
        {
            let most = match half {
                false => bound.f32,
                true => bound.half,
            };
            let reached = MISSED.iter().find(|missed| {
                missed.figure == bound.figure
                    && (missed.classes, missed.half) == (case.classes, half)
                    && !(missed.only_unaligned && case.aligned)
            });
            let most = reached.map_or(most, |missed| missed.reached);
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

/// Else the page tells of a cost that is none.
#[test]
fn what_is_said_to_be_missed_is_missed() {
    for missed in &MISSED {
        let bound = BOUNDS
            .iter()
            .find(|bound| bound.figure == missed.figure && bound.classes.contains(&missed.classes))
            .expect("a bound");
        let most = if missed.half { bound.half } else { bound.f32 };
        let classes = [missed.classes];
        let cases = cases(&classes).filter(|case| {
            (case.dtype != Dtype::F32) == missed.half && !(missed.only_unaligned && case.aligned)
        });
        let figures: Vec<f64> = counted(cases, Path::Fused)
            .iter()
            .map(|(case, counted)| missed.figure.of(*case, counted))
            .collect();
        assert!(
            figures.is_empty() || figures.iter().any(|&figure| figure > most),
            "{missed:?}: {figures:?} are within {most}"
        );
    }
}

/// One more read of the logits is half of what a step must move.
#[test]
fn a_row_that_is_streamed_is_read_twice_at_most() {
    for (case, counted) in counted(cases(&[STREAMED]).take(2), Path::Fused) {
        assert!(counted.launch.kernel.contains("streamed"), "{counted:?}");
        let moved = Figure::Moved.of(case, &counted);
        let asked = Figure::Asked.of(case, &counted);
        assert!(moved <= 1.02 && asked <= 1.65, "{moved} {asked} {case:?}");
    }
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

/// Lane instructions an element that a recipe's step has more than the plain one's, at most. Two
/// are aimed at: mixed rows meet that from 1000 classes on, in registers. Below, a row's own
/// scalars are spread over few elements: two labels, weights and maps are two rows' worth. Of
/// smoothed rows each exponent is added up; predictions ask for the largest logit and its place.
const RECIPE_CLASSES: [usize; 6] = [10, 100, 365, 1000, 8142, 100_000];
const MORE_OF_RECIPES: [(Path, [f64; 6]); 3] = [
    (Path::Mixed, [41.0, 6.5, 2.5, 1.7, 2.0, 7.1]),
    (Path::Smoothed, [32.0, 11.5, 8.2, 6.3, 8.0, 10.7]),
    (Path::Predicted, [42.0, 11.0, 6.2, 4.6, 5.3, 20.2]),
];
/// Of the plain step's sectors, with what the recipe reads and writes besides.
const MOST_SECTORS_OF_RECIPES: f64 = 1.01;

#[test]
fn a_recipe_costs_little_more_than_a_plain_step() {
    let plain = counted(cases(&RECIPE_CLASSES), Path::Fused);
    let mut broken = Vec::new();
    for (path, most) in MORE_OF_RECIPES {
        let recipes = counted(cases(&RECIPE_CLASSES), path);
        for ((case, recipe), (_, plain)) in recipes.iter().zip(&plain) {
            assert!(
                recipe.launch.kernel.contains("recipe"),
                "{:?}",
                recipe.launch
            );
            let [recipe_figure, plain_figure] =
                [recipe, plain].map(|counted| Figure::Instructions.of(*case, counted));
            let more = recipe_figure - plain_figure;
            // Of second labels the least is more: a label and a class's entry for each row.
            let rows_share = match path {
                Path::Mixed => (case.rows * 24) as u64 / 32,
                _ => (case.rows * 4) as u64 / 32 + 1,
            };
            let sectors = recipe.counters.distinct_sectors as f64
                / (plain.counters.distinct_sectors + rows_share) as f64;
            eprintln!(
                "{path:?} C = {} {} aligned {}: {plain_figure:.1} + {more:.2}, sectors {sectors:.4}",
                case.classes,
                case.dtype.name(),
                case.aligned
            );
            let place = RECIPE_CLASSES
                .iter()
                .position(|&classes| classes == case.classes);
            let most = most[place.expect("one of them")];
            if more > most || sectors > MOST_SECTORS_OF_RECIPES {
                broken.push(format!(
                    "{path:?} {case:?}: {more:.2} more, sectors {sectors:.4}"
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
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
