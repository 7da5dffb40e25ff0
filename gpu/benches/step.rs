//! A step's time on a GPU, beside a copy of the same bytes, an empty kernel and the unfused
//! baseline in the same run:
//!
//! ```text
//! cargo bench -p ala-loss-gpu --bench step
//! ```
//!
//! The same as the stage `times` of the GPU kit. Without a GPU it says so and times nothing.

use std::process::ExitCode;

use ala_loss_gpu::clock::Deadline;
use ala_loss_gpu::device;
use ala_loss_gpu::record::Sink;
use ala_loss_gpu::sizes::Sizes;
use ala_loss_gpu::stages::{self, Bench};

fn main() -> ExitCode {
    let context = match device::open(false) {
        Ok(context) => context,
        Err(error) => {
            println!("no GPU, so nothing is timed: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let timed = Sink::new(None, "times", false).and_then(|sink| {
        stages::times(&mut Bench {
            context,
            sizes: Sizes::of(false),
            sink,
            deadline: Deadline::after(1e6),
        })
    });
    match timed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
