//! What can go wrong.

use thiserror::Error as ThisError;

/// Everything that can go wrong, with the offending number and the allowed one.
///
/// An error means that nothing was written: the caller's buffers hold what they held before.
///
/// ```
/// use ala_loss::{ClassCounts, Error, Loss, Objective, Options, Outputs};
/// let counts = ClassCounts::new([9, 3])?;
/// let loss = Loss::builder(Objective::ala(), &counts).build()?;
/// let mut cosines = [0.5f32, 0.1];
/// let result = loss.evaluate_in_place(&mut cosines, &[7], &Options::new(), Outputs::new());
/// let error = result.unwrap_err();
/// assert_eq!(error, Error::Label { row: 0, label: 7, classes: 2 });
/// let message = "row 0 has label 7: labels must lie in 0..2 or be the ignore label";
/// assert_eq!(error.to_string(), message);
/// assert_eq!(cosines, [0.5, 0.1]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// No classes were given.
    #[error("class counts are empty: give one count for each class")]
    NoClasses,
    /// A class has no training sample and the policy is
    /// [`ZeroCounts::Reject`](crate::ZeroCounts::Reject).
    #[error(
        "class {class} has count 0: drop the class, or choose ZeroCounts::TreatAsOne to count it as 1"
    )]
    ZeroCount {
        /// The first class without samples.
        class: usize,
    },
    /// The labels leave classes out and the policy is
    /// [`ZeroCounts::Reject`](crate::ZeroCounts::Reject).
    #[error(
        "labels begin at {smallest} and leave {missing} of {classes} classes without a sample ({listed}): number the classes from 0 without gaps (ClassCounts::from_annotations_starting_at reads labels that begin elsewhere), or choose ZeroCounts::TreatAsOne to count such a class as 1"
    )]
    MissingClasses {
        /// The smallest label, after any shift.
        smallest: usize,
        /// How many classes have no sample.
        missing: usize,
        /// Number of classes.
        classes: usize,
        /// The first of them, as text: `0, 3 to 7, ...`.
        listed: String,
    },
    /// There is no memory for so many classes.
    #[error("{classes} classes: there is no memory for their counts; give the number of classes")]
    TooManyClasses {
        /// The number given.
        classes: usize,
    },
    /// A count cannot be represented exactly as a double.
    #[error("class {class} has count {count}: counts must be at most 2^53 = 9007199254740992")]
    CountTooLarge {
        /// The class.
        class: usize,
        /// Its count.
        count: u64,
    },
    /// An annotation line is not `path label`.
    #[error("annotation line {line}: {problem}; each line must be `path label`")]
    Annotation {
        /// Line number, from 1.
        line: usize,
        /// What was wrong with it.
        problem: String,
    },
    /// A parameter of an objective or a loss is out of its range.
    #[error("{name} is {value}: it must be {allowed}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// A list has the wrong number of entries.
    #[error("{name} has {got} entries: expected {expected}")]
    Length {
        /// Which list.
        name: &'static str,
        /// Entries given.
        got: usize,
        /// Entries needed.
        expected: usize,
    },
    /// The logits are not `[N, C]` for the labels' `N` and the class counts' `C`.
    #[error(
        "logits hold {got} elements: {rows} labels x {classes} classes need {expected} (set a row stride if rows are padded)"
    )]
    LogitsShape {
        /// Elements given.
        got: usize,
        /// Elements needed.
        expected: usize,
        /// Number of labels.
        rows: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A strided buffer ends before its last row does.
    #[error(
        "{name} holds {got} elements: {rows} rows of {classes} at stride {stride} need {expected}"
    )]
    StridedBuffer {
        /// Which buffer.
        name: &'static str,
        /// Elements given.
        got: usize,
        /// Elements needed.
        expected: usize,
        /// Number of rows.
        rows: usize,
        /// Number of classes.
        classes: usize,
        /// Elements between the starts of two rows.
        stride: usize,
    },
    /// Rows would overlap.
    #[error("{name} has row stride {stride}: it must be at least the {classes} classes of a row")]
    Stride {
        /// Which buffer.
        name: &'static str,
        /// The stride given.
        stride: usize,
        /// The least stride.
        classes: usize,
    },
    /// The shape's element count does not fit the address space.
    #[error("{rows} rows at stride {stride} exceed the address space")]
    ShapeOverflow {
        /// Number of rows.
        rows: usize,
        /// Elements between the starts of two rows.
        stride: usize,
    },
    /// A label is neither a class nor the ignore label.
    #[error("row {row} has label {label}: labels must lie in 0..{classes} or be the ignore label")]
    Label {
        /// The first offending row.
        row: usize,
        /// Its label.
        label: i128,
        /// Number of classes.
        classes: usize,
    },
    /// The second label of a mixed row is neither a class nor the ignore label.
    #[error(
        "row {row} has second label {label}: labels must lie in 0..{classes} or be the ignore label"
    )]
    SecondLabel {
        /// The first offending row.
        row: usize,
        /// Its second label.
        label: i128,
        /// Number of classes.
        classes: usize,
    },
    /// A number that a row has is out of its range.
    #[error("row {row} has {name} {value}: it must be {allowed}")]
    RowParameter {
        /// The first offending row.
        row: usize,
        /// What the number is.
        name: &'static str,
        /// The number.
        value: f64,
        /// The numbers that are allowed.
        allowed: &'static str,
    },
    /// A prediction is not a class.
    #[error("row {row} has prediction {prediction}: predictions must lie in 0..{classes}")]
    Prediction {
        /// The first offending row.
        row: usize,
        /// The prediction.
        prediction: i128,
        /// Number of classes.
        classes: usize,
    },
    /// A class has more hits than rows.
    #[error("class {class} has {hits} hits: its {rows} rows can have so many at most")]
    Hits {
        /// The first offending class.
        class: usize,
        /// Its hits.
        hits: u64,
        /// Its rows.
        rows: u64,
    },
    /// A shard's classes are no range of the loss's.
    #[error("shard {start}..{end}: it must be a range of the classes 0..{classes}, and not empty")]
    ShardClasses {
        /// Its first class.
        start: usize,
        /// The class behind its last.
        end: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The shards' records do not have a row's label once.
    #[error(
        "row {row} has label {label}, which {shards} of the shards' records hold: their classes must cover all once, and all must be given the same labels"
    )]
    ShardsOfLabel {
        /// The first offending row.
        row: usize,
        /// Its label.
        label: i128,
        /// How many shards hold it.
        shards: usize,
    },
    /// A gradient for each row makes sense only where the loss is not reduced.
    #[error("an upstream gradient for each row needs Reduction::None; the loss has Reduction::{0}")]
    UpstreamNeedsNoReduction(&'static str),
    /// An in-place call was also given a gradient buffer.
    #[error("an in-place call writes the gradient over the logits: do not pass a gradient buffer")]
    GradientBufferInPlace,
    /// Something was given that the call does not take.
    #[error("{given}: this call does not take them; {instead}")]
    Misplaced {
        /// What was given.
        given: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The many/medium/few thresholds overlap.
    #[error(
        "few_under is {few_under} and many_over is {many_over}: few_under must be at most many_over + 1"
    )]
    Thresholds {
        /// Classes with more samples are many-shot.
        many_over: u64,
        /// Classes with fewer samples are few-shot.
        few_under: u64,
    },
    /// Something between the crate and a CUDA device.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::error::CudaError),
    /// A file or stream could not be read.
    #[error("cannot read annotations: {0}")]
    Read(String),
}

/// Fails unless `value` is finite and `accept`s it; the one place where parameters are checked.
pub(crate) fn check_parameter(
    name: &'static str,
    value: f64,
    allowed: &'static str,
    accept: impl Fn(f64) -> bool,
) -> Result<f64, Error> {
    if value.is_finite() && accept(value) {
        Ok(value)
    } else {
        Err(Error::Parameter {
            name,
            value,
            allowed,
        })
    }
}
