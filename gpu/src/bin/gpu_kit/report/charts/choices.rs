//! What the crate's choice of tier and launch shape takes more than the best, by classes.

use ala_loss_gpu::Failure;
use ala_loss_gpu::record::{Kind, Line};
use plotters::prelude::*;

use super::super::figures::DTYPES;
use super::super::figures::tiers::{Choice, choices};
use super::{Area, COLOURS, Drawn, FONT, Mark, legend, span, svg};

pub(super) fn chart(lines: &[Line], dry: bool) -> Result<Option<String>, Failure> {
    let choices = choices(lines);
    if choices.is_empty() {
        return Ok(None);
    }
    let caption =
        "Time that the crate's choice takes more than the best of all kernels and launch shapes";
    svg(caption, dry, |area| draw(area, &choices)).map(Some)
}

fn draw(area: &Area, choices: &[Choice]) -> Drawn {
    let height = area.dim_in_pixel().1 as i32;
    let (above, below) = area.split_vertically(height - 52);
    let classes = span(choices.iter().map(|choice| choice.own.c as f64));
    let most = choices.iter().map(Choice::regret).fold(5.0, f64::max);
    let mut chart = ChartBuilder::on(&above)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(classes.log_scale(), -0.02 * most..1.1 * most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 16))
        .x_desc("classes C")
        .x_label_formatter(&|classes| format!("{classes:.0}"))
        .y_desc("more time, per cent")
        .y_label_formatter(&|percent| format!("{percent:.0}"))
        .draw()?;
    let mut entries = Vec::new();
    for (dtype, colour) in DTYPES.into_iter().zip(COLOURS) {
        let of = |kind| {
            let those = choices
                .iter()
                .filter(move |choice| choice.own.batch == kind && choice.own.dtype == dtype);
            those.map(|choice| (choice.own.c as f64, choice.regret()))
        };
        if of(Kind::Large).next().is_some() {
            chart.draw_series(LineSeries::new(of(Kind::Large), colour.stroke_width(2)))?;
            chart
                .draw_series(of(Kind::Large).map(|point| Circle::new(point, 3, colour.filled())))?;
            entries.push((format!("{dtype}, large batches"), Mark::Line(colour, 2)));
        }
        if of(Kind::Small).next().is_some() {
            chart.draw_series(
                of(Kind::Small).map(|point| Circle::new(point, 6, colour.stroke_width(2))),
            )?;
            entries.push((format!("{dtype}, small batches"), Mark::Hollow(colour)));
        }
    }
    // Both of a type in one column.
    let (large, small): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|(_, mark)| matches!(mark, Mark::Line(..)));
    legend(&below, &[large, small].concat(), DTYPES.len())
}
