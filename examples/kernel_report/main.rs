//! Counts what the kernels cost, in software, for every tier, element type and alignment: `--help`
//! says how.
//!
//! ```text
//! cargo run --release --features instruments --example kernel_report
//! ```

mod case;
mod chart;
mod model;
mod row;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ala_loss::cuda;
use ala_loss::cuda::instruments::{Instruments, ptxas_report};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use output_file::OutputFile;
use softcuda::client::SoftCuda;
use softcuda::ptxas;

use crate::case::{Case, Dtype, Failure};
use crate::row::Row;

/// Counts what loss and gradient cost for each number of classes, element type and alignment.
///
/// The kernels run in softcuda, a CUDA driver in software, and everything it prints is a count of
/// that run or what ptxas said of the kernel; no GPU is used. Times are a model from published
/// figures of GPUs, never measured.
#[derive(Debug, Parser)]
struct Options {
    /// Numbers of classes.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [10, 100, 365, 1000, 1024, 2048, 4096, 8142, 8192, 32000, 50257, 131_072, 262_144],
        value_parser = parse_classes,
    )]
    classes: Vec<usize>,
    /// Logits of a case, about.
    #[arg(long, default_value_t = 400_000)]
    elements: usize,
    /// Writes an array of objects, one a case, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws kernel_bytes.svg and kernel_roofline.svg in this folder.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Lists the PTX operations that the cases executed, with how often warps did.
    #[arg(long)]
    operations: bool,
}

fn parse_classes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a loss has at least one class".to_owned()),
        Ok(classes) => Ok(classes),
        Err(error) => Err(format!("{error}")),
    }
}

