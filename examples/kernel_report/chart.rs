//! The report as two SVG charts, without fonts of their own.

use std::ops::Range;

use plotters::chart::SeriesLabelPosition;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::case::Failure;
use crate::model::GPUS;
use crate::row::Row;

const SIZE: (u32, u32) = (960, 540);
/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];
/// Of a line that stands for f32, and of one for bf16.
const WIDTHS: [(&str, u32); 2] = [("f32", 3), ("bf16", 1)];

/// What a line shows of a row.
type Value = fn(&Row) -> f64;

/// The lines of the first chart: name, whether of aligned rows, value.
const BYTES: [(&str, bool, Value); 4] = {
    const MOVED: Value = |row| row.against_least(row.distinct_sectors);
    const ASKED: Value = |row| row.against_least(row.sector_requests);
    const UNFUSED: Value = |row| row.against_least(row.unfused_sectors);
    [
        ("fused, DRAM, aligned", true, MOVED),
        ("fused, DRAM, off by one element", false, MOVED),
        ("fused, asked of L2, off by one element", false, ASKED),
        ("unfused, DRAM, aligned", true, UNFUSED),
    ]
};

type Drawn<Backend> = Result<(), DrawingAreaErrorKind<<Backend as DrawingBackend>::ErrorType>>;

/// Bytes moved by DRAM, by L2 and by the unfused baseline, as a multiple of the least possible.
pub(crate) fn bytes(rows: &[Row]) -> Result<String, Failure> {
    svg(|area| draw_bytes(area, rows))
}

/// The roofs of the GPUs with all cases, and the model's time by the number of classes.
pub(crate) fn roofline(rows: &[Row]) -> Result<String, Failure> {
    svg(|area| draw_roofline(area, rows))
}

fn svg<'a, Draw>(draw: Draw) -> Result<String, Failure>
where
    Draw: Fn(&DrawingArea<SVGBackend<'_>, Shift>) -> Drawn<SVGBackend<'a>>,
{
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .and_then(|()| draw(&area))
            .and_then(|()| area.present());
        drawn.map_err(|error| format!("cannot draw a chart: {error}"))?;
    }
    Ok(text)
}

