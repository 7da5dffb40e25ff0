//! Bytes over the least possible, a row a tier: by the hardware and by softcuda.

use ala_loss_gpu::Failure;
use ala_loss_gpu::record::Line;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::figures::DTYPES;
use super::super::figures::counters::{Kernel, kernels};
use super::{Area, COLOURS, Drawn, FONT, Mark, legend, svg};

pub(super) fn chart(lines: &[Line], dry: bool) -> Result<Option<String>, Failure> {
    let mut kernels = kernels(lines);
    kernels.retain(|kernel| {
        kernel
            .dram_of_hardware()
            .or(kernel.dram_of_software())
            .is_some()
    });
    if kernels.is_empty() {
        return Ok(None);
    }
    let caption = "DRAM bytes over the least possible, by tier";
    svg(caption, dry, |area| draw(area, &kernels)).map(Some)
}

/// Where a type's mark stands against the middle of its tier's row.
const ASIDE: [f64; 3] = [0.22, 0.0, -0.22];
/// Pixels for the tiers' names.
const NAMES: u32 = 110;

fn draw(area: &Area, kernels: &[Kernel]) -> Drawn {
    let height = area.dim_in_pixel().1 as i32;
    let (above, below) = area.split_vertically(height - 52);
    let mut tiers: Vec<&str> = kernels.iter().map(Kernel::tier).collect();
    tiers.dedup();
    let hardware = kernels.iter().filter_map(Kernel::dram_of_hardware);
    let ratios = hardware.chain(kernels.iter().filter_map(Kernel::dram_of_software));
    let (least, most) = ratios.fold((1.0, 1.05), |(least, most): (f64, f64), ratio| {
        (least.min(ratio), most.max(ratio))
    });
    let margin = 0.05 * (most - least);
    // The first tier on top.
    let bottom = tiers.len() as f64 - 0.4;
    let mut chart = ChartBuilder::on(&above)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(least - margin..most + margin, bottom..-0.6)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 14))
        .x_desc("bytes / least possible")
        .x_label_formatter(&|ratio| format!("{ratio:.2}"))
        .y_labels(0)
        .draw()?;
    for (row, tier) in tiers.iter().enumerate() {
        let ends = [least - margin, most + margin].map(|x| (x, row as f64));
        chart.draw_series(LineSeries::new(ends, BLACK.mix(0.12)))?;
        let (x, y) = chart.plotting_area().map_coordinate(&ends[0]);
        let style = (FONT, 14).into_text_style(area);
        let style = style.pos(Pos::new(HPos::Right, VPos::Center));
        // Coordinates of the whole picture, and text's of its part.
        let (left, top) = above.get_base_pixel();
        above.draw_text(tier, &style, (x - left - 6, y - top))?;
    }
    let mut entries = Vec::new();
    for full in [true, false] {
        for ((dtype, colour), aside) in DTYPES.into_iter().zip(COLOURS).zip(ASIDE) {
            let points = marks(kernels, &tiers, dtype, full, aside);
            if points.is_empty() {
                continue;
            }
            let (size, style, mark, source) = match full {
                true => (4, colour.filled(), Mark::Full(colour), "ncu"),
                false => (5, colour.stroke_width(1), Mark::Hollow(colour), "softcuda"),
            };
            chart.draw_series(
                points
                    .into_iter()
                    .map(|point| Circle::new(point, size, style)),
            )?;
            entries.push((format!("{dtype} by {source}"), mark));
        }
    }
    legend(&below, &entries, DTYPES.len())
}

/// Ratios of a type by the hardware, or by softcuda, with their places among the rows.
fn marks(
    kernels: &[Kernel],
    tiers: &[&str],
    dtype: &str,
    hardware: bool,
    aside: f64,
) -> Vec<(f64, f64)> {
    let those = kernels.iter().filter(|kernel| kernel.dtype() == dtype);
    let marks = those.filter_map(|kernel| {
        let row = tiers.iter().position(|tier| *tier == kernel.tier())?;
        let ratio = match hardware {
            true => kernel.dram_of_hardware(),
            false => kernel.dram_of_software(),
        };
        Some((ratio?, row as f64 - aside))
    });
    marks.collect()
}