fn main() -> ExitCode {
    match run(&Options::parse(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln, which panics where nobody reads any more.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, output: &mut impl Write) -> Result<(), Failure> {
    let outputs = Outputs::at(options)?;
    let Report { rows, operations } = Report::count(options)?;
    // The files come before the text: whoever reads that may stop early.
    outputs.write(&rows)?;
    writeln!(
        output,
        "Counted in software (softcuda), registers and occupancy as ptxas has them."
    )?;
    writeln!(output, "{}", table::counts(&rows))?;
    writeln!(output, "{}", table::waits(&rows))?;
    writeln!(output, "{}", table::chains(&rows))?;
    writeln!(output, "{}", table::model(&rows))?;
    if options.operations {
        writeln!(output, "{}", table::operations(&operations))?;
    }
    Ok(())
}

/// The files that the options ask for.
struct Outputs {
    json: Option<OutputFile>,
    bytes: Option<OutputFile>,
    roofline: Option<OutputFile>,
}

impl Outputs {
    /// Tries all places: counting takes minutes, and must not have been for nothing.
    fn at(options: &Options) -> Result<Self, Failure> {
        if let Some(folder) = &options.svg {
            fs::create_dir_all(folder)
                .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
        }
        let chart = |name| {
            options
                .svg
                .as_ref()
                .map(|folder| OutputFile::at(folder.join(name)))
                .transpose()
        };
        Ok(Self {
            json: options.json.as_ref().map(OutputFile::at).transpose()?,
            bytes: chart("kernel_bytes.svg")?,
            roofline: chart("kernel_roofline.svg")?,
        })
    }

    fn write(&self, rows: &[Row]) -> Result<(), Failure> {
        let mut files = Vec::new();
        if let Some(json) = &self.json {
            let mut text = serde_json::to_string_pretty(rows)?;
            text.push('\n');
            files.push((json, text));
        }
        if let Some(bytes) = &self.bytes {
            files.push((bytes, chart::bytes(rows)?));
        }
        if let Some(roofline) = &self.roofline {
            files.push((roofline, chart::roofline(rows)?));
        }
        Ok(output_file::write_all(&files)?)
    }
}

/// What was counted.
struct Report {
    rows: Vec<Row>,
    /// How often warps executed each PTX operation.
    operations: BTreeMap<String, u64>,
}

impl Report {
    fn count(options: &Options) -> Result<Self, Failure> {
        let usages = ptxas::parse(&ptxas_report());
        // Loaded before any driver call, it is what cudarc finds, on a machine with a GPU too.
        let library = SoftCuda::locate()
            .ok_or("libsoftcuda.so is not beside this program: build it with cargo")?;
        let soft = SoftCuda::load(&library)?;
        let instruments = Instruments::load(&cuda::context(0)?)?;

        let mut cases = Vec::new();
        for &classes in &options.classes {
            for dtype in Dtype::ALL {
                for aligned in [true, false] {
                    cases.push(Case::of_size(options.elements, dtype, classes, aligned));
                }
            }
        }
        let bar = ProgressBar::new(cases.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?);
        let mut rows = Vec::new();
        for case in cases {
            bar.set_message(format!("C = {} {}", case.classes, case.dtype.name()));
            rows.push(Row::of(&instruments, soft, &usages, case)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self {
            rows,
            operations: soft.operations(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// One test at a time counts: the driver has one set of counters.
    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(arguments: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(
            std::iter::once("kernel_report").chain(arguments.split_whitespace()),
        )
    }

    /// The whole report, on two small cases: what is counted has the shape that the kernels give
    /// it.
    #[test]
    fn a_step_is_counted_for_every_type_and_alignment() {
        let _turn = turn();
        let options = options("--classes 10,1000 --elements 4000").expect("valid");
        let Report { rows, operations } =
            Report::count(&options).expect("softcuda and the kernels are there");
        assert!(operations["ex2.approx.ftz.f32"] > 0);
        assert_eq!(rows.len(), 2 * 3 * 2);
        for row in &rows {
            assert_eq!(row.n, 4000 / row.c);
            assert_eq!(row.launches, 1, "{row:?}");
            assert!(
                row.distinct_sectors >= row.min_sectors,
                "less than the least: {row:?}"
            );
            assert!(
                row.sector_requests >= row.min_sectors,
                "less than the least: {row:?}"
            );
            assert!(
                row.unfused_launches > row.launches && row.unfused_sectors > row.distinct_sectors,
                "{row:?}"
            );
            assert!(row.occupancy > 0.0 && row.spill_bytes == 0, "{row:?}");
            // Something is done for every element.
            assert!(row.lane_instructions_per_element > 2.0, "{row:?}");
        }
        let again = Report::count(&options).expect("as before").rows;
        let json = |rows: &[Row]| serde_json::to_string(rows).expect("plain numbers");
        assert_eq!(json(&rows), json(&again), "counts are repeatable");
    }

    #[test]
    fn options_without_a_class_are_refused() {
        assert!(options("--classes 0").is_err());
        assert_eq!(options("").expect("all have defaults").classes.len(), 13);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_before_anything_is_counted() {
        // No class can be counted with so many elements a case; the place is found out earlier.
        let arguments = format!(
            "--elements {} --json /no/such/folder/report.json",
            usize::MAX
        );
        let error = run(&options(&arguments).expect("valid"), &mut io::sink())
            .expect_err("there is no such folder");
        assert!(
            error.to_string().contains("/no/such/folder/report.json"),
            "{error}"
        );
    }

    #[test]
    fn a_report_replaces_an_earlier_one_in_every_file_and_a_failed_one_in_none() {
        let _turn = turn();
        let folder = tempfile::tempdir().expect("the system has a folder for such files");
        let path = |name: &str| folder.path().join(name);
        let shown = folder.path().display();
        let options = options(&format!(
            "--classes 10 --elements 1000 --json {shown}/report.json --svg {shown}"
        ))
        .expect("valid");
        let names = ["report.json", "kernel_bytes.svg", "kernel_roofline.svg"];
        for name in names {
            fs::write(path(name), "earlier").expect("the folder is writable");
        }
        let outputs = Outputs::at(&options).expect("all three can be written");
        for name in names {
            assert_eq!(
                fs::read_to_string(path(name)).expect("it is there"),
                "earlier"
            );
        }
        let report = Report::count(&options).expect("softcuda and the kernels are there");
        outputs.write(&report.rows).expect("written");
        for name in names {
            let text = fs::read_to_string(path(name)).expect("it is there");
            assert!(
                text.starts_with(if name == "report.json" { "[" } else { "<svg" }),
                "{name}: {text}"
            );
        }
        assert_eq!(
            fs::read_dir(folder.path()).expect("it is there").count(),
            3,
            "nothing is left beside"
        );
    }
}
