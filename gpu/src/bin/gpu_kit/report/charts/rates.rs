//! Per cent of the copy kernel's rate by classes: ours and each peer, a panel a type.

use ala_loss_gpu::Failure;
use ala_loss_gpu::record::Line;
use plotters::prelude::*;

use super::super::figures::rates::{Rates, rates};
use super::{Area, COLOURS, Drawn, FONT, Mark, SIZE, legend, span, svg};

const PANELS: [&str; 2] = ["f32", "bf16"];
const OURS: &str = "ours";
const COLUMNS: usize = 5;

pub(super) fn chart(lines: &[Line], dry: bool) -> Result<Option<String>, Failure> {
    let panels = PANELS.map(|dtype| (dtype, rates(lines, dtype)));
    let panels: Vec<_> = panels
        .into_iter()
        .filter(|(_, rates)| !rates.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let caption =
        "Rate in per cent of the copy kernel's, large batches (the best of a peer's variants)";
    svg(caption, dry, |area| draw(area, &panels)).map(Some)
}

fn draw(area: &Area, panels: &[(&str, Vec<Rates>)]) -> Drawn {
    let all = || panels.iter().flat_map(|(_, rates)| rates);
    let mut whose: Vec<&str> = Vec::new();
    let mut entries: Vec<(String, Mark)> = Vec::new();
    for rates in all() {
        if !whose.contains(&rates.whose.as_str()) {
            whose.push(&rates.whose);
        }
        let word = format!("{} {}", rates.whose, rates.family);
        if entries.iter().all(|(known, _)| *known != word) {
            entries.push((word, mark(&whose, rates)));
        }
    }
    let strip = 20 * entries.len().div_ceil(COLUMNS) as i32 + 12;
    let height = area.dim_in_pixel().1 as i32;
    let (above, below) = area.split_vertically(height - strip);
    let classes = span(all().flat_map(|rates| &rates.points).map(|point| point.0));
    let most = all()
        .flat_map(|rates| &rates.points)
        .map(|point| point.1)
        .fold(100.0, f64::max);
    let width = SIZE.0 as i32 / panels.len() as i32;
    let mut rest = above;
    for (dtype, rates) in panels {
        let (panel, right) = rest.split_horizontally(width);
        let mut chart = ChartBuilder::on(&panel)
            .margin(10)
            .caption(dtype, (FONT, 18))
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(classes.clone().log_scale(), 0.0..1.05 * most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .label_style((FONT, 14))
            .x_desc("classes C")
            .x_label_formatter(&|classes| format!("{classes:.0}"))
            .y_desc("per cent of the copy")
            .y_label_formatter(&|percent| format!("{percent:.0}"))
            .draw()?;
        for rates in rates {
            let points = rates.points.iter().copied();
            let (colour, width) = stroke(&whose, rates);
            let style = colour.stroke_width(width);
            if is_dashed(rates) {
                chart.draw_series(DashedLineSeries::new(points.clone(), 8, 4, style))?;
            } else {
                chart.draw_series(LineSeries::new(points.clone(), style))?;
            }
            chart.draw_series(points.map(|point| Circle::new(point, width, colour.filled())))?;
        }
        rest = right;
    }
    legend(&below, &entries, COLUMNS)
}

fn mark(whose: &[&str], rates: &Rates) -> Mark {
    let (colour, width) = stroke(whose, rates);
    match is_dashed(rates) {
        true => Mark::Dashes(colour, width),
        false => Mark::Line(colour, width),
    }
}

/// A colour for each whose it is; ours is thicker.
fn stroke(whose: &[&str], rates: &Rates) -> (RGBColor, u32) {
    let place = whose.iter().position(|known| *known == rates.whose);
    let colour = COLOURS[place.unwrap_or(0) % COLOURS.len()];
    (colour, if rates.whose == OURS { 4 } else { 2 })
}

/// ALA is, CE is drawn through.
fn is_dashed(rates: &Rates) -> bool {
    rates.family == "ALA"
}
