//! The program of the GPU kit: a subcommand for each stage that runs on the device, and those that
//! make tables and charts of the records. `gpu/run` calls it on the node, `scripts/gpu` here.

mod counters;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ala_loss_gpu::clock::Deadline;
use ala_loss_gpu::record::Sink;
use ala_loss_gpu::sizes::Sizes;
use ala_loss_gpu::stages::{self, Bench};
use ala_loss_gpu::{Failure, device};
use clap::{Parser, Subcommand};

/// Proves and measures ala-loss on a GPU; `run` beside it calls it stage by stage.
#[derive(Debug, Parser)]
struct Options {
    /// Tiny sizes, on the driver in software: shows that everything runs, and measures nothing.
    #[arg(long, global = true)]
    dry: bool,
    /// Appends a line of JSON for each result to this file.
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seconds after which no measurement is started any more.
    #[arg(long, global = true, default_value_t = 1e6)]
    budget: f64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The device and its bandwidth.
    Facts,
    /// Whether a step's bits are the same from run to run, in every tier.
    Repeats,
    /// The step's time by number of classes, beside a copy.
    Times,
    /// Every kernel and launch shape that can take a batch.
    Tiers,
    /// Launches every kernel once, for tools that watch.
    Launches {
        /// Logits of a launch, about, for tools that are slow.
        #[arg(long)]
        elements: Option<usize>,
        /// Only the kernels for one slope, and none of recipes.
        #[arg(long)]
        uniform: bool,
    },
    /// Launches every kernel once in softcuda and counts.
    Counts,
    /// Reads what Nsight Compute printed of `launches --uniform`.
    Counters {
        /// Its output, as CSV.
        #[arg(long, value_name = "FILE")]
        ncu: PathBuf,
    },
    /// Prints a short table of a folder of records.
    Summary {
        /// Where the records are.
        folder: PathBuf,
    },
    /// Makes a page and charts of folders of records.
    Report {
        /// Where the records are, a folder for each device.
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Where `gpu.md` and its charts go.
        #[arg(long, default_value = "docs", value_name = "FOLDER")]
        docs: PathBuf,
    },
}

impl Command {
    fn stage(&self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::Repeats => "parity",
            Self::Times => "times",
            Self::Tiers => "tiers",
            Self::Launches { .. } => "sanitize",
            Self::Counts | Self::Counters { .. } => "counters",
            Self::Summary { .. } | Self::Report { .. } => "report",
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln, which panics where nobody reads any more.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let begun = Instant::now();
    let bench = || -> Result<Bench, Failure> {
        Ok(Bench {
            context: device::open(options.dry)?,
            sizes: Sizes::of(options.dry),
            sink: sink(options)?,
            deadline: Deadline::after(options.budget),
        })
    };
    match &options.command {
        Command::Facts => stages::facts(&mut bench()?, begun),
        Command::Repeats => stages::repeats(&mut bench()?),
        Command::Times => stages::times(&mut bench()?),
        Command::Tiers => stages::tiers(&mut bench()?),
        Command::Launches { elements, uniform } => {
            let mut bench = bench()?;
            let elements = elements.unwrap_or(bench.sizes.watched);
            stages::launches(&mut bench, elements, !uniform, |_, counted| {
                println!("{} {} x {}", counted.kernel, counted.n, counted.c);
                Ok(())
            })
        }
        Command::Counts => {
            // Before any driver call: it is what is found from here on.
            let soft = counters::load_software()?;
            let sizes = Sizes::of(options.dry);
            let mut bench = Bench {
                context: device::open(true)?,
                sizes,
                sink: sink(options)?,
                deadline: Deadline::after(options.budget),
            };
            counters::count(&mut bench, soft)
        }
        Command::Counters { ncu } => {
            counters::read(ncu, Sizes::of(options.dry), &mut sink(options)?)
        }
        Command::Summary { folder } => report::summary(folder, &mut std::io::stdout()),
        Command::Report { folders, docs } => {
            report::write(folders, docs, options.dry, &mut std::io::stdout())
        }
    }
}

fn sink(options: &Options) -> Result<Sink, Failure> {
    Sink::new(options.out.as_deref(), options.command.stage(), options.dry)
}
