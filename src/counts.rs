//! Training samples of each class.

use std::io::BufRead;

use crate::element::Label;
use crate::error::{Error, check_parameter};
use crate::groups::{Group, GroupThresholds};

/// Largest count that a double represents exactly together with all smaller ones.
pub(crate) const MAX_COUNT: u64 = 1 << 53;

/// What to do with a class that has no training sample.
///
/// The quantity factor, log-priors and LDAM margins are undefined at count 0.
///
/// ```
/// use ala_loss::{ClassCounts, Error, ZeroCounts};
/// let counts = |zero| ClassCounts::from_labels(&[0, 0, 2], 3, zero);
/// assert!(matches!(counts(ZeroCounts::Reject), Err(Error::MissingClasses { missing: 1, .. })));
/// assert_eq!(counts(ZeroCounts::TreatAsOne)?.as_slice(), [2, 1, 1]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCounts {
    /// [`Error::ZeroCount`], or [`Error::MissingClasses`] where labels are counted.
    #[default]
    Reject,
    /// Count the class as having one sample.
    TreatAsOne,
}

/// The number of training samples of each class: validated, at least one class, every count in
/// `1..=2^53`.
///
/// ```
/// use ala_loss::ClassCounts;
/// let counts = ClassCounts::new([500, 50, 5])?;
/// assert_eq!(counts.classes(), 3);
/// assert_eq!(counts.imbalance_ratio(), 100.0);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCounts {
    counts: Vec<u64>,
}

/// A count of 0 for each class.
fn zeros(classes: usize) -> Result<Vec<u64>, Error> {
    let mut counts = Vec::new();
    counts
        .try_reserve_exact(classes)
        .map_err(|_| Error::TooManyClasses { classes })?;
    counts.resize(classes, 0);
    Ok(counts)
}

/// Where classes have no sample: the first few of them, as ranges.
fn missing_classes(counts: &[u64]) -> Option<Error> {
    const MOST_LISTED: usize = 5;
    let smallest = counts.iter().position(|&count| count > 0)?;
    let missing = counts.iter().filter(|&&count| count == 0).count();
    if missing == 0 {
        return None;
    }
    let mut listed = Vec::new();
    let mut first = 0;
    for run in counts.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        let last = first + run.len() - 1;
        if run[0] == 0 {
            if listed.len() == MOST_LISTED {
                listed.push("...".to_owned());
                break;
            }
            listed.push(match run.len() {
                1 => first.to_string(),
                _ => format!("{first} to {last}"),
            });
        }
        first = last + 1;
    }
    Some(Error::MissingClasses {
        smallest,
        missing,
        classes: counts.len(),
        listed: listed.join(", "),
    })
}

impl ClassCounts {
    /// Takes one count for each class; a count of 0 is an error.
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::ZeroCount`], [`Error::CountTooLarge`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Error};
    /// assert_eq!(ClassCounts::new([4, 0]), Err(Error::ZeroCount { class: 1 }));
    /// ```
    pub fn new(counts: impl Into<Vec<u64>>) -> Result<Self, Error> {
        Self::with_zero_policy(counts, ZeroCounts::Reject)
    }

