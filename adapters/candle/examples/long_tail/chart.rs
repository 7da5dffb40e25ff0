//! Accuracies as SVG files: by class, by epoch, by difficulty, and by what a sweep tried.

use std::ops::Range;

use ala_loss::QuantityLog;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::difficulty::{self, FIFTHS};
use crate::method::{Method, Setting};
use crate::report::{self, Trial};

const SIZE: (u32, u32) = (960, 540);
const LEGEND_WIDTH: i32 = 176;
const ACCURACY: &str = "accuracy (%)";
/// With more classes than this, neighbours in rank share a point: thousands of points are only
/// noise.
const MOST_POINTS: usize = 40;

/// Eight colours that stay apart for colour-blind readers (Okabe and Ito; a grey for their yellow,
/// which is too pale on white).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(86, 180, 233),
    RGBColor(150, 150, 150),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
];

/// A line of a plot, from left to right.
struct Curve {
    name: String,
    style: ShapeStyle,
    points: Vec<(f64, f64)>,
}

/// What the horizontal axis says.
enum Axis<'a> {
    /// Its numbers.
    Numbers,
    /// A word at 0, 1, 2 and so on.
    Words(&'a [String]),
}

impl Axis<'_> {
    fn label(&self, at: f64) -> String {
        match self {
            // Steps of an axis add up to numbers such as 0.6000000000000001.
            Self::Numbers => format!("{}", (100.0 * at).round() / 100.0),
            // Between two of them nothing is.
            Self::Words(_) if at.fract() != 0.0 || at < 0.0 => String::new(),
            Self::Words(words) => words.get(at as usize).cloned().unwrap_or_default(),
        }
    }

    fn labels(&self) -> usize {
        match self {
            Self::Numbers => 6,
            Self::Words(words) => words.len().min(10),
        }
    }
}

fn colour(method: Method) -> RGBColor {
    COLOURS[method as usize]
}

/// Test accuracy by class, the most frequent first; `counts` are their training samples.
pub(crate) fn by_class(
    trials: &[Trial],
    settings: &[Setting],
    counts: &[u64],
) -> Result<String, Failure> {
    let points = points(counts);
    let words: Vec<String> = points
        .iter()
        .map(|point| point.samples.to_string())
        .collect();
    let curves = curves(settings, |setting| class_curve(trials, setting, &points));
    svg(
        "Test accuracy by class, rarest last",
        "training samples of the class",
        ACCURACY,
        &Axis::Words(&words),
        &curves,
    )
}

/// Test accuracy as the training goes on.
pub(crate) fn by_epoch(trials: &[Trial], settings: &[Setting]) -> Result<String, Failure> {
    let curves = curves(settings, |setting| epoch_curve(trials, setting));
    svg(
        "Test accuracy by epoch",
        "epochs (training samples seen over training samples)",
        ACCURACY,
        &Axis::Numbers,
        &curves,
    )
}

/// How much more of the test samples is right than under `ce-cosine`, by difficulty, the hardest
/// fifth first; nothing where no trial knows it.
pub(crate) fn by_difficulty(
    trials: &[Trial],
    settings: &[Setting],
) -> Result<Option<String>, Failure> {
    if trials.iter().any(|trial| trial.by_difficulty.is_none()) {
        return Ok(None);
    }
    let words = ["hardest", "second", "third", "fourth", "easiest"].map(str::to_owned);
    let curves = curves(settings, |setting| difficulty_curve(trials, setting));
    svg(
        "Test accuracy by difficulty, to ce-cosine",
        "fifth of the test samples, by the target's cosine under ce-cosine",
        "points",
        &Axis::Words(&words),
        &curves,
    )
    .map(Some)
}

