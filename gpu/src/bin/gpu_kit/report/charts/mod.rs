//! The figures as SVG charts, without fonts of their own.

mod choices;
mod counters;
mod rates;

use std::ops::Range;

use ala_loss_gpu::Failure;
use ala_loss_gpu::record::Line;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::page::captioned;

const SIZE: (u32, u32) = (960, 540);
/// Colours that stay apart for colour-blind readers (Okabe and Ito); their yellow is too light for
/// lines.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// SVG, where the records are enough for it.
type Chart = fn(&[Line], bool) -> Result<Option<String>, Failure>;

/// The charts that the records are enough for: names and SVG.
///
/// # Errors
/// Where one cannot be drawn.
pub(crate) fn of(lines: &[Line], dry: bool) -> Result<Vec<(&'static str, String)>, Failure> {
    let charts: [(_, Chart); 3] = [
        ("rates", rates::chart),
        ("regret", choices::chart),
        ("counters", counters::chart),
    ];
    let mut drawn = Vec::new();
    for (name, chart) in charts {
        drawn.extend(chart(lines, dry)?.map(|svg| (name, svg)));
    }
    Ok(drawn)
}

/// A chart under its caption.
fn svg(caption: &str, dry: bool, draw: impl FnOnce(&Area) -> Drawn) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .and_then(|()| area.titled(&captioned(caption, dry), (FONT, 20)))
            .and_then(|below| draw(&below))
            .and_then(|()| area.present());
        drawn.map_err(|error| format!("cannot draw a chart: {error}"))?;
    }
    Ok(text)
}

/// From a little below the least value to a little above the largest; some range where there is
/// none.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, 0.0), |(least, most), value| {
            (value.min(least), value.max(most))
        });
    if least > most {
        1.0..10.0
    } else {
        0.8 * least..1.25 * most
    }
}

/// A word of a legend in a strip, with the line or mark that `draw` puts at its left end.
fn legend(strip: &Area, entries: &[(String, Mark)], columns: usize) -> Drawn {
    const ROW: i32 = 20;
    let width = strip.dim_in_pixel().0 as i32 / columns.max(1) as i32;
    for (index, (word, mark)) in entries.iter().enumerate() {
        let (x, y) = (
            (index % columns) as i32 * width + 24,
            (index / columns) as i32 * ROW + 10,
        );
        mark.draw(strip, x, y)?;
        let style = (FONT, 14)
            .into_text_style(strip)
            .pos(Pos::new(HPos::Left, VPos::Center));
        strip.draw_text(word, &style, (x + 38, y))?;
    }
    Ok(())
}

/// What stands before a word of a legend.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Line(RGBColor, u32),
    Dashes(RGBColor, u32),
    Full(RGBColor),
    Hollow(RGBColor),
}

impl Mark {
    fn draw(self, strip: &Area, x: i32, y: i32) -> Drawn {
        match self {
            Self::Line(colour, width) => strip.draw(&PathElement::new(
                [(x, y), (x + 30, y)],
                colour.stroke_width(width),
            )),
            Self::Dashes(colour, width) => [0, 11, 22].into_iter().try_for_each(|at| {
                let dash = [(x + at, y), (x + at + 8, y)];
                strip.draw(&PathElement::new(dash, colour.stroke_width(width)))
            }),
            Self::Full(colour) => strip.draw(&Circle::new((x + 24, y), 5, colour.filled())),
            Self::Hollow(colour) => {
                strip.draw(&Circle::new((x + 24, y), 5, colour.stroke_width(2)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{counted, peer, tier};
    use super::*;

    #[test]
    fn each_chart_names_what_it_shows() {
        let lines = [
            peer("copy (ours)", 10, Some(9.0)),
            peer("ours CE", 10, Some(10.0)),
            peer("ours CE", 1000, Some(9.5)),
            peer("quack CE", 10, Some(11.0)),
            tier(10, "packed", 128, true, 10.0),
            tier(1000, "row", 128, true, 10.0),
            tier(1000, "packed", 64, false, 9.0),
            counted("softcuda", 100, &[("dram_bytes", 110.0)]),
        ];
        let charts = of(&lines, false).expect("all are drawn");
        let names: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["rates", "regret", "counters"]);
        for ((_, svg), words) in charts.iter().zip([
            ["quack CE", "classes C"],
            ["f32", "classes C"],
            ["packed", "softcuda"],
        ]) {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            for word in words {
                assert!(svg.contains(word), "{word}");
            }
            assert!(!svg.contains("dry run"));
        }
        for (_, svg) in of(&lines, true).expect("all are drawn") {
            assert!(svg.contains("dry run: no measurement"));
        }
        assert!(of(&[], false).expect("none").is_empty());
    }
}
