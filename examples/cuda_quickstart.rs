//! The ALA loss and its gradient on a GPU, with cudarc alone:
//!
//! ```text
//! cargo run --release --features cuda --example cuda_quickstart
//! ```
//!
//! Without a GPU it says so and ends with an error.

use std::process::ExitCode;

use ala_loss::cuda::{self, Options, Outputs};
use ala_loss::{ClassCounts, Loss, Objective};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ala_loss::Error> {
    let context = cuda::context(0)?;
    let counts = ClassCounts::new([500, 50, 5])?; // training samples of each class
    let loss = Loss::builder(Objective::ala(), &counts)
        .scale(30.0)
        .build()?;
    let bound = loss.bind(&context)?;

    // Two rows of three cosines, not yet scaled.
    let cosines = [0.8f32, 0.1, -0.3, 0.2, 0.4, 0.1];
    let labels = [0i64, 2];
    let stream = context.new_stream().map_err(cuda::driver_error)?;
    let device_cosines = stream.clone_htod(&cosines).map_err(cuda::driver_error)?;
    let device_labels = stream.clone_htod(&labels).map_err(cuda::driver_error)?;
    let mut gradient = stream.alloc_zeros::<f32>(6).map_err(cuda::driver_error)?;

    // Once, for batches of up to two rows.
    let mut workspace = bound.workspace(&stream, 2)?;
    // Every step: one launch, nothing that waits.
    let outputs = Outputs::new().gradient(&mut gradient);
    bound.launch(
        &stream,
        &device_cosines,
        &device_labels,
        &Options::new(),
        outputs,
        &mut workspace,
    )?;
    // Only where the numbers are wanted on the host.
    let summary = workspace.read(&stream)?;
    let gradient = stream.clone_dtoh(&gradient).map_err(cuda::driver_error)?;
    stream.synchronize().map_err(cuda::driver_error)?;

    let cpu = loss.evaluate(&cosines, &labels)?;
    println!("loss      GPU {:.6}  CPU {:.6}", summary.loss, cpu.loss);
    for (row, (gpu, cpu)) in gradient.chunks(3).zip(cpu.gradient.chunks(3)).enumerate() {
        println!("gradient {row}  GPU {gpu:.6?}  CPU {cpu:.6?}");
    }
    Ok(())
}
