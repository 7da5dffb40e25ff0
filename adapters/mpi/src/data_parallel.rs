//! Ranks that hold different rows, each with all classes: what their mean divides by, and the class
//! counts of all their samples.

use mpi::collective::SystemOperation;
use mpi::traits::CommunicatorCollectives;

use crate::error::Error;
use crate::failure::{self, Failure};
use crate::words::all_gather;

/// What the mean over the rows of all ranks divides by: their own divisors added up in rank order,
/// so that the bits repeat. A collective call, one all-gather.
///
/// `local` is what [`Loss::divisor`](ala_loss::Loss::divisor) says of this rank's rows, an error as
/// it is. A step that is given the result as [`Divisor::Given`](ala_loss::Divisor::Given) has its
/// part of the loss and of the gradient: those of all ranks add up to the whole batch's.
///
/// # Errors
/// On all ranks the same: [`Error::Rank`] with the error of the lowest rank that has one, or that
/// has a number which is not finite and at least 0.
///
/// ```no_run
/// use ala_loss::{ClassCounts, Divisor, Loss, Objective, Options};
/// use ala_loss_mpi::global_divisor;
/// let universe = mpi::initialize().expect("MPI was not initialised before");
/// let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
/// let (cosines, labels) = ([0.5f32, 0.1], [1]); // this rank's
/// let options = Options::new();
/// let divisor = global_divisor(&universe.world(), loss.divisor(&labels, &options))?;
/// let options = options.divisor(Divisor::Given(divisor));
/// let outcome = loss.evaluate_with(&cosines, &labels, &options)?; // to be added up over ranks
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn global_divisor(
    communicator: &impl CommunicatorCollectives,
    local: Result<f64, ala_loss::Error>,
) -> Result<f64, Error> {
    let local = local.and_then(|value| match value >= 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(ala_loss::Error::Parameter {
            name: "divisor",
            value,
            allowed: "finite and at least 0",
        }),
    });
    let mut words = [0; 1 + failure::WORDS];
    match local {
        Ok(value) => words[0] = value.to_bits(),
        Err(error) => words[1..].copy_from_slice(&failure::pack(&Failure::Loss(error))),
    }
    let all = all_gather(communicator, words);
    check(&all)?;
    Ok(all.iter().map(|words| f64::from_bits(words[0])).sum())
}

/// The counts of all ranks added up, class by class: what
/// [`ClassCounts`](ala_loss::ClassCounts) are made of where each rank has counted its own samples.
/// A collective call, one all-gather of a few words and one all-reduce. Exact.
///
/// # Errors
/// On all ranks the same: [`Error::Differ`] where ranks have different numbers of classes,
/// [`Error::CountOverflow`] where sums might leave 64 bits, [`Error::Memory`].
///
/// ```no_run
/// use ala_loss::{ClassCounts, ZeroCounts};
/// use ala_loss_mpi::global_counts;
/// let universe = mpi::initialize().expect("MPI was not initialised before");
/// let own = [300, 0, 2]; // samples of each class on this rank
/// let all = global_counts(&universe.world(), &own)?;
/// let counts = ClassCounts::with_zero_policy(all, ZeroCounts::TreatAsOne)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn global_counts(
    communicator: &impl CommunicatorCollectives,
    counts: &[u64],
) -> Result<Vec<u64>, Error> {
    let mut all = Vec::new();
    // Behind the exchange no rank may fail alone.
    let reserved = all.try_reserve_exact(counts.len());
    let mut words = [0; 2 + failure::WORDS];
    words[0] = counts.len() as u64;
    words[1] = counts.iter().copied().max().unwrap_or(0);
    if reserved.is_err() {
        let numbers = counts.len();
        words[2..].copy_from_slice(&failure::pack(&Failure::Memory { numbers }));
    }
    let told = all_gather(communicator, words);
    check(&told)?;
    let size = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
    let expected = size(told[0][0]);
    for (rank, words) in told.iter().enumerate() {
        let got = size(words[0]);
        if got != expected {
            return Err(Error::Differ {
                what: "class counts",
                rank,
                got,
                expected,
            });
        }
    }
    let sum = told.iter().map(|words| u128::from(words[1])).sum();
    if sum > u128::from(u64::MAX) {
        return Err(Error::CountOverflow { sum });
    }
    all.resize(counts.len(), 0);
    // MPI counts elements with an `int`.
    const MOST: usize = 1 << 30;
    for (own, all) in counts.chunks(MOST).zip(all.chunks_mut(MOST)) {
        communicator.all_reduce_into(own, all, SystemOperation::sum());
    }
    Ok(all)
}

/// Fails where a rank has told of a failure, in the last of its words.
fn check<const W: usize>(all: &[[u64; W]]) -> Result<(), Error> {
    for (rank, words) in all.iter().enumerate() {
        let mut failure = failure::NONE;
        failure.copy_from_slice(&words[W - failure::WORDS..]);
        if let Some(error) = failure::unpack(rank, &failure) {
            return Err(error);
        }
    }
    Ok(())
}
