//! Accuracy by class, rarest last, as an SVG file.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::method::Method;
use crate::report::Trial;

const SIZE: (u32, u32) = (960, 540);
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

/// The chart as SVG text; `counts` are the training samples of the classes, most frequent first.
pub(crate) fn svg(trials: &[Trial], methods: &[Method], counts: &[u64]) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area, trials, methods, counts)
            .map_err(|error| format!("cannot draw the chart: {error}"))?;
    }
    Ok(text)
}

fn draw<Backend: DrawingBackend>(
    area: &DrawingArea<Backend, Shift>,
    trials: &[Trial],
    methods: &[Method],
    counts: &[u64],
) -> Result<(), DrawingAreaErrorKind<Backend::ErrorType>> {
    area.fill(&WHITE)?;
    let (plot, legend) = area.split_horizontally(SIZE.0 as i32 - 176);
    let points = points(counts);
    let curves: Vec<Vec<(i32, f64)>> = methods
        .iter()
        .map(|&method| curve(trials, method, &points))
        .collect();
    let all = || curves.iter().flatten().map(|&(_, accuracy)| accuracy);
    // Tens below and above the data, so that the lines use the height.
    let lowest = 10.0 * (all().fold(100.0, f64::min) / 10.0).floor();
    let highest = 10.0 * (all().fold(lowest + 10.0, f64::max) / 10.0).ceil();

    let mut chart = ChartBuilder::on(&plot)
        .margin(16)
        .caption("Test accuracy by class, rarest last", ("sans-serif", 22))
        .x_label_area_size(48)
        .y_label_area_size(56)
        .build_cartesian_2d(0..points.len().max(2) as i32 - 1, lowest..highest)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 16))
        .x_desc("training samples of the class")
        .y_desc("accuracy (%)")
        .x_labels(points.len().min(10))
        .x_label_formatter(&|&point| {
            usize::try_from(point)
                .ok()
                .and_then(|point| points.get(point))
                .map_or_else(String::new, |point| point.samples.to_string())
        })
        .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
        .draw()?;
    for (row, (method, curve)) in methods.iter().zip(&curves).enumerate() {
        let style = COLOURS[*method as usize].stroke_width(2);
        chart.draw_series(LineSeries::new(curve.iter().copied(), style))?;
        let middle = 60 + 24 * row as i32;
        legend.draw(&PathElement::new([(0, middle), (24, middle)], style))?;
        let font = ("sans-serif", 16).into_font();
        legend.draw(&Text::new(method.name(), (32, middle - 7), font))?;
    }
    area.present()
}

/// A point of the horizontal axis: one class, or neighbours in rank.
struct Point {
    ranks: std::ops::Range<usize>,
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
fn curve(trials: &[Trial], method: Method, points: &[Point]) -> Vec<(i32, f64)> {
    points
        .iter()
        .enumerate()
        .filter_map(|(position, point)| {
            let values: Vec<f64> = trials
                .iter()
                .filter(|trial| trial.method == method.name())
                .flat_map(|trial| trial.by_rank[point.ranks.clone()].iter().flatten())
                .copied()
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (!values.is_empty()).then_some((position as i32, mean))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(method: Method, by_rank: Vec<Option<f64>>) -> Trial {
        Trial {
            method: method.name(),
            seed: 0,
            overall: 0.0,
            many: None,
            medium: None,
            few: None,
            by_rank,
        }
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
        let curve = curve(&trials, Method::Ala, &points(&[30, 20, 10]));
        assert_eq!(curve, [(0, 85.0), (1, 40.0)]);
    }

    #[test]
    fn the_chart_names_each_method_and_needs_no_font_files() {
        let trials = [
            trial(Method::CrossEntropy, vec![Some(90.0), Some(50.0)]),
            trial(Method::Ala, vec![Some(88.0), Some(70.0)]),
        ];
        let methods = [Method::CrossEntropy, Method::Ala];
        let svg = svg(&trials, &methods, &[100, 10]).expect("two points make a line");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for method in methods {
            assert!(svg.contains(&format!(">\n{}\n<", method.name())));
            let RGBColor(red, green, blue) = COLOURS[method as usize];
            let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\" stroke-width=\"2\"");
            assert_eq!(
                svg.matches(&stroke).count(),
                2,
                "once in the plot, once in the legend"
            );
        }
    }

    #[test]
    fn a_single_class_still_makes_a_chart() {
        let trials = [trial(Method::Ala, vec![Some(100.0)])];
        assert!(svg(&trials, &[Method::Ala], &[7]).is_ok());
    }
}
