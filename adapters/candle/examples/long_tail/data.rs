//! Samples in memory, and what makes them fit: labels to features, a test set to its training set.
//!
//! Nothing is allocated on a header's word: a file that claims more than it holds ends in an error.

use std::io;
use std::path::Path;

use ala_loss::{ClassCounts, ZeroCounts};

/// Labelled samples: every label is below `classes`, every feature is finite.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples {
    /// Row-major `[n, width]`.
    pub(crate) features: Vec<f32>,
    /// Features of one sample.
    pub(crate) width: usize,
    /// One class index for each sample.
    pub(crate) labels: Vec<u32>,
    /// How many classes there are.
    pub(crate) classes: usize,
}

impl Samples {
    /// The samples of these rows.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        let width = self.width;
        let features = |&row: &usize| &self.features[row * width..(row + 1) * width];
        Self {
            features: rows.iter().flat_map(features).copied().collect(),
            width,
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
            classes: self.classes,
        }
    }
}

/// A training and a test set of the same width and classes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Split {
    /// Samples to learn from; every class has one.
    pub(crate) train: Samples,
    /// Samples to measure on; a class may have none, and then has no accuracy.
    pub(crate) test: Samples,
    /// What a sample's features are, where they are an image's pixels, row by row.
    pub(crate) image: Option<Image>,
}

/// What images of a set have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// The feature that a black pixel is.
    pub(crate) black: f32,
}

/// Why samples could not be had. `file` names the file at fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error("{file}: no such file")]
    Missing { file: String },
    // Named `cause`, not `source`: the message already holds it, and a reporter that walks the
    // chain would repeat it.
    #[error("{file}: cannot be read: {cause}")]
    Read { file: String, cause: io::Error },
    #[error("{file}: begins with the bytes {found:02x?}, expected {expected:02x?} ({format})")]
    Magic {
        file: String,
        found: Vec<u8>,
        expected: Vec<u8>,
        format: &'static str,
    },
    #[error("{file}: truncated: {found} bytes, expected {expected}")]
    Truncated {
        file: String,
        found: u64,
        expected: u64,
    },
    #[error("{file}: goes on after the {expected} bytes that its header describes")]
    TooLong { file: String, expected: u64 },
    #[error("{file}: bad header: {reason}")]
    Header { file: String, reason: String },
    #[error("{file}: holds no values")]
    Empty { file: String },
    #[error("{file}: holds {labels} labels, but {features_file} holds {rows} samples")]
    CountMismatch {
        file: String,
        labels: usize,
        features_file: String,
        rows: usize,
    },
    #[error("{file}: a test sample has {width} features, a training sample {expected}")]
    WidthMismatch {
        file: String,
        width: usize,
        expected: usize,
    },
    #[error("{file}: label {label} at index {index}, allowed are {smallest} to {largest}")]
    Label {
        file: String,
        label: String,
        index: usize,
        smallest: u32,
        largest: u32,
    },
    #[error(
        "{file}: labels begin at {smallest} and leave {missing} of {classes} classes without a sample ({listed}); classes are numbered from 0 without gaps, and --first-label shifts labels that begin elsewhere"
    )]
    MissingClasses {
        file: String,
        smallest: usize,
        missing: usize,
        classes: usize,
        listed: String,
    },
    #[error("{file}: {cause}")]
    Counts {
        file: String,
        cause: ala_loss::Error,
    },
    #[error("{file}: the feature at row {row}, column {column} is {value}, allowed are finite f32")]
    NotFinite {
        file: String,
        row: usize,
        column: usize,
        value: f32,
    },
    #[error("imbalance ratio {imbalance}, allowed are finite numbers from 1")]
    Imbalance { imbalance: f64 },
    #[error(
        "class {class} has {samples} training samples, a sweep needs {needed}: it holds some out"
    )]
    HeldOut {
        class: usize,
        samples: usize,
        needed: usize,
    },
}

/// What one features file held; row-major, neither empty nor of width 0.
pub(crate) struct Rows<V> {
    pub(crate) file: String,
    pub(crate) values: Vec<V>,
    pub(crate) width: usize,
}

