//! Times of large and small batches.

use ala_loss_gpu::record::{Kind, Line, Op};

use super::super::figures::times::{Batch, batches, odd};
use super::super::numbers::{or_dash, percent, spread, times, us};
use super::super::table::Table;

pub(super) fn section(lines: &[Line]) -> Option<String> {
    let (large, small) = (batches(lines, Kind::Large), batches(lines, Kind::Small));
    let odd = odd(&large);
    let mut parts = Vec::new();
    if !large.is_empty() {
        parts.push(format!(
            "Large batches, far beyond L2. p10..p90 are the tenth and the ninetieth percentile of the step's time.{}\n\n{}",
            if large.iter().any(|batch| batch.device(Op::Mixed).is_some()) {
                " With two labels a row and with smoothed labels: times as long."
            } else {
                ""
            },
            of_large(&large).markdown()
        ));
    }
    if !odd.is_empty() {
        let mut table = Table::new([
            "type",
            "unaligned against aligned C",
            "more time an element",
        ]);
        for odd in odd {
            let [unaligned, aligned] = odd.classes;
            table.row([
                odd.dtype.to_owned(),
                format!("{unaligned} / {aligned}"),
                percent(odd.percent),
            ]);
        }
        parts.push(format!(
            "What rows cost whose starts are not aligned to 16 bytes.\n\n{}",
            table.markdown()
        ));
    }
    if !small.is_empty() {
        parts.push(format!(
            "Small batches: a step in a CUDA graph of many, beside an empty kernel, a copy and the unfused baseline in \
             graphs of their own; then plain launches in a row, on the device and of the call on the host.\n\n{}",
            of_small(&small).markdown()
        ));
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

fn of_large(batches: &[Batch]) -> Table {
    let recipes = batches
        .iter()
        .any(|batch| batch.device(Op::Mixed).is_some());
    let mut head = vec![
        "N x C",
        "type",
        "us",
        "p10..p90",
        "GB/s",
        "of the copy",
        "times unfused",
    ];
    if recipes {
        head.extend(["two labels", "smoothed"]);
    }
    let mut table = Table::new(head);
    for batch in batches {
        let fused = batch.device(Op::Fused);
        let mut row = vec![
            format!("{} x {}", batch.rows(), batch.classes()),
            batch.dtype().into(),
            or_dash(fused.map(|fused| fused.median), us),
            fused.map_or_else(|| "-".into(), spread),
            or_dash(batch.gb_s(Op::Fused), |rate| format!("{rate:.0}")),
            or_dash(batch.percent_of_copy(), percent),
            or_dash(batch.over_unfused(), times),
        ];
        if recipes {
            row.push(or_dash(batch.over_fused(Op::Mixed), times));
            row.push(or_dash(batch.over_fused(Op::Smoothed), times));
        }
        table.row(row);
    }
    table
}

fn of_small(batches: &[Batch]) -> Table {
    let overlapped = batches
        .iter()
        .any(|batch| batch.graph(Op::Overlapped).is_some());
    let mut table = Table::new([
        "N x C",
        "type",
        if overlapped {
            "graph us, overlapped"
        } else {
            "graph us"
        },
        "empty",
        "copy",
        "unfused",
        "over (empty + copy)",
        "plain us",
        "p10..p90",
        "host us",
    ]);
    for batch in batches {
        let graph = |op| or_dash(batch.graph(op), us);
        let plain = batch.device(Op::Fused);
        table.row([
            format!("{} x {}", batch.rows(), batch.classes()),
            batch.dtype().into(),
            if overlapped {
                format!("{}, {}", graph(Op::Fused), graph(Op::Overlapped))
            } else {
                graph(Op::Fused)
            },
            graph(Op::Empty),
            graph(Op::Copy),
            graph(Op::Unfused),
            or_dash(batch.over_floor(), times),
            or_dash(plain.map(|plain| plain.median), us),
            plain.map_or_else(|| "-".into(), spread),
            or_dash(batch.host(Op::Fused), us),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use ala_loss_gpu::record::Record;

    use super::super::super::samples;
    use super::*;

    #[test]
    fn two_labels_and_smoothed_ones_are_times_of_one_label_where_they_were_timed() {
        let plain = samples::large("f32", 1000, 100, [10.0, 25.0, 8.0]);
        let text = section(&plain).expect("times");
        assert!(!text.contains("two labels"), "{text}");
        let mut lines = plain.clone();
        for (op, us) in [(Op::Mixed, 12.5), (Op::Smoothed, 15.0)] {
            let mut line = plain[0].clone();
            let Record::Time(time) = &mut line.record else {
                panic!("the step is first")
            };
            (time.op, time.device_us) = (op, samples::about(us));
            lines.push(line);
        }
        let text = section(&lines).expect("times");
        let row = text
            .lines()
            .find(|line| line.contains("1000"))
            .expect("a row");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[7..10], ["2.50 x", "1.25 x", "1.50 x"], "{row}");
    }
}
