//! What the parts of a step take, by the number of ranks.
//!
//! ```text
//! RAYON_NUM_THREADS=1 mpirun -n 2 cargo run --release --manifest-path adapters/mpi/Cargo.toml \
//!     --example exchange_cost -- --classes 100000
//! ```
//!
//! Each part is timed between two barriers, which add some microseconds to it; of all rounds the
//! median counts.

use std::process::ExitCode;
use std::time::Instant;

use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
use ala_loss_mpi::MpiLoss;
use clap::Parser;
use mpi::collective::SystemOperation;
use mpi::environment::Threading;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

type Failure = Box<dyn std::error::Error>;

/// Times the two halves of a step and the exchange between them.
#[derive(Parser)]
struct Settings {
    /// Number of classes, of all ranks together.
    #[arg(long, default_value_t = 100_000, conflicts_with = "classes_per_rank")]
    classes: usize,
    /// The same of each rank.
    #[arg(long)]
    classes_per_rank: Option<usize>,
    /// Rows of a step.
    #[arg(long, default_value_t = 256)]
    rows: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        eprintln!("error: MPI was initialised before");
        return ExitCode::FAILURE;
    };
    match run(&settings, &universe.world()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings, world: &SimpleCommunicator) -> Result<(), Failure> {
    let (rows, ranks) = (settings.rows, usize::try_from(world.size())?);
    let classes = settings
        .classes_per_rank
        .map_or(settings.classes, |own| own * ranks);
    let counts = ClassCounts::new((1..=classes as u64).collect::<Vec<u64>>())?;
    let mut loss = MpiLoss::even(&Loss::new(Objective::ala(), &counts)?, world)?;
    let shard = loss.shard().clone();
    let own = shard.classes().len();

    let mut rng = fastrand::Rng::with_seed(world.rank().unsigned_abs().into());
    let logits: Vec<f32> = (0..rows * own).map(|_| rng.f32() - 0.5).collect();
    let labels: Vec<u32> = (0..rows).map(|row| (row * 7919 % classes) as u32).collect();
    let mut gradient = vec![0.0; logits.len()];
    let options = Options::new();
    let len = rows * shard.record_len(&options);
    let mut records = vec![0.0; len];
    let mut all = vec![0.0; len * ranks];

    let mut rounds = [const { Vec::new() }; 4];
    // The first rounds make room, and bring pages in.
    for round in 0..settings.rounds + 3 {
        let partial = timed(world, || {
            shard.partial(&logits, &labels, &options, &mut records)
        })?;
        let exchange = timed(world, || {
            world.all_gather_into(&records[..], &mut all[..]);
            Ok::<_, Failure>(())
        })?;
        let outputs = Outputs::new().gradient(&mut gradient);
        let finish = timed(world, || {
            let summary = shard.finish(&logits, &labels, &options, &all, outputs);
            summary.map(|_| ())
        })?;
        let outputs = Outputs::new().gradient(&mut gradient);
        let step = timed(world, || {
            let summary = loss.evaluate_into(&logits, &labels, &options, outputs);
            summary.map(|_| ())
        })?;
        if round >= 3 {
            let times = [partial, exchange, finish, step];
            rounds
                .iter_mut()
                .zip(times)
                .for_each(|(all, time)| all.push(time));
        }
    }
    if world.rank() == 0 {
        let [partial, exchange, finish, step] =
            rounds.map(median).map(|s| format!("{:.3}", s * 1e3));
        println!("| ranks | classes | a rank | partial ms | exchange ms | finish ms | step ms |");
        println!("|---|---|---|---|---|---|---|");
        println!("| {ranks} | {classes} | {own} | {partial} | {exchange} | {finish} | {step} |");
    }
    Ok(())
}

/// Seconds until the slowest rank is done, from when the first of them began: where ranks share
/// cores some begin when others have ended.
fn timed<E>(world: &SimpleCommunicator, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    world.barrier();
    let started = Instant::now();
    let done = work();
    world.barrier();
    let own = started.elapsed().as_secs_f64();
    let mut longest = 0.0;
    world.all_reduce_into(&own, &mut longest, SystemOperation::max());
    done.map(|()| longest)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