/// Validation accuracy of what a sweep tried, a panel a method that has a choice.
pub(crate) fn sweep(tried: &[Trial], candidates: &[Setting]) -> Result<Option<String>, Failure> {
    let mut methods: Vec<Method> = Vec::new();
    for candidate in candidates {
        let alternatives = candidates.iter().filter(|c| c.method == candidate.method);
        if alternatives.count() > 1 && !methods.contains(&candidate.method) {
            methods.push(candidate.method);
        }
    }
    if methods.is_empty() {
        return Ok(None);
    }
    let panels: Vec<(Method, Vec<Curve>)> = methods
        .iter()
        .map(|&method| (method, sweep_curves(tried, candidates, method)))
        .collect();
    let range = heights(panels.iter().flat_map(|(_, curves)| curves));
    drawn(|area| {
        let (rows, columns) = (panels.len().div_ceil(3), panels.len().min(3));
        for (area, (method, curves)) in area.split_evenly((rows, columns)).iter().zip(&panels) {
            let scaled = curves.iter().any(|curve| !curve.name.is_empty());
            let x = if *method == Method::BalancedSoftmax {
                "tau"
            } else {
                "scale s"
            };
            let title = match scaled {
                true => format!("{}: thick log2, thin ln", method.name()),
                false => method.name().to_owned(),
            };
            plot(
                area,
                &title,
                x,
                "validation (%)",
                &Axis::Numbers,
                curves,
                range.clone(),
            )?;
        }
        area.present()
    })
    .map(Some)
}

/// A line for each base of the logarithm, named where there are two.
fn sweep_curves(tried: &[Trial], candidates: &[Setting], method: Method) -> Vec<Curve> {
    [QuantityLog::Base2, QuantityLog::Natural]
        .into_iter()
        .filter_map(|log| {
            let of_log = candidates
                .iter()
                .filter(|setting| setting.method == method && setting.log == log);
            let mut points: Vec<(f64, f64)> = of_log
                .map(|&setting| {
                    let x = match method {
                        Method::BalancedSoftmax => setting.tau,
                        _ => setting.scale,
                    };
                    (x, mean(&report::overall(tried, setting)))
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let both = candidates
                .iter()
                .any(|setting| setting.method == method && setting.log != log);
            let (name, width) = match (both, log) {
                (false, _) => ("", 3),
                (true, QuantityLog::Base2) => ("log2", 3),
                (true, _) => ("ln", 1),
            };
            (!points.is_empty()).then(|| Curve {
                name: name.to_owned(),
                style: colour(method).stroke_width(width),
                points,
            })
        })
        .collect()
}

fn curves(settings: &[Setting], of: impl Fn(Setting) -> Vec<(f64, f64)>) -> Vec<Curve> {
    settings
        .iter()
        .map(|&setting| Curve {
            name: setting.method.name().to_owned(),
            style: colour(setting.method).stroke_width(2),
            points: of(setting),
        })
        .collect()
}

/// SVG text of one plot with its legend.
fn svg(
    title: &str,
    x: &str,
    y: &str,
    axis: &Axis<'_>,
    curves: &[Curve],
) -> Result<String, Failure> {
    drawn(|area| {
        let (area, legend) = area.split_horizontally(SIZE.0 as i32 - LEGEND_WIDTH);
        plot(&area, title, x, y, axis, curves, heights(curves))?;
        for (row, curve) in curves.iter().enumerate() {
            let middle = 60 + 24 * row as i32;
            legend.draw(&PathElement::new([(0, middle), (24, middle)], curve.style))?;
            let font = ("sans-serif", 16).into_font();
            legend.draw(&Text::new(curve.name.as_str(), (32, middle - 7), font))?;
        }
        area.present()
    })
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn drawn(draw: impl for<'a> FnOnce(&Canvas<'a>) -> Drawn<'a>) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)
            .and_then(|()| draw(&area))
            .map_err(|error| format!("cannot draw a chart: {error}"))?;
    }
    Ok(text)
}

/// Tens below and above the data, so that the lines use the height.
fn heights<'a>(curves: impl IntoIterator<Item = &'a Curve>) -> Range<f64> {
    let points = curves.into_iter().flat_map(|curve| &curve.points);
    let (least, most) = points.fold((100.0f64, 0.0f64), |(least, most), &(_, accuracy)| {
        (least.min(accuracy), most.max(accuracy))
    });
    let lowest = 10.0 * (least / 10.0).floor();
    lowest..10.0 * (most.max(lowest + 10.0) / 10.0).ceil()
}

fn plot<'a>(
    area: &Canvas<'a>,
    title: &str,
    x: &str,
    y: &str,
    axis: &Axis<'_>,
    curves: &[Curve],
    heights: Range<f64>,
) -> Drawn<'a> {
    let all = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|&(x, _)| x)
    };
    let (first, last) = match axis {
        Axis::Words(words) => (0.0, words.len().max(2) as f64 - 1.0),
        Axis::Numbers => {
            let first = all().fold(f64::INFINITY, f64::min).min(1e300);
            (first, all().fold(first, f64::max).max(first + 1e-9))
        }
    };
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(title, ("sans-serif", 22))
        .x_label_area_size(48)
        .y_label_area_size(56)
        .build_cartesian_2d(first..last, heights)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 16))
        .x_desc(x)
        .y_desc(y)
        .x_labels(axis.labels())
        .x_label_formatter(&|&at| axis.label(at))
        .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
        .draw()?;
    for curve in curves {
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), curve.style))?;
    }
    Ok(())
}

