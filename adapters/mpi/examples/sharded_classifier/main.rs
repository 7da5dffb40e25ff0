//! A cosine classifier of 100,000 classes, which are cut over the ranks, trained on a synthetic
//! long tail with the ALA loss.
//!
//! ```text
//! RAYON_NUM_THREADS=1 mpirun -n 4 --oversubscribe \
//!     cargo run --release --manifest-path adapters/mpi/Cargo.toml --example sharded_classifier
//! ```
//!
//! Ranks are processes: a thread pool for each would have them in one another's way. With `--check`
//! rank 0 then trains the same classifier alone, and tells how far its losses are from the ranks'.

mod classifier;
mod data;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Instant;

use ala_loss::{Loss, Objective};
use clap::Parser;
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use mpi::environment::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::classifier::Classifier;
use crate::data::LongTail;

type Failure = Box<dyn std::error::Error>;

/// Trains a cosine classifier whose classes are cut over MPI ranks.
#[derive(Parser)]
struct Options {
    /// Number of classes, of all ranks together.
    #[arg(long, default_value_t = 100_000)]
    classes: usize,
    /// Features of a sample.
    #[arg(long, default_value = "16")]
    width: NonZeroUsize,
    /// Samples a step, the same on all ranks.
    #[arg(long, default_value = "64")]
    batch: NonZeroUsize,
    /// Steps of stochastic gradient descent.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Learning rate.
    #[arg(long, default_value_t = 1.0)]
    rate: f32,
    /// The loss's logit scale.
    #[arg(long, default_value_t = 20.0)]
    scale: f64,
    /// Of samples and first weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trains once more on one rank, and compares the losses.
    #[arg(long)]
    check: bool,
}

/// What a step was.
#[derive(Clone, Copy)]
struct Step {
    loss: f64,
    hits: usize,
    seconds: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // MPI is called by this thread alone; the loss's own threads compute.
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        eprintln!("error: MPI was initialised before");
        return ExitCode::FAILURE;
    };
    let world = universe.world();
    // An error of a step is the same on all ranks: they end together.
    match run(&options, &world) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if world.rank() == 0 {
                eprintln!("error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, world: &SimpleCommunicator) -> Result<(), Failure> {
    let steps = train(options, world)?;
    if world.rank() == 0 {
        println!("{}", table(options, world.size(), &steps));
    }
    if options.check {
        let mut check = Ok(());
        if world.rank() == 0 {
            check = compare(options, &steps);
        }
        // The others wait for it.
        world.barrier();
        check?;
    }
    Ok(())
}

fn train(options: &Options, ranks: &SimpleCommunicator) -> Result<Vec<Step>, Failure> {
    let mut data = LongTail::new(options.classes, options.width.get(), options.seed)?;
    let loss = Loss::builder(Objective::ala(), data.counts())
        .scale(options.scale)
        .build()?;
    let mut classifier = Classifier::new(&loss, ranks, (options.width.get(), options.seed))?;
    let bar = match ranks.rank() {
        0 => ProgressBar::new(options.steps as u64).with_style(style()),
        _ => ProgressBar::hidden(),
    };
    let mut steps = Vec::with_capacity(options.steps);
    for _ in 0..options.steps {
        // Every rank draws the same batch.
        let batch = data.batch(options.batch.get());
        let started = Instant::now();
        let (loss, hits) = classifier.step(&batch, options.rate)?;
        steps.push(Step {
            loss,
            hits,
            seconds: started.elapsed().as_secs_f64(),
        });
        bar.set_message(format!("loss {loss:.3}"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(steps)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{elapsed_precise} [{bar:32}] {percent:>3}% eta {eta} {per_sec} {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ")
}

/// Means of tenths of the steps.
fn table(options: &Options, ranks: i32, steps: &[Step]) -> String {
    let mut table = Table::new();
    table.set_header(["steps", "loss", "top-1 %", "ms a step"]);
    let len = steps.len().div_ceil(10).max(1);
    for (i, part) in steps.chunks(len).enumerate() {
        let mean = |of: fn(&Step) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
        let top1 = mean(|step| step.hits as f64) * 100.0 / options.batch.get() as f64;
        let range = format!("{}..{}", i * len, i * len + part.len());
        table.add_row([
            range,
            format!("{:.3}", mean(|step| step.loss)),
            format!("{top1:.1}"),
            format!("{:.1}", mean(|step| step.seconds) * 1e3),
        ]);
    }
    format!("{} classes over {ranks} ranks\n{table}", options.classes)
}

/// How far losses that differ by rounding alone come apart while they are trained.
const MOST_APART: f64 = 1e-2;

fn compare(options: &Options, steps: &[Step]) -> Result<(), Failure> {
    let alone = train(options, &SimpleCommunicator::self_comm())?;
    let apart = |(i, (a, b)): (usize, (&Step, &Step))| (i, ((a.loss - b.loss) / b.loss).abs());
    let all = steps.iter().zip(&alone).enumerate().map(apart);
    let largest = all.fold((0, 0.0), |most, next| {
        match next.1 > most.1 || next.1.is_nan() {
            true => next,
            false => most,
        }
    });
    let (step, apart) = largest;
    println!("against one rank: losses differ by {apart:.1e} at most, in step {step}");
    match apart <= MOST_APART {
        true => Ok(()),
        false => Err(format!("that is more than {MOST_APART:.0e}").into()),
    }
}
