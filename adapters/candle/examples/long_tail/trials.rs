//! Every method with every seed, one trial a core.

use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Device;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::Failure;
use crate::method::Setting;
use crate::report::Trial;
use crate::task::{Measured, Tasks};
use crate::training::{BATCH, Looks, Recipe, train};

/// Runs all trials and returns them ordered by seed, then by setting.
///
/// Each trial stays on one thread: its matrices are too small to gain from two, and the order of
/// its operations, hence its result, does not depend on how many cores there are.
///
/// On a GPU one trial runs after the other.
pub(crate) fn run(
    tasks: &Tasks,
    measured: Measured,
    settings: &[Setting],
    seeds: u64,
    recipe: Recipe,
) -> Result<Vec<Trial>, Failure> {
    let plan: Vec<(u64, Setting)> = (0..seeds)
        .flat_map(|seed| settings.iter().map(move |&setting| (seed, setting)))
        .collect();
    let looks = match measured {
        Measured::Test => Looks::OnTheWay,
        Measured::Validation => Looks::AtTheEnd,
    };
    let results: Vec<Mutex<Option<Result<Trial, Failure>>>> =
        plan.iter().map(|_| Mutex::new(None)).collect();
    let progress = Progress::new(plan.len(), recipe.steps);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let workers = match tasks.device() {
        Device::Cpu => thread::available_parallelism().map_or(1, NonZero::get),
        _ => 1,
    }
    .min(plan.len());

    let work = || -> Result<(), Failure> {
        // candle's matrix products run on the rayon pool they are called from.
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        single.install(|| {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(seed, setting)) = plan.get(index) else {
                    break;
                };
                progress.started(index, setting, seed);
                let begin = Instant::now();
                let trial = tasks.of_seed(seed, measured).and_then(|task| {
                    let outcome = train(&task, setting, seed, recipe, looks, || {
                        progress.stepped();
                        !failed.load(Ordering::Relaxed)
                    })?;
                    Ok(Trial::new(setting, measured, seed, &task, outcome))
                });
                match &trial {
                    Ok(trial) => progress.finished(trial, begin.elapsed()),
                    Err(_) => failed.store(true, Ordering::Relaxed),
                }
                *results[index]
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(trial);
            }
        });
        Ok(())
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| {
            handle
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    progress.close();

    let mut trials = Vec::with_capacity(plan.len());
    for result in results {
        let result = result
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // A trial after the failed one may be missing; the failed one itself is there.
        if let Some(trial) = result.transpose()? {
            trials.push(trial);
        }
    }
    Ok(trials)
}

/// A bar over all steps on a terminal, a line a trial elsewhere.
struct Progress {
    bar: ProgressBar,
    lines: bool,
    trials: usize,
    steps: u64,
    done: AtomicUsize,
}

impl Progress {
    fn new(trials: usize, steps: u64) -> Self {
        let style = ProgressStyle::with_template(
            "{elapsed_precise} [{bar:32}] {percent:>3}% eta {eta} {images} {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        // Of all trials that run side by side.
        .with_key("images", |state: &ProgressState, text: &mut dyn Write| {
            let images = state.per_sec() * BATCH as f64;
            let _ = write!(text, "{images:.0} images/s");
        })
        .progress_chars("=> ");
        // indicatif draws nothing where standard error is not a terminal.
        let bar = ProgressBar::new(trials as u64 * steps).with_style(style);
        Self {
            bar,
            lines: !std::io::stderr().is_terminal(),
            trials,
            steps,
            done: AtomicUsize::new(0),
        }
    }

    fn started(&self, index: usize, setting: Setting, seed: u64) {
        self.bar.set_message(format!(
            "trial {} of {}: {}, seed {seed}",
            index + 1,
            self.trials,
            setting.method.name()
        ));
    }

    fn stepped(&self) {
        self.bar.inc(1);
    }

    /// `took`: with the preparation and the test.
    fn finished(&self, trial: &Trial, took: Duration) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.lines {
            // Not eprintln, which panics where nobody reads any more; the results matter more than
            // these lines.
            let _ = writeln!(
                std::io::stderr(),
                "[{done}/{}] {}, seed {}: {:.1} %, {:.0} images/s",
                self.trials,
                trial.setting.named(),
                trial.seed,
                trial.overall,
                (self.steps * BATCH as u64) as f64 / took.as_secs_f64()
            );
        }
    }

    fn close(&self) {
        self.bar.finish_and_clear();
    }
}