/// A point of the horizontal axis: one class, or neighbours in rank.
struct Point {
    ranks: Range<usize>,
    /// Training samples of the middle class.
    samples: u64,
}

fn points(counts: &[u64]) -> Vec<Point> {
    let classes = counts.len();
    let points = classes.min(MOST_POINTS);
    (0..points)
        .map(|point| {
            let ranks = point * classes / points..(point + 1) * classes / points;
            Point {
                samples: counts[ranks.start + ranks.len() / 2],
                ranks,
            }
        })
        .collect()
}

/// Mean accuracy over seeds and over the classes of a point; a point without test samples is left
/// out.
fn class_curve(trials: &[Trial], setting: Setting, points: &[Point]) -> Vec<(f64, f64)> {
    points
        .iter()
        .enumerate()
        .filter_map(|(position, point)| {
            let values: Vec<f64> = report::of(trials, setting)
                .flat_map(|trial| trial.by_rank[point.ranks.clone()].iter().flatten())
                .copied()
                .collect();
            (!values.is_empty()).then(|| (position as f64, mean(&values)))
        })
        .collect()
}

/// Means over seeds, which are all measured after the same steps.
fn epoch_curve(trials: &[Trial], setting: Setting) -> Vec<(f64, f64)> {
    let of_seeds: Vec<&[(f64, f64)]> = report::of(trials, setting)
        .map(|trial| trial.by_epoch.as_slice())
        .collect();
    let measurements = of_seeds
        .iter()
        .map(|points| points.len())
        .min()
        .unwrap_or(0);
    (0..measurements)
        .map(|at| {
            let (epochs, accuracies): (Vec<f64>, Vec<f64>) =
                of_seeds.iter().map(|points| points[at]).unzip();
            (mean(&epochs), mean(&accuracies))
        })
        .collect()
}