fn draw_bytes<Backend: DrawingBackend>(
    area: &DrawingArea<Backend, Shift>,
    rows: &[Row],
) -> Drawn<Backend> {
    let of = |dtype: &str, aligned: bool, value: Value| -> Vec<(f64, f64)> {
        let those = rows
            .iter()
            .filter(|row| row.dtype == dtype && row.aligned == aligned);
        those.map(|row| (row.c as f64, value(row))).collect()
    };
    let most = rows
        .iter()
        .map(|row| row.against_least(row.unfused_sectors))
        .fold(2.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(
            "Bytes moved against the least possible (counted in software)",
            ("sans-serif", 22),
        )
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(
            span(rows.iter().map(|row| row.c as f64)).log_scale(),
            (0.9..1.2 * most).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 16))
        .x_desc("classes C (thick: f32, thin: bf16)")
        .x_label_formatter(&|classes| format!("{classes:.0}"))
        .y_desc("bytes / least possible")
        .y_label_formatter(&|ratio| format!("{ratio}"))
        .draw()?;
    for ((name, aligned, value), colour) in BYTES.into_iter().zip(COLOURS) {
        for (dtype, width) in WIDTHS {
            let style = colour.stroke_width(width);
            chart.draw_series(LineSeries::new(of(dtype, aligned, value), style))?;
        }
        // An entry of its own for each colour; the axis says what the widths are.
        chart
            .draw_series(LineSeries::new([], colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
}

fn draw_roofline<Backend: DrawingBackend>(
    area: &DrawingArea<Backend, Shift>,
    rows: &[Row],
) -> Drawn<Backend> {
    let area = area.titled(
        "Model, not a measurement: the longer of bytes / bandwidth and instructions / issue rate",
        ("sans-serif", 20),
    )?;
    let (left, right) = area.split_horizontally(SIZE.0 as i32 / 2);
    draw_roofs(&left, rows)?;
    draw_times(&right, rows)
}

fn draw_roofs<Backend: DrawingBackend>(
    area: &DrawingArea<Backend, Shift>,
    rows: &[Row],
) -> Drawn<Backend> {
    let cases = || rows.iter().map(|row| row.work_an_element().intensity());
    let intensities = span(cases().chain(GPUS.map(|gpu| gpu.ridge())));
    let roofs = || {
        GPUS.iter()
            .map(|gpu| gpu.roof(intensities.end))
            .chain(GPUS.iter().map(|gpu| gpu.bandwidth))
    };
    let gigabytes = span(roofs().map(|rate| rate / 1e9));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(intensities.clone().log_scale(), gigabytes.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 14))
        .x_desc("warp instructions / byte moved")
        .x_labels(5)
        .x_label_formatter(&|intensity| format!("{intensity:.1}"))
        .y_desc("GB/s")
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    for (gpu, colour) in GPUS.iter().zip(COLOURS) {
        let roof =
            [intensities.start, gpu.ridge(), intensities.end].map(|x| (x, gpu.roof(x) / 1e9));
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(roof, style))?
            .label(gpu.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        chart.draw_series(
            cases().map(|x| Circle::new((x, gpu.roof(x) / 1e9), 3, colour.mix(0.5).filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
}

fn draw_times<Backend: DrawingBackend>(
    area: &DrawingArea<Backend, Shift>,
    rows: &[Row],
) -> Drawn<Backend> {
    // A picosecond an element is a millisecond for 10^9 of them.
    let times = |gpu: &crate::model::Gpu, dtype: &str| -> Vec<(f64, f64)> {
        let aligned = rows.iter().filter(|row| row.aligned && row.dtype == dtype);
        aligned
            .map(|row| (row.c as f64, 1e12 * gpu.seconds(row.work_an_element())))
            .collect()
    };
    let all = GPUS
        .iter()
        .flat_map(|gpu| WIDTHS.into_iter().flat_map(|(dtype, _)| times(gpu, dtype)));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(56)
        .build_cartesian_2d(
            span(rows.iter().map(|row| row.c as f64)).log_scale(),
            span(all.map(|(_, time)| time)).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 14))
        .x_desc("classes C (thick: f32, thin: bf16)")
        .x_label_formatter(&|classes| format!("{classes:.0}"))
        .y_desc("ps / element, modelled")
        .draw()?;
    for (gpu, colour) in GPUS.iter().zip(COLOURS) {
        for (dtype, width) in WIDTHS {
            chart.draw_series(LineSeries::new(
                times(gpu, dtype),
                colour.stroke_width(width),
            ))?;
        }
    }
    Ok(())
}

/// From a little below the least value to a little above the largest; some range where there is
/// none.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values.fold((f64::INFINITY, 0.0), |(least, most), value| {
        (value.min(least), value.max(most))
    });
    if least > most {
        1.0..10.0
    } else {
        0.8 * least..1.25 * most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        for (dtype, _) in WIDTHS {
            for aligned in [true, false] {
                for c in [100, 1000, 10_000] {
                    rows.push(Row {
                        dtype,
                        aligned,
                        c,
                        ..row()
                    });
                }
            }
        }
        rows
    }

    fn lines(svg: &str, colour: RGBColor, width: u32) -> usize {
        let RGBColor(red, green, blue) = colour;
        let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\" stroke-width=\"{width}\"");
        svg.matches(&stroke).count()
    }

    #[test]
    fn the_bytes_chart_has_a_line_for_each_type_and_kind() {
        let svg = bytes(&rows()).expect("all values are positive");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for colour in COLOURS {
            assert_eq!(
                [3, 1, 2].map(|width| lines(&svg, colour, width)),
                [1, 1, 1],
                "f32, bf16, the legend"
            );
        }
        for text in ["counted in software", "unfused, DRAM, aligned"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn the_roofline_names_each_gpu_and_says_what_it_is() {
        let svg = roofline(&rows()).expect("all values are positive");
        assert!(svg.contains("Model, not a measurement"));
        for (gpu, colour) in GPUS.iter().zip(COLOURS) {
            assert!(svg.contains(&format!(">\n{}\n<", gpu.name)), "{}", gpu.name);
            assert_eq!(lines(&svg, colour, 2), 2, "a roof and its legend");
        }
        assert_eq!(
            svg.matches("<circle").count(),
            GPUS.len() * rows().len(),
            "every case on every roof"
        );
    }

    #[test]
    fn a_single_case_still_makes_charts() {
        assert!(bytes(&[row()]).is_ok() && roofline(&[row()]).is_ok());
    }
}
