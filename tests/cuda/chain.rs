//! What a step waits for, held by the longest chains of dependent operations: few rows take as long
//! as those do. They are exact and repeatable, of softcuda's model: `softcuda/src/exec/chain.rs`
//! says what it takes for dependent, and with which latencies.

use cudarc::driver::DevicePtr;
use softcuda::client::SoftCuda;
use softcuda::exec::Reach;

use crate::case::{Case, Dtype, Path, Waits, count};
use crate::device::{Device, device};

/// Shapes that keep no GPU busy for long: cycles to the last gradient and to the end, and the end
/// over a copy and the row's own arithmetic, at most.
const SHAPES: [(usize, usize, u64, u64, f64); 7] = [
    (256, 10, 9999, 9999, 9.99),
    (8192, 10, 9999, 9999, 9.99),
    (1024, 365, 9999, 9999, 9.99),
    (256, 1000, 9999, 9999, 9.99),
    (1024, 1000, 9999, 9999, 9.99),
    (4096, 1000, 9999, 9999, 9.99),
    (256, 8142, 9999, 9999, 9.99),
];
/// What is aimed at instead of the last.
const OVER_COPY: f64 = 1.3;

/// Round trips to global memory until the last gradient is stored: the row and its label at once,
/// then the target's entry and logit.
const TO_GRADIENT: u64 = 2;
/// From there to the end of the launch: the stores arrive before the block counts itself done, the
/// last block reads what the others left, and its own result arrives.
const TO_END: u64 = 4;
/// What is aimed at instead.
const FEWEST_TO_END: u64 = 2;

fn aligned(rows: usize, classes: usize, dtype: Dtype) -> Case {
    Case {
        dtype,
        rows,
        classes,
        aligned: true,
    }
}

/// The end of a copy of so many bytes.
fn copy_of(device: &Device, soft: SoftCuda, bytes: u64) -> Reach {
    let stream = &device.stream;
    let from = stream.clone_htod(&vec![0u8; bytes as usize]).expect("fits");
    let to = stream.clone_htod(&vec![0u8; bytes as usize]).expect("fits");
    stream.synchronize().expect("copied");
    soft.set_chains(true);
    let addresses = (from.device_ptr(stream).0, to.device_ptr(stream).0);
    // SAFETY: both buffers have that many bytes and live until the stream is synchronised.
    let copied = unsafe {
        device
            .instruments
            .copy(stream.cu_stream(), addresses.0, addresses.1, bytes)
    };
    copied.expect("launches");
    stream.synchronize().expect("runs");
    let chain = soft.last_chain().expect("it was asked for");
    soft.set_chains(false);
    chain.end
}

#[test]
fn a_gradient_waits_for_two_round_trips_and_the_end_for_four_more() {
    let device = device();
    let Some(soft) = device.soft else { return };
    for (rows, classes, gradient, end, most) in SHAPES {
        for dtype in Dtype::ALL {
            let case = aligned(rows, classes, dtype);
            let counted = count(device.instruments, soft, case, Path::Fused).expect("runs");
            let Waits {
                to_gradient,
                to_end,
            } = counted.waits.expect("no block waits for another");
            assert!(to_gradient.trips <= TO_GRADIENT, "{case:?}: {to_gradient:?}");
            // What meets its aim after all is to be said.
            let more = to_end.trips - to_gradient.trips;
            let missed = FEWEST_TO_END + 1..=TO_END;
            assert!(
                missed.contains(&more),
                "{case:?}: {to_gradient:?}, {to_end:?}"
            );

            let copy = copy_of(&device, soft, case.elements() * dtype.bytes());
            let own = to_end.cycles - to_end.global;
            let ratio = to_end.cycles as f64 / (copy.cycles + own) as f64;
            println!(
                "{rows} x {classes} {}: to the last gradient {} cycles, {} trips; to the end {}, {}: {ratio:.2} x",
                dtype.name(),
                to_gradient.cycles,
                to_gradient.trips,
                to_end.cycles,
                to_end.trips
            );
            assert!((OVER_COPY..=most).contains(&ratio), "{case:?}: {ratio:.3}");
            assert!(to_gradient.cycles <= gradient, "{case:?}: {to_gradient:?}");
            assert!(to_end.cycles <= end, "{case:?}: {to_end:?}");
        }
    }
}
