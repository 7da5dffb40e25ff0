//! The device, its bandwidth and a process's first step.

use std::fmt::Write;

use ala_loss_gpu::record::{Line, Op, Record};

use super::super::figures::of_kind;
use super::super::numbers::us;
use super::super::table::Table;

const MEBIBYTE: f64 = 1_048_576.0;

pub(super) fn section(lines: &[Line]) -> String {
    let mut table = Table::new(["what", "value"]);
    if let Some(device) = of_kind!(lines, Device).next_back() {
        let bytes = |bytes: u64| format!("{:.0} MiB", bytes as f64 / MEBIBYTE);
        table.row(["device", &device.name]);
        table.row(["compute capability", &device.capability]);
        let (major, minor) = (device.driver / 1000, device.driver % 1000 / 10);
        table.row(["driver", &format!("for CUDA {major}.{minor}")]);
        table.row(["multiprocessors", &device.multiprocessors.to_string()]);
        let clocks = format!(
            "{:.0} MHz, memory {:.0} MHz",
            device.clock_mhz, device.memory_clock_mhz
        );
        table.row(["highest clocks", &clocks]);
        table.row(["memory bus", &format!("{} bits", device.memory_bus_bits)]);
        table.row(["L2", &bytes(device.l2_bytes)]);
        table.row(["memory", &bytes(device.memory_bytes)]);
    }
    for copy in of_kind!(lines, Bandwidth) {
        let by = match copy.op {
            Op::DriverCopy => "the driver",
            _ => "the copy kernel",
        };
        let what = format!("copy of {} MiB by {by}", copy.bytes as f64 / MEBIBYTE);
        table.row([
            what,
            format!("{:.0} GB/s ({} us)", copy.gb_s, us(copy.device_us.median)),
        ]);
    }
    let mut text = table.markdown();
    for line in lines {
        match &line.record {
            Record::FirstStep {
                context_ms,
                bind_ms,
                step_ms,
            } => {
                let _ = writeln!(
                    text,
                    "\nA process's first step: {context_ms:.0} ms to open the device, {bind_ms:.0} ms to load the kernels and \
                     bind a loss, {step_ms:.1} ms for the step."
                );
            }
            Record::Smi(fields) => {
                let pairs = fields.iter().map(|(name, value)| match value.as_str() {
                    Some(value) => format!("{name} {value}"),
                    None => format!("{name} {value}"),
                });
                let pairs: Vec<_> = pairs.collect();
                let _ = writeln!(text, "\nBy `nvidia-smi`: {}.", pairs.join("; "));
            }
            _ => {}
        }
    }
    text
}