/// Means over seeds of the differences to `ce-cosine` of the same seed.
fn difficulty_curve(trials: &[Trial], setting: Setting) -> Vec<(f64, f64)> {
    (0..FIFTHS)
        .filter_map(|fifth| {
            let values: Vec<f64> = report::of(trials, setting)
                .filter_map(|trial| {
                    let judge = difficulty::judge(trials, trial.seed)?;
                    Some(trial.by_difficulty?[fifth] - judge.by_difficulty?[fifth])
                })
                .collect();
            (!values.is_empty()).then(|| (fifth as f64, mean(&values)))
        })
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(method: Method, by_rank: Vec<Option<f64>>) -> Trial {
        let mut trial = Trial::of_test(method.untuned(30.0), 0, 0.0);
        trial.by_rank = by_rank;
        trial
    }

    #[test]
    fn every_class_lies_in_exactly_one_point() {
        for classes in [1, 2, 40, 41, 365, 8142] {
            let counts: Vec<u64> = (1..=classes).rev().collect();
            let points = points(&counts);
            assert!(points.len() <= MOST_POINTS);
            let ranks = points.iter().flat_map(|point| point.ranks.clone());
            assert!(ranks.eq(0..classes as usize), "{classes} classes");
        }
    }

    #[test]
    fn a_curve_is_the_mean_over_seeds_without_missing_classes() {
        let trials = [
            trial(Method::Ala, vec![Some(80.0), Some(40.0), None]),
            trial(Method::Ala, vec![Some(90.0), None, None]),
            trial(Method::Focal, vec![Some(0.0); 3]),
        ];
        let curve = class_curve(&trials, Method::Ala.untuned(30.0), &points(&[30, 20, 10]));
        assert_eq!(curve, [(0.0, 85.0), (1.0, 40.0)]);
    }

    #[test]
    fn other_curves_are_means_over_seeds_too() {
        let [setting, judge] =
            [Method::Ala, Method::CrossEntropyCosine].map(|method| method.untuned(30.0));
        let trial = |setting: Setting, seed: u64, last: f64, fifths: [f64; FIFTHS]| {
            let mut trial = Trial::of_test(setting, seed, 0.0);
            trial.by_epoch = vec![(1.0, 10.0), (2.0, last)];
            trial.by_difficulty = Some(fifths);
            trial
        };
        let mut trials = vec![
            trial(setting, 0, 30.0, [0.0, 1.0, 2.0, 3.0, 4.0]),
            trial(judge, 0, 0.0, [1.0; FIFTHS]),
            trial(judge, 1, 0.0, [50.0; FIFTHS]),
            trial(setting, 1, 50.0, [52.0, 53.0, 54.0, 55.0, 56.0]),
        ];
        assert_eq!(epoch_curve(&trials, setting), [(1.0, 10.0), (2.0, 40.0)]);
        // To the judge of the same seed: -1 and 2 are the first ones.
        let expected: [(f64, f64); FIFTHS] = std::array::from_fn(|at| (at as f64, at as f64 + 0.5));
        assert_eq!(difficulty_curve(&trials, setting), expected);
        // Where one does not know it there is no chart.
        assert!(matches!(by_difficulty(&trials, &[setting]), Ok(Some(_))));
        trials[3].by_difficulty = None;
        assert!(matches!(by_difficulty(&trials, &[setting]), Ok(None)));
    }

    #[test]
    fn labels_are_short_numbers_and_the_words_at_whole_places() {
        let numbers = [0.1 + 0.2, 1.0, 12.5, -3.0].map(|at| Axis::Numbers.label(at));
        assert_eq!(numbers, ["0.3", "1", "12.5", "-3"]);
        let words = ["44".to_owned(), "4".to_owned()];
        let found = [0.0, 0.5, 1.0, 2.0, -1.0].map(|at| Axis::Words(&words).label(at));
        assert_eq!(found, ["44", "", "4", "", ""]);
    }

    #[test]
    fn the_chart_names_each_method_and_needs_no_font_files() {
        let trials = [
            trial(Method::CrossEntropy, vec![Some(90.0), Some(50.0)]),
            trial(Method::Ala, vec![Some(88.0), Some(70.0)]),
        ];
        let methods = [Method::CrossEntropy, Method::Ala];
        let settings = methods.map(|method| method.untuned(30.0));
        let svg = by_class(&trials, &settings, &[100, 10]).expect("two points make a line");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for method in methods {
            assert!(svg.contains(&format!(">\n{}\n<", method.name())));
            assert_eq!(
                svg.matches(&stroke(method, 2)).count(),
                2,
                "once in the plot, once in the legend"
            );
        }
    }

    fn stroke(method: Method, width: u32) -> String {
        let RGBColor(red, green, blue) = colour(method);
        format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\" stroke-width=\"{width}\"")
    }

    #[test]
    fn a_single_class_or_measurement_still_makes_a_chart() {
        let mut trials = [trial(Method::Ala, vec![Some(100.0)])];
        let settings = [Method::Ala.untuned(30.0)];
        assert!(by_class(&trials, &settings, &[7]).is_ok());
        trials[0].by_epoch = vec![(0.1, 3.0)];
        assert!(by_epoch(&trials, &settings).is_ok());
        trials[0].by_epoch = Vec::new();
        assert!(by_epoch(&trials, &settings).is_ok());
    }

    /// A panel for each method that has a choice: two lines in it where the logarithm is one.
    #[test]
    fn a_sweep_has_a_panel_for_each_method_with_a_choice() {
        let methods = [Method::CrossEntropy, Method::Ldam, Method::Ala];
        let candidates: Vec<Setting> = methods
            .iter()
            .flat_map(|method| method.candidates(30.0))
            .collect();
        let tried: Vec<Trial> = candidates
            .iter()
            .enumerate()
            .map(|(at, &setting)| Trial::of_test(setting, 0, 50.0 + at as f64))
            .collect();
        let svg = sweep(&tried, &candidates)
            .expect("valid")
            .expect("two have choices");
        assert!(svg.contains(">\nldam\n<") && svg.contains(">\nala: thick log2, thin ln\n<"));
        let lines = |method: Method, width: u32| svg.matches(&stroke(method, width)).count();
        assert_eq!((lines(Method::Ldam, 3), lines(Method::Ldam, 1)), (1, 0));
        assert_eq!((lines(Method::Ala, 3), lines(Method::Ala, 1)), (1, 1));
        assert!(!svg.contains(">\nce\n<"));
        let only_ce = &candidates[..1];
        assert!(matches!(sweep(&tried[..1], only_ce), Ok(None)));
    }
}