    /// Takes one count for each class and says what a count of 0 means.
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::ZeroCount`] under [`ZeroCounts::Reject`],
    /// [`Error::CountTooLarge`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, ZeroCounts};
    /// let counts = ClassCounts::with_zero_policy([4, 0], ZeroCounts::TreatAsOne)?;
    /// assert_eq!(counts.as_slice(), [4, 1]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn with_zero_policy(counts: impl Into<Vec<u64>>, zero: ZeroCounts) -> Result<Self, Error> {
        let mut counts = counts.into();
        if counts.is_empty() {
            return Err(Error::NoClasses);
        }
        for (class, count) in counts.iter_mut().enumerate() {
            if *count > MAX_COUNT {
                return Err(Error::CountTooLarge {
                    class,
                    count: *count,
                });
            }
            if *count == 0 {
                match zero {
                    ZeroCounts::Reject => return Err(Error::ZeroCount { class }),
                    ZeroCounts::TreatAsOne => *count = 1,
                }
            }
        }
        Ok(Self { counts })
    }

    /// Counts the training set's labels.
    ///
    /// # Errors
    /// [`Error::Label`] for a label outside `0..classes`, [`Error::MissingClasses`] where classes
    /// have no label under [`ZeroCounts::Reject`], [`Error::TooManyClasses`], and those of
    /// [`with_zero_policy`](Self::with_zero_policy).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, ZeroCounts};
    /// let counts = ClassCounts::from_labels(&[0u8, 0, 1], 2, ZeroCounts::Reject)?;
    /// assert_eq!(counts.as_slice(), [2, 1]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_labels<L: Label>(
        labels: &[L],
        classes: usize,
        zero: ZeroCounts,
    ) -> Result<Self, Error> {
        let mut counts = zeros(classes)?;
        for (row, label) in labels.iter().enumerate() {
            let class = label.class(classes).ok_or(Error::Label {
                row,
                label: label.value(),
                classes,
            })?;
            counts[class] += 1;
        }
        Self::counted(counts, zero)
    }

    /// The counts of labels: a class without one is told by what all labels are.
    fn counted(counts: Vec<u64>, zero: ZeroCounts) -> Result<Self, Error> {
        match missing_classes(&counts) {
            Some(missing) if zero == ZeroCounts::Reject => Err(missing),
            _ => Self::with_zero_policy(counts, zero),
        }
    }

    /// Counts the labels of an annotation file, one `path label` a line: the format of
    /// `ImageNet_LT_train.txt`, `Places_LT_train.txt` and `iNaturalist18_train.txt`.
    ///
    /// The label is the last field of a line, so paths may hold blanks, and need not be UTF-8;
    /// empty lines and a byte-order mark are skipped. The number of classes is `classes`, or the
    /// largest label + 1 where `None`.
    ///
    /// # Errors
    /// [`Error::Annotation`] names the line; [`Error::Read`] where reading fails;
    /// [`Error::MissingClasses`] where labels begin above 0 or have gaps under
    /// [`ZeroCounts::Reject`]; [`Error::TooManyClasses`]; and those of
    /// [`with_zero_policy`](Self::with_zero_policy).
    ///
    /// ```
    /// use ala_loss::{ClassCounts, ZeroCounts};
    /// let file = "train/n01/a.JPEG 0\ntrain/n01/b.JPEG 0\ntrain/n02/c.JPEG 1\n";
    /// let counts = ClassCounts::from_annotations(file.as_bytes(), None, ZeroCounts::Reject)?;
    /// assert_eq!(counts.as_slice(), [2, 1]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_annotations(
        lines: impl BufRead,
        classes: Option<usize>,
        zero: ZeroCounts,
    ) -> Result<Self, Error> {
        Self::from_annotations_starting_at(0, lines, classes, zero)
    }

    /// Counts an annotation file whose labels begin at `first_label` instead of 0: label
    /// `first_label` is class 0.
    ///
    /// Otherwise as [`from_annotations`](Self::from_annotations). A loss takes classes: subtract
    /// `first_label` from the labels that it is given, too.
    ///
    /// # Errors
    /// Those of [`from_annotations`](Self::from_annotations), and [`Error::Annotation`] for a label
    /// below `first_label`.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, ZeroCounts};
    /// let file = "a.JPEG 1\nb.JPEG 1\nc.JPEG 2\n".as_bytes();
    /// let zero = ZeroCounts::Reject;
    /// let counts = ClassCounts::from_annotations_starting_at(1, file, None, zero)?;
    /// assert_eq!(counts.as_slice(), [2, 1]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn from_annotations_starting_at(
        first_label: usize,
        mut lines: impl BufRead,
        classes: Option<usize>,
        zero: ZeroCounts,
    ) -> Result<Self, Error> {
        // A class index beyond this is a corrupt line, not a data set; it must not make us
        // allocate.
        const MOST_CLASSES: usize = 1 << 24;
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let mut counts = zeros(classes.unwrap_or(0))?;
        // Bytes: a path is whatever the file system takes.
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = lines.read_until(b'\n', &mut bytes);
            if read.map_err(|error| Error::Read(format!("line {line}: {error}")))? == 0 {
                break;
            }
            let mut text = bytes.as_slice();
            if line == 1 {
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            }
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let shown = String::from_utf8_lossy;
            let annotation = |problem: String| Error::Annotation { line, problem };
            let blank = text
                .iter()
                .rposition(u8::is_ascii_whitespace)
                .ok_or_else(|| annotation(format!("found only `{}`", shown(text))))?;
            let label = shown(&text[blank + 1..]);
            let number: usize = label.parse().map_err(|_| {
                annotation(format!("label `{label}` is not a non-negative integer"))
            })?;
            let class = number.checked_sub(first_label).ok_or_else(|| {
                annotation(format!(
                    "label {number} is below {first_label}, where the labels begin"
                ))
            })?;
            let most = classes.unwrap_or(MOST_CLASSES);
            if class >= most {
                // Of labels that begin one higher than said, the largest is one too high.
                let hint = match class == most {
                    true => {
                        "; ClassCounts::from_annotations_starting_at reads labels that begin at 1"
                    }
                    false => "",
                };
                return Err(annotation(format!(
                    "label {number} is outside the {most} classes allowed, which begin at {first_label}{hint}"
                )));
            }
            if class >= counts.len() {
                counts.resize(class + 1, 0);
            }
            counts[class] += 1;
        }
        Self::counted(counts, zero)
    }

    /// The counts, one for each class.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.as_slice(), [50, 500, 5]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn as_slice(&self) -> &[u64] {
        &self.counts
    }

    /// The number of classes `C`.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.classes(), 3);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// The number of training samples.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.total(), 555);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn total(&self) -> u128 {
        self.counts.iter().map(|&count| u128::from(count)).sum()
    }

    /// The count of the most frequent class.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.max(), 500);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn max(&self) -> u64 {
        self.counts.iter().copied().max().unwrap_or(1)
    }

    /// The count of the rarest class.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.min(), 5);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn min(&self) -> u64 {
        self.counts.iter().copied().min().unwrap_or(1)
    }

    /// `n_max / n_min`, the usual measure of how long the tail is.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([50, 500, 5])?;
    /// assert_eq!(counts.imbalance_ratio(), 100.0);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn imbalance_ratio(&self) -> f64 {
        self.max() as f64 / self.min() as f64
    }

    /// Class priors `pi_j = n_j / sum_k n_k`.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([4, 3, 1])?;
    /// assert_eq!(counts.priors(), [0.5, 0.375, 0.125]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn priors(&self) -> Vec<f64> {
        let total = self.total() as f64;
        self.counts.iter().map(|&n| n as f64 / total).collect()
    }

    /// Whether each class is many-, medium- or few-shot.
    ///
    /// ```
    /// use ala_loss::{ClassCounts, Group, GroupThresholds};
    /// let counts = ClassCounts::new([101, 100, 20, 19])?;
    /// let groups = counts.groups(GroupThresholds::default());
    /// assert_eq!(groups, [Group::Many, Group::Medium, Group::Medium, Group::Few]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn groups(&self, thresholds: GroupThresholds) -> Vec<Group> {
        self.counts
            .iter()
            .map(|&count| thresholds.group(count))
            .collect()
    }

    /// Class-balanced weights `w_j = (1 - beta) / (1 - beta^n_j)`, scaled to sum to `C`
    /// (Cui et al., CVPR 2019, "effective number of samples").
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `beta` is in `[0, 1)`.
    ///
    /// ```
    /// let counts = ala_loss::ClassCounts::new([1000, 10])?;
    /// let weights = counts.class_balanced_weights(0.999)?;
    /// assert!(weights[1] > weights[0] && (weights[0] + weights[1] - 2.0).abs() < 1e-12);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn class_balanced_weights(&self, beta: f64) -> Result<Vec<f64>, Error> {
        check_parameter("beta", beta, "in [0, 1)", |b| (0.0..1.0).contains(&b))?;
        let raw: Vec<f64> = self
            .counts
            .iter()
            .map(|&n| (1.0 - beta) / (1.0 - beta.powf(n as f64)))
            .collect();
        let scale = self.classes() as f64 / raw.iter().sum::<f64>();
        Ok(raw.into_iter().map(|w| w * scale).collect())
    }
}
