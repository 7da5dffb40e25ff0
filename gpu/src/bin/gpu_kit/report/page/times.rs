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
            "Large batches, far beyond L2. p10..p90 are the tenth and the ninetieth percentile of the step's time.\n\n{}",
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
    let mut table = Table::new([
        "N x C",
        "type",
        "us",
        "p10..p90",
        "GB/s",
        "of the copy",
        "times unfused",
    ]);
    for batch in batches {
        let fused = batch.device(Op::Fused);
        table.row([
            format!("{} x {}", batch.rows(), batch.classes()),
            batch.dtype().into(),
            or_dash(fused.map(|fused| fused.median), us),
            fused.map_or_else(|| "-".into(), spread),
            or_dash(batch.gb_s(Op::Fused), |rate| format!("{rate:.0}")),
            or_dash(batch.percent_of_copy(), percent),
            or_dash(batch.over_unfused(), times),
        ]);
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
