//! What can go wrong, and on whom.

use thiserror::Error as ThisError;

/// Everything that can go wrong, with the rank that it went wrong on.
///
/// All ranks get the same error, whichever of them it is about, and none of them has written to its
/// outputs. [`Error::Own`] alone is one rank's: the ranks have exchanged all they had to, and the
/// others may have a result.
///
/// What goes wrong in MPI itself (a rank that died, a network that failed) does not come here: by
/// MPI's default it ends the program on all ranks.
///
/// ```
/// use ala_loss_mpi::Error;
/// let label = ala_loss::Error::Label { row: 0, label: 7, classes: 2 };
/// let error = Error::Rank { rank: 3, error: label };
/// let message = "rank 3: row 0 has label 7: labels must lie in 0..2 or be the ignore label";
/// assert_eq!(error.to_string(), message);
/// ```
#[derive(Debug, Clone, PartialEq, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// A rank was given what the loss does not take.
    #[error("rank {rank}: {error}")]
    Rank {
        /// The lowest such rank.
        rank: usize,
        /// What the loss said there.
        error: ala_loss::Error,
    },
    /// The same, of an error that travels as its text alone.
    #[error("rank {rank}: {message}")]
    RankMessage {
        /// The lowest such rank.
        rank: usize,
        /// What the loss said there, up to 160 bytes.
        message: String,
    },
    /// Ranks were given different numbers of something.
    #[error("rank {rank} has {got} {what}, and rank 0 has {expected}: all must have the same")]
    Differ {
        /// What is counted.
        what: &'static str,
        /// The lowest rank that has another number than rank 0.
        rank: usize,
        /// Its number.
        got: usize,
        /// That of rank 0.
        expected: usize,
    },
    /// Ranks were given something of the same size and not of the same content.
    #[error("the {what} of rank {rank} are not those of rank 0: all must be given the same")]
    Unlike {
        /// What differs.
        what: &'static str,
        /// The lowest rank whose own are not those of rank 0.
        rank: usize,
    },
    /// The ranks' classes are not one behind the other.
    #[error(
        "rank {rank} has the classes {start}..{end}: they must begin at {expected}, where those of the ranks before it end"
    )]
    FirstClass {
        /// The lowest such rank.
        rank: usize,
        /// Its first class.
        start: usize,
        /// The class behind its last.
        end: usize,
        /// The first class that it should have.
        expected: usize,
    },
    /// Classes behind those of the last rank are nobody's.
    #[error("the ranks' classes end at {end}: they must cover all {classes}")]
    LastClass {
        /// Where the classes of the last rank end.
        end: usize,
        /// Number of classes.
        classes: usize,
    },
    /// More numbers than MPI can count.
    #[error("rank {rank} needs a message of {numbers} numbers: MPI counts up to {most} here")]
    TooLong {
        /// The lowest such rank.
        rank: usize,
        /// The numbers that a rank tells the others.
        numbers: usize,
        /// As many as a message may have with so many ranks.
        most: usize,
    },
    /// There is no memory for what the ranks tell one another.
    #[error("rank {rank} has no memory for {numbers} numbers of all ranks")]
    Memory {
        /// The lowest such rank.
        rank: usize,
        /// The numbers of all ranks.
        numbers: usize,
    },
    /// Counts of classes that do not fit when they are added up.
    #[error("the largest counts of the ranks add up to {sum}: it must be at most 2^64 - 1")]
    CountOverflow {
        /// Their sum.
        sum: u128,
    },
    /// An error of this rank alone, found after the exchange: most often an output of the wrong
    /// length.
    #[error(transparent)]
    Own(#[from] ala_loss::Error),
}
