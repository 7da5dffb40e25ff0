//! What a step waits for, held by the longest chains of dependent operations: few rows take as long
//! as those do. They are exact and repeatable, of softcuda's model: `softcuda/src/exec/chain.rs`
//! says what it takes for dependent, and with which latencies.

use ala_loss::cuda::{Origin, kernels};
use cudarc::driver::DevicePtr;
use softcuda::client::SoftCuda;
use softcuda::exec::Reach;

use crate::case::{Case, Dtype, Path, Waits, count};
use crate::device::{Device, device};

/// A shape that keeps no GPU busy for long, and what its launch waits for, at most, of any type, in
/// nvcc's kernels.
struct Shape {
    rows: usize,
    classes: usize,
    /// Cycles to the last gradient, and to the end.
    to_gradient: u64,
    to_end: u64,
    /// The end over a copy and the row's own arithmetic. Beyond [`OVER_COPY`] it is what is reached
    /// instead.
    over_copy: f64,
}

const fn shape(rows: usize, classes: usize, cycles: [u64; 2], over_copy: f64) -> Shape {
    let [to_gradient, to_end] = cycles;
    Shape {
        rows,
        classes,
        to_gradient,
        to_end,
        over_copy,
    }
}

const SHAPES: [Shape; 7] = [
    shape(256, 10, [1_960, 4_400], 1.56),
    shape(8192, 10, [1_880, 4_820], 1.46),
    shape(1024, 365, [1_840, 4_210], 1.56),
    shape(256, 1000, [1_770, 4_090], 1.34),
    shape(1024, 1000, [1_770, 4_210], 1.33),
    shape(4096, 1000, [1_770, 4_290], 1.32),
    shape(256, 8142, [2_520, 4_900], OVER_COPY),
];
/// The compiler of the prebuilt kernels orders what does not depend on one another otherwise, which
/// makes chains so much longer, by the number of classes.
fn longer(classes: usize) -> u64 {
    let prebuilt = kernels().is_some_and(|kernels| kernels.origin == Origin::Prebuilt);
    match classes {
        8142 if prebuilt => 50,
        1000 if prebuilt => 10,
        _ => 0,
    }
}
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
    for shape in SHAPES {
        let (rows, classes) = (shape.rows, shape.classes);
        for dtype in Dtype::ALL {
            let case = aligned(rows, classes, dtype);
            let counted = count(device.instruments, soft, case, Path::Fused).expect("runs");
            let Waits {
                to_gradient,
                to_end,
            } = counted.waits.expect("no block waits for another");
            assert!(
                to_gradient.trips <= TO_GRADIENT,
                "{case:?}: {to_gradient:?}"
            );
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
            assert!(ratio <= shape.over_copy, "{case:?}: {ratio:.3}");
            let missed = shape.over_copy > OVER_COPY;
            assert_eq!(ratio > OVER_COPY, missed, "{case:?}: {ratio:.3}");
            assert!(
                to_gradient.cycles <= shape.to_gradient + longer(classes),
                "{case:?}: {to_gradient:?}"
            );
            assert!(
                to_end.cycles <= shape.to_end + longer(classes),
                "{case:?}: {to_end:?}"
            );
        }
    }
}