/// What one labels file held, as class indices.
pub(crate) struct Labels {
    file: String,
    pub(crate) labels: Vec<u32>,
    /// What the file calls class 0.
    first: u32,
}

impl Labels {
    /// Takes labels as the file has them.
    pub(crate) fn new(file: String, mut labels: Vec<u32>, first: u32) -> Result<Self, DataError> {
        for (index, label) in labels.iter_mut().enumerate() {
            *label = label.checked_sub(first).ok_or_else(|| DataError::Label {
                file: file.clone(),
                label: label.to_string(),
                index,
                smallest: first,
                largest: u32::MAX,
            })?;
        }
        Ok(Self {
            file,
            labels,
            first,
        })
    }

    /// Fails on the first label above `largest`, which is a class index.
    fn check_up_to(&self, largest: u32) -> Result<(), DataError> {
        match self.labels.iter().position(|&label| label > largest) {
            None => Ok(()),
            Some(index) => Err(DataError::Label {
                file: self.file.clone(),
                // As the file has it; no sum of the two is more than it held.
                label: (u64::from(self.labels[index]) + u64::from(self.first)).to_string(),
                index,
                smallest: self.first,
                largest: largest.saturating_add(self.first),
            }),
        }
    }

    /// The number of classes, each of which has a sample.
    fn classes(&self) -> Result<usize, DataError> {
        // Labels above are a mistake, and must not make us allocate.
        const LARGEST: u32 = (1 << 20) - 1;
        self.check_up_to(LARGEST)?;
        let classes = self
            .labels
            .iter()
            .max()
            .map_or(0, |&largest| largest as usize + 1);
        let file = || self.file.clone();
        match ClassCounts::from_labels(&self.labels, classes, ZeroCounts::Reject) {
            Ok(_) => Ok(classes),
            Err(ala_loss::Error::MissingClasses {
                smallest,
                missing,
                classes,
                listed,
            }) => Err(DataError::MissingClasses {
                file: file(),
                smallest: smallest + self.first as usize,
                missing,
                classes,
                listed,
            }),
            Err(cause) => Err(DataError::Counts {
                file: file(),
                cause,
            }),
        }
    }
}

/// Features and labels of equal count.
pub(crate) struct Part<V> {
    rows: Rows<V>,
    labels: Labels,
}

impl<V> Part<V> {
    pub(crate) fn new(rows: Rows<V>, labels: Labels) -> Result<Self, DataError> {
        let count = rows.values.len() / rows.width;
        if labels.labels.len() != count {
            return Err(DataError::CountMismatch {
                file: labels.file,
                labels: labels.labels.len(),
                features_file: rows.file,
                rows: count,
            });
        }
        Ok(Self { rows, labels })
    }

    fn into_samples(self, classes: usize, feature: impl Fn(V) -> f32) -> Samples {
        Samples {
            features: self.rows.values.into_iter().map(feature).collect(),
            width: self.rows.width,
            labels: self.labels.labels,
            classes,
        }
    }
}

/// Samples of what a file's values become, where the two sets fit each other.
pub(crate) fn split<V>(
    train: Part<V>,
    test: Part<V>,
    feature: impl Fn(V) -> f32,
) -> Result<Split, DataError> {
    if test.rows.width != train.rows.width {
        return Err(DataError::WidthMismatch {
            file: test.rows.file,
            width: test.rows.width,
            expected: train.rows.width,
        });
    }
    let classes = train.labels.classes()?;
    // At least one class, and no more than `classes` allows.
    test.labels.check_up_to(classes as u32 - 1)?;
    Ok(Split {
        train: train.into_samples(classes, &feature),
        test: test.into_samples(classes, &feature),
        image: None,
    })
}

pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn read_error(file: String, cause: io::Error) -> DataError {
    match cause.kind() {
        io::ErrorKind::NotFound => DataError::Missing { file },
        _ => DataError::Read { file, cause },
    }
}

/// The message, without the folder, of samples that could not be had.
#[cfg(test)]
pub(crate) fn refusal(
    folder: &Path,
    outcome: Result<Split, DataError>,
) -> Result<String, Box<dyn std::error::Error>> {
    let Err(error) = outcome else {
        return Err("accepted".into());
    };
    let folder = format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR);
    Ok(error.to_string().replace(&folder, ""))
}
