//! What the hardware counted of each kernel, beside softcuda's counts.

use ala_loss_gpu::record::Line;

use super::super::figures::counters::kernels;
use super::super::numbers::{or_dash, percent, times};
use super::super::table::Table;

pub(super) fn section(lines: &[Line]) -> Option<String> {
    let mut table = Table::new([
        "tier",
        "type",
        "DRAM by ncu",
        "by softcuda",
        "ncu / softcuda",
        "instructions by ncu",
        "by softcuda",
        "occupancy",
        "warps wait for",
    ]);
    for kernel in kernels(lines) {
        let [hardware, software] = kernel
            .instructions()
            .map(|count| or_dash(count, |count| format!("{count:.1}")));
        let stalls: Vec<_> = kernel
            .stalls()
            .iter()
            .map(|(why, warps)| format!("{why} {warps:.1}"))
            .collect();
        table.row([
            kernel.tier().into(),
            kernel.dtype().into(),
            or_dash(kernel.dram_of_hardware(), times),
            or_dash(kernel.dram_of_software(), times),
            or_dash(kernel.hardware_over_software(), |ratio| {
                format!("{ratio:.2}")
            }),
            hardware,
            software,
            or_dash(kernel.occupancy(), percent),
            if stalls.is_empty() {
                "-".into()
            } else {
                stalls.join(", ")
            },
        ]);
    }
    (!table.is_empty()).then(|| {
        format!(
            "One launch of each kernel for one slope, counted by the hardware (`ncu`) and, with fewer rows, in software. DRAM: \
             bytes read and written over the least possible. Instructions: of a lane, an element. Occupancy: active warps of \
             the most possible. Warps wait for: the two reasons with the most waiting warps for each that issues.\n\n{}",
            table.markdown()
        )
    })
}
