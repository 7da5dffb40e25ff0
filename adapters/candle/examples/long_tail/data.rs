//! Samples for the example: read, checked, and thinned out to a long tail.
//!
//! Nothing is allocated on a header's word: a file that claims more than it holds ends in an error.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use ala_loss::{ClassCounts, ZeroCounts};
use flate2::read::MultiGzDecoder;
use half::f16;
use npyz::{DType, Deserialize, NpyFile, NpyHeader, Order, TypeChar};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

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

/// A training and a test set of the same width and classes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Split {
    /// Samples to learn from; every class has one.
    pub(crate) train: Samples,
    /// Samples to measure on; a class may have none, and then has no accuracy.
    pub(crate) test: Samples,
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
}

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

const EMBEDDED_TRAIN_IMAGES: &[u8] = include_bytes!("data/train-images-idx3-ubyte.gz");
const EMBEDDED_TRAIN_LABELS: &[u8] = include_bytes!("data/train-labels-idx1-ubyte.gz");
const EMBEDDED_TEST_IMAGES: &[u8] = include_bytes!("data/t10k-images-idx3-ubyte.gz");
const EMBEDDED_TEST_LABELS: &[u8] = include_bytes!("data/t10k-labels-idx1-ubyte.gz");

/// The reduced Fashion-MNIST in `data/`: 20,000 training and 10,000 test images of 14x14, 10
/// balanced classes.
///
/// Pixels are divided by 255 and standardised, `(x - mean) / std`, with one mean and one standard
/// deviation over all pixels of all training images (before a long tail is drawn), for both sets.
pub(crate) fn embedded() -> Result<Split, DataError> {
    let images = |name: &str, bytes| idx_images(Source::embedded(name, bytes));
    let labels = |name: &str, bytes| idx_labels(Source::embedded(name, bytes), 0);
    split_of_images(
        Part::new(
            images(TRAIN_IMAGES, EMBEDDED_TRAIN_IMAGES)?,
            labels(TRAIN_LABELS, EMBEDDED_TRAIN_LABELS)?,
        )?,
        Part::new(
            images(TEST_IMAGES, EMBEDDED_TEST_IMAGES)?,
            labels(TEST_LABELS, EMBEDDED_TEST_LABELS)?,
        )?,
    )
}

/// The four files of MNIST and its drop-in replacements in `dir`, plain or with `.gz` appended,
/// also where a mirror named them `train-images.idx3-ubyte` and so on. Label `first_label` is class
/// 0.
///
/// Images whose sides are both even and above 14 are averaged over 2x2 pixels, rounded half up, so
/// that 28x28 becomes 14x14. Then pixels are standardised as in [`embedded`].
pub(crate) fn from_idx_dir(dir: &Path, first_label: u32) -> Result<Split, DataError> {
    let images = |name: &str| idx_images(Source::open(dir, name)?);
    let labels = |name: &str| idx_labels(Source::open(dir, name)?, first_label);
    split_of_images(
        Part::new(images(TRAIN_IMAGES)?, labels(TRAIN_LABELS)?)?,
        Part::new(images(TEST_IMAGES)?, labels(TEST_LABELS)?)?,
    )
}

/// NumPy files: features `[n, width]` of float16, 32 or 64, labels `[n]` of any integer type, in C
/// or Fortran order.
///
/// Features are taken as they are, not standardised. Label `first_label` is class 0.
pub(crate) fn from_npy(
    x: &Path,
    y: &Path,
    test_x: &Path,
    test_y: &Path,
    first_label: u32,
) -> Result<Split, DataError> {
    split(
        Part::new(npy_features(x)?, npy_labels(y, first_label)?)?,
        Part::new(npy_features(test_x)?, npy_labels(test_y, first_label)?)?,
        |feature| feature,
    )
}

/// Exponential profile, most frequent class first: `n_i = max * imbalance^(-i / (classes - 1))`,
/// rounded, at least 1.
///
/// Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", section 5.1.
/// `imbalance` is the ratio of the largest to the smallest class and at least 1.
pub(crate) fn long_tailed_counts(max: usize, imbalance: f64, classes: usize) -> Vec<usize> {
    let steps = classes.saturating_sub(1).max(1) as f64;
    (0..classes)
        .map(|i| {
            let count = max as f64 * imbalance.powf(-(i as f64) / steps);
            (count.round() as usize).max(1)
        })
        .collect()
}

/// Thins `train` out to the profile of [`long_tailed_counts`], `max` being the size of its smallest
/// class.
///
/// The seed draws which class is how rare, then which samples of each class stay; they keep their
/// order. One seed gives the same draw on every platform, and with a larger imbalance ratio a
/// subset of the same samples. The second value is how many samples each class keeps, by class
/// index.
pub(crate) fn long_tailed(
    train: &Samples,
    imbalance: f64,
    seed: u64,
) -> Result<(Samples, Vec<u64>), DataError> {
    if !imbalance.is_finite() || imbalance < 1.0 {
        return Err(DataError::Imbalance { imbalance });
    }
    let mut rows_of_class = vec![Vec::new(); train.classes];
    for (row, &label) in train.labels.iter().enumerate() {
        rows_of_class[label as usize].push(row);
    }
    let max = rows_of_class.iter().map(Vec::len).min().unwrap_or(0);

    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut counts = long_tailed_counts(max, imbalance, train.classes);
    counts.shuffle(&mut rng);

    let mut kept = Vec::with_capacity(counts.iter().sum());
    for (rows, &count) in rows_of_class.iter_mut().zip(&counts) {
        // A full shuffle even for a few rows: what a class draws must not depend on how many
        // another keeps.
        rows.shuffle(&mut rng);
        kept.extend_from_slice(&rows[..count]);
    }
    kept.sort_unstable();

    let width = train.width;
    let features = kept
        .iter()
        .flat_map(|row| &train.features[row * width..(row + 1) * width])
        .copied()
        .collect();
    let samples = Samples {
        features,
        width,
        labels: kept.iter().map(|&row| train.labels[row]).collect(),
        classes: train.classes,
    };
    Ok((samples, counts.into_iter().map(|n| n as u64).collect()))
}

/// What one features file held; row-major, neither empty nor of width 0.
struct Rows<V> {
    file: String,
    values: Vec<V>,
    width: usize,
}

/// What one labels file held, as class indices.
struct Labels {
    file: String,
    labels: Vec<u32>,
    /// What the file calls class 0.
    first: u32,
}

impl Labels {
    /// Takes labels as the file has them.
    fn new(file: String, mut labels: Vec<u32>, first: u32) -> Result<Self, DataError> {
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
struct Part<V> {
    rows: Rows<V>,
    labels: Labels,
}

impl<V> Part<V> {
    fn new(rows: Rows<V>, labels: Labels) -> Result<Self, DataError> {
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

fn split<V>(train: Part<V>, test: Part<V>, feature: impl Fn(V) -> f32) -> Result<Split, DataError> {
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
    })
}

fn split_of_images(train: Part<u8>, test: Part<u8>) -> Result<Split, DataError> {
    // Whole numbers: the sums are exact, so the features are the same bits everywhere.
    let (mut sum, mut sum_of_squares) = (0_u64, 0_u64);
    for &pixel in &train.rows.values {
        sum += u64::from(pixel);
        sum_of_squares += u64::from(pixel).pow(2);
    }
    let count = train.rows.values.len() as f64;
    let mean = sum as f64 / count / 255.0;
    let variance = (sum_of_squares as f64 / count / 255.0 / 255.0 - mean * mean).max(0.0);
    // Blank images stay 0 instead of becoming NaN.
    let std = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    split(train, test, |pixel| {
        ((f64::from(pixel) / 255.0 - mean) / std) as f32
    })
}

/// Bytes to read, decompressed, and the name that errors give them.
struct Source {
    file: String,
    reader: Box<dyn Read>,
    /// Bytes read so far.
    position: u64,
}

impl Source {
    fn embedded(name: &str, bytes: &'static [u8]) -> Self {
        Self::new(format!("embedded {name}.gz"), MultiGzDecoder::new(bytes))
    }

    fn open(dir: &Path, name: &str) -> Result<Self, DataError> {
        // Kaggle's mirror, for one, has a dot for the dash, and unpacks beside it a folder with the
        // dash.
        let dotted = name.replace("-idx", ".idx");
        for name in [name, &dotted] {
            for packed in [false, true] {
                let path = dir.join(format!("{name}{}", if packed { ".gz" } else { "" }));
                if path.is_dir() {
                    continue;
                }
                let file = match File::open(&path) {
                    Ok(file) => BufReader::new(file),
                    Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                    Err(cause) => return Err(read_error(shown(&path), cause)),
                };
                return Ok(match packed {
                    true => Self::new(shown(&path), MultiGzDecoder::new(file)),
                    false => Self::new(shown(&path), file),
                });
            }
        }
        Err(DataError::Missing {
            file: format!("{} (or {dotted}, or with .gz)", dir.join(name).display()),
        })
    }

    fn new(file: String, reader: impl Read + 'static) -> Self {
        Self {
            file,
            reader: Box::new(reader),
            position: 0,
        }
    }

    /// The next `count` bytes. The buffer grows with what arrives, whatever `count` claims.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        let outcome = self.reader.by_ref().take(count).read_to_end(&mut bytes);
        match outcome {
            // A gzip stream that breaks off reports UnexpectedEof, a plain file just ends.
            Err(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(read_error(self.file.clone(), cause));
            }
            Ok(_) | Err(_) => {}
        }
        let found = self.position + bytes.len() as u64;
        let expected = self.position.saturating_add(count);
        if found < expected {
            return Err(DataError::Truncated {
                file: self.file.clone(),
                found,
                expected,
            });
        }
        self.position = found;
        Ok(bytes)
    }

    /// Fails on bytes past the end; for gzip this also checks the checksum, which follows the last
    /// byte.
    fn finish(mut self) -> Result<String, DataError> {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(0) => Ok(self.file),
            Ok(_) => Err(DataError::TooLong {
                file: self.file,
                expected: self.position,
            }),
            Err(cause) => Err(read_error(self.file, cause)),
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn read_error(file: String, cause: io::Error) -> DataError {
    match cause.kind() {
        io::ErrorKind::NotFound => DataError::Missing { file },
        _ => DataError::Read { file, cause },
    }
}

/// An IDX file of unsigned bytes: its sizes and its values.
fn idx<const DIMENSIONS: usize>(
    mut source: Source,
) -> Result<(String, [u32; DIMENSIONS], Vec<u8>), DataError> {
    // Two zeros, the code of u8, the number of dimensions.
    let magic = [0, 0, 0x08, DIMENSIONS as u8];
    let found = source.take(magic.len() as u64)?;
    if found != magic {
        return Err(DataError::Magic {
            file: source.file,
            found,
            expected: magic.to_vec(),
            format: "IDX of unsigned bytes",
        });
    }
    let mut sizes = [0; DIMENSIONS];
    for size in &mut sizes {
        let bytes = source.take(4)?;
        *size = bytes
            .iter()
            .fold(0, |size, &byte| size << 8 | u32::from(byte));
    }
    let count = sizes
        .iter()
        .try_fold(1_u64, |count, &size| count.checked_mul(u64::from(size)))
        .ok_or_else(|| DataError::Header {
            file: source.file.clone(),
            reason: format!("the product of the sizes {sizes:?} is above {}", u64::MAX),
        })?;
    if count == 0 {
        return Err(DataError::Empty { file: source.file });
    }
    let values = source.take(count)?;
    Ok((source.finish()?, sizes, values))
}

fn idx_images(source: Source) -> Result<Rows<u8>, DataError> {
    let (file, [_, rows, columns], pixels) = idx(source)?;
    // The file holds that many bytes, so the sizes fit.
    let (rows, columns) = (rows as usize, columns as usize);
    let poolable = |side: usize| side > 14 && side.is_multiple_of(2);
    Ok(if poolable(rows) && poolable(columns) {
        Rows {
            file,
            values: pooled(&pixels, columns),
            width: rows / 2 * (columns / 2),
        }
    } else {
        Rows {
            file,
            values: pixels,
            width: rows * columns,
        }
    })
}

/// Means over 2x2 pixels, rounded half up. The height is even, so no pair of rows spans two images.
fn pooled(pixels: &[u8], columns: usize) -> Vec<u8> {
    let mut means = Vec::with_capacity(pixels.len() / 4);
    for pair in pixels.chunks_exact(2 * columns) {
        let (upper, lower) = pair.split_at(columns);
        for (upper, lower) in upper.chunks_exact(2).zip(lower.chunks_exact(2)) {
            let sum: u16 = upper
                .iter()
                .chain(lower)
                .map(|&pixel| u16::from(pixel))
                .sum();
            means.push(((sum + 2) / 4) as u8);
        }
    }
    means
}

fn idx_labels(source: Source, first: u32) -> Result<Labels, DataError> {
    let (file, [_], labels) = idx(source)?;
    Labels::new(file, labels.into_iter().map(u32::from).collect(), first)
}

/// Longest NumPy header taken. NumPy writes 128 bytes for a plain array.
const MAX_NPY_HEADER: usize = 1024;

/// Most digits taken in a NumPy header. A product of sizes with fewer than 19 digits between them
/// fits u64.
const MAX_NPY_DIGITS: usize = 18;

/// Refuses what `npyz` would allocate, overflow or backtrack without end on, none of which a plain
/// array needs.
fn check_npy_header(file: &str, bytes: &[u8]) -> Result<(), DataError> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let truncated = |expected: usize| DataError::Truncated {
        file: file.to_owned(),
        found: bytes.len() as u64,
        expected: expected as u64,
    };
    let bad = |reason: String| DataError::Header {
        file: file.to_owned(),
        reason,
    };

    let found = &bytes[..bytes.len().min(MAGIC.len())];
    if found != MAGIC {
        return Err(DataError::Magic {
            file: file.to_owned(),
            found: found.to_vec(),
            expected: MAGIC.to_vec(),
            format: "NumPy",
        });
    }
    let (start, length) = match bytes.get(MAGIC.len()..) {
        Some(&[1, _, a, b, ..]) => (10, usize::from(u16::from_le_bytes([a, b]))),
        Some(&[2 | 3, _, a, b, c, d, ..]) => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        Some(&[version, _, _, _, _, _, ..]) => {
            return Err(bad(format!("format version {version}, allowed are 1 to 3")));
        }
        _ => return Err(truncated(12)),
    };
    if length > MAX_NPY_HEADER {
        return Err(bad(format!(
            "{length} bytes long, allowed are {MAX_NPY_HEADER}"
        )));
    }
    let text = bytes
        .get(start..start + length)
        .ok_or_else(|| truncated(start + length))?;
    let count = |wanted: fn(&u8) -> bool| text.iter().filter(|byte| wanted(byte)).count();
    if count(|byte| b"([{".contains(byte)) > 2 || count(|byte| b"[xX\\".contains(byte)) > 0 {
        return Err(bad("not that of an array of plain numbers".to_owned()));
    }
    if count(u8::is_ascii_digit) > MAX_NPY_DIGITS {
        return Err(bad(format!(
            "more than {MAX_NPY_DIGITS} digits in its type and shape"
        )));
    }
    Ok(())
}

/// A NumPy file of plain numbers, of the size that its header claims.
struct Npy {
    file: String,
    bytes: Vec<u8>,
    header: NpyHeader,
    data_start: usize,
    type_char: TypeChar,
    type_size: u64,
    shape: Vec<usize>,
}

impl Npy {
    fn read(path: &Path, dimensions: usize) -> Result<Self, DataError> {
        let file = shown(path);
        let bytes = std::fs::read(path).map_err(|cause| read_error(file.clone(), cause))?;
        check_npy_header(&file, &bytes)?;
        let bad = |reason: String| DataError::Header {
            file: file.clone(),
            reason,
        };

        let mut data = bytes.as_slice();
        let header = NpyHeader::from_reader(&mut data).map_err(|cause| bad(cause.to_string()))?;
        let data_start = bytes.len() - data.len();
        if header.shape().len() != dimensions {
            return Err(bad(format!(
                "{} dimensions, expected {dimensions}",
                header.shape().len()
            )));
        }
        let DType::Plain(number) = header.dtype() else {
            return Err(bad("a structured type, expected plain numbers".to_owned()));
        };

        let count: u64 = header.shape().iter().product();
        if count == 0 {
            return Err(DataError::Empty { file });
        }
        let expected = number
            .num_bytes()
            .and_then(|size| count.checked_mul(size as u64))
            .and_then(|size| size.checked_add(data_start as u64))
            .ok_or_else(|| bad(format!("{count} values of type {number} have no size")))?;
        let found = bytes.len() as u64;
        if found < expected {
            return Err(DataError::Truncated {
                file,
                found,
                expected,
            });
        }
        if found > expected {
            return Err(DataError::TooLong { file, expected });
        }
        let (type_char, type_size) = (number.type_char(), number.size_field());
        // The file holds that many values, so the sizes fit.
        let shape = header.shape().iter().map(|&size| size as usize).collect();
        Ok(Self {
            file,
            bytes,
            header,
            data_start,
            type_char,
            type_size,
            shape,
        })
    }

    fn wrong_type(&self, expected: &str) -> DataError {
        DataError::Header {
            file: self.file.clone(),
            reason: format!(
                "values of type {}, expected {expected}",
                self.header.dtype().descr()
            ),
        }
    }

    fn values<T: Deserialize>(&self) -> Result<impl Iterator<Item = io::Result<T>>, DataError> {
        let data = &self.bytes[self.data_start..];
        NpyFile::with_header(self.header.clone(), data)
            .data()
            .map_err(|cause| DataError::Header {
                file: self.file.clone(),
                reason: cause.to_string(),
            })
    }

    /// Row-major, whatever the file's order.
    fn features<T: Deserialize>(&self, convert: impl Fn(T) -> f32) -> Result<Vec<f32>, DataError> {
        let (rows, width) = (self.shape[0], self.shape[1]);
        let mut features = vec![0.0; rows * width];
        for (index, value) in self.values()?.enumerate() {
            let value = value.map_err(|cause| read_error(self.file.clone(), cause))?;
            let value = convert(value);
            let (row, column) = match self.header.order() {
                Order::C => (index / width, index % width),
                Order::Fortran => (index % rows, index / rows),
            };
            if !value.is_finite() {
                return Err(DataError::NotFinite {
                    file: self.file.clone(),
                    row,
                    column,
                    value,
                });
            }
            features[row * width + column] = value;
        }
        Ok(features)
    }

    fn labels<T>(&self) -> Result<Vec<u32>, DataError>
    where
        T: Deserialize + Copy + Display + TryInto<u32>,
    {
        let mut labels = Vec::with_capacity(self.shape[0]);
        for value in self.values::<T>()? {
            let value = value.map_err(|cause| read_error(self.file.clone(), cause))?;
            labels.push(value.try_into().map_err(|_| DataError::Label {
                file: self.file.clone(),
                label: value.to_string(),
                index: labels.len(),
                smallest: 0,
                largest: u32::MAX,
            })?);
        }
        Ok(labels)
    }
}

fn npy_features(path: &Path) -> Result<Rows<f32>, DataError> {
    let npy = Npy::read(path, 2)?;
    let values = match (npy.type_char, npy.type_size) {
        (TypeChar::Float, 2) => npy.features(f16::to_f32),
        (TypeChar::Float, 4) => npy.features(|value: f32| value),
        (TypeChar::Float, 8) => npy.features(|value: f64| value as f32),
        _ => Err(npy.wrong_type("f2, f4 or f8")),
    }?;
    Ok(Rows {
        width: npy.shape[1],
        file: npy.file,
        values,
    })
}

fn npy_labels(path: &Path, first: u32) -> Result<Labels, DataError> {
    let npy = Npy::read(path, 1)?;
    let labels = match (npy.type_char, npy.type_size) {
        (TypeChar::Int, 1) => npy.labels::<i8>(),
        (TypeChar::Int, 2) => npy.labels::<i16>(),
        (TypeChar::Int, 4) => npy.labels::<i32>(),
        (TypeChar::Int, 8) => npy.labels::<i64>(),
        (TypeChar::Uint, 1) => npy.labels::<u8>(),
        (TypeChar::Uint, 2) => npy.labels::<u16>(),
        (TypeChar::Uint, 4) => npy.labels::<u32>(),
        (TypeChar::Uint, 8) => npy.labels::<u64>(),
        _ => Err(npy.wrong_type("i1 to i8 or u1 to u8")),
    }?;
    Labels::new(npy.file, labels, first)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::path::PathBuf;

    use npyz::{AutoSerialize, Serialize, WriterBuilder};
    use tempfile::TempDir;

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

    /// Four IDX files, two classes, blank but for one pixel; a test then spoils one of them.
    struct IdxDir(TempDir);

    impl IdxDir {
        fn new() -> io::Result<Self> {
            let dir = Self(tempfile::tempdir()?);
            for (images, labels) in [(TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)] {
                dir.write(images, &idx_bytes(&[2, 1, 2], &[0, 255, 0, 0]))?;
                dir.write(labels, &idx_bytes(&[2], &[0, 1]))?;
            }
            Ok(dir)
        }

        fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            fs::write(self.0.path().join(name), bytes)
        }

        /// The message, without the folder, when `name` holds `bytes`.
        fn error_with(&self, name: &str, bytes: &[u8]) -> Result<String, Box<dyn Error>> {
            self.write(name, bytes)?;
            self.error()
        }

        fn error(&self) -> Result<String, Box<dyn Error>> {
            message(&self.0, from_idx_dir(self.0.path(), 0))
        }
    }

    fn message(dir: &TempDir, outcome: Result<Split, DataError>) -> Result<String, Box<dyn Error>> {
        let Err(error) = outcome else {
            return Err("accepted".into());
        };
        let folder = format!("{}{}", dir.path().display(), std::path::MAIN_SEPARATOR);
        Ok(error.to_string().replace(&folder, ""))
    }

    fn idx_bytes(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    fn npy_bytes<T: AutoSerialize + Serialize + Clone>(
        shape: &[u64],
        values: &[T],
    ) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(shape)
            .writer(&mut bytes)
            .begin_nd()?;
        writer.extend(values.iter().cloned())?;
        writer.finish()?;
        Ok(bytes)
    }

    /// `header` as text, with the preamble of a format version 1 file.
    fn npy_with_header(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [
            b"\x93NUMPY\x01\x00",
            length.as_slice(),
            header.as_bytes(),
            data,
        ]
        .concat()
    }

    /// Four NumPy files, two classes; a test then spoils one of them.
    struct NpyDir(TempDir);

    impl NpyDir {
        fn new() -> io::Result<Self> {
            let dir = Self(tempfile::tempdir()?);
            for (x, y) in [("x", "y"), ("test_x", "test_y")] {
                dir.write(x, &npy_bytes(&[2, 3], &[1_f32, 2., 3., 4., 5., 6.])?)?;
                dir.write(y, &npy_bytes(&[2], &[1_i64, 0])?)?;
            }
            Ok(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            fs::write(self.path(name), bytes)
        }

        fn read(&self) -> Result<Split, DataError> {
            self.read_from(0)
        }

        fn read_from(&self, first_label: u32) -> Result<Split, DataError> {
            let path = |name| self.path(name);
            from_npy(
                &path("x"),
                &path("y"),
                &path("test_x"),
                &path("test_y"),
                first_label,
            )
        }

        fn error_with(&self, name: &str, bytes: &[u8]) -> Result<String, Box<dyn Error>> {
            self.write(name, bytes)?;
            message(&self.0, self.read())
        }
    }

    fn class_sizes(samples: &Samples) -> Vec<u64> {
        let mut sizes = vec![0; samples.classes];
        for &label in &samples.labels {
            sizes[label as usize] += 1;
        }
        sizes
    }

    #[test]
    fn embedded_sets_are_balanced_and_of_the_documented_shape() -> TestResult {
        let split = embedded()?;
        for (samples, per_class) in [(&split.train, 2000), (&split.test, 1000)] {
            assert_eq!((samples.width, samples.classes), (196, 10));
            assert_eq!(class_sizes(samples), [per_class; 10]);
            assert_eq!(samples.features.len(), samples.labels.len() * 196);
        }
        Ok(())
    }

    #[test]
    fn embedded_training_pixels_have_mean_0_and_variance_1() -> TestResult {
        let features = embedded()?.train.features;
        let count = features.len() as f64;
        let mean = features.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let square = features.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 1e-6, "mean {mean}");
        assert!((square - 1.0).abs() < 1e-6, "mean square {square}");
        Ok(())
    }

    #[test]
    fn packed_files_in_a_folder_read_like_the_embedded_ones() -> TestResult {
        let dir = tempfile::tempdir()?;
        for (name, bytes) in [
            (TRAIN_IMAGES, EMBEDDED_TRAIN_IMAGES),
            (TRAIN_LABELS, EMBEDDED_TRAIN_LABELS),
            (TEST_IMAGES, EMBEDDED_TEST_IMAGES),
            (TEST_LABELS, EMBEDDED_TEST_LABELS),
        ] {
            fs::write(dir.path().join(format!("{name}.gz")), bytes)?;
        }
        assert!(from_idx_dir(dir.path(), 0)? == embedded()?);

        let cut = &EMBEDDED_TEST_IMAGES[..EMBEDDED_TEST_IMAGES.len() / 2];
        fs::write(dir.path().join(format!("{TEST_IMAGES}.gz")), cut)?;
        let message = message(&dir, from_idx_dir(dir.path(), 0))?;
        assert!(
            message.starts_with("t10k-images-idx3-ubyte.gz: truncated: ")
                && message.ends_with(" bytes, expected 1960016"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn plain_files_are_standardised_by_the_training_pixels() -> TestResult {
        let dir = IdxDir::new()?;
        dir.write(TEST_IMAGES, &idx_bytes(&[2, 1, 2], &[255, 0, 255, 255]))?;
        let split = from_idx_dir(dir.0.path(), 0)?;
        // Training pixels 0, 1, 0, 0: mean 1/4, variance 3/16.
        let (zero, one) = ((-1.0 / 3_f64.sqrt()) as f32, 3_f64.sqrt() as f32);
        assert_eq!(split.train.features, [zero, one, zero, zero]);
        assert_eq!(split.test.features, [one, zero, one, one]);
        assert_eq!((split.train.width, split.train.classes), (2, 2));
        Ok(())
    }

    #[test]
    fn blank_training_images_give_finite_features() -> TestResult {
        let dir = IdxDir::new()?;
        dir.write(TRAIN_IMAGES, &idx_bytes(&[2, 1, 2], &[7; 4]))?;
        assert_eq!(from_idx_dir(dir.0.path(), 0)?.train.features, [0.0; 4]);
        Ok(())
    }

    #[test]
    fn pooling_rounds_half_up_and_keeps_images_apart() {
        // Two images of 2x4.
        #[rustfmt::skip]
        let pixels = [
            0, 1, 255, 255,
            1, 0, 255, 255,
            0, 0, 9, 0,
            0, 1, 0, 0,
        ];
        assert_eq!(pooled(&pixels, 4), [1, 255, 0, 2]);
    }

    #[test]
    fn only_even_sides_above_14_are_pooled() -> TestResult {
        for (rows, columns, width) in [(28, 28, 196), (16, 18, 72), (14, 28, 392), (15, 16, 240)] {
            let images = idx_bytes(&[1, rows, columns], &vec![1; (rows * columns) as usize]);
            let source = Source::new("images".to_owned(), io::Cursor::new(images));
            let images = idx_images(source)?;
            assert_eq!(images.width, width, "{rows}x{columns}");
            assert_eq!(images.values, vec![1; width], "{rows}x{columns}");
        }
        Ok(())
    }

    #[test]
    fn bad_idx_images_are_named_with_what_is_wrong() -> TestResult {
        let huge = idx_bytes(&[u32::MAX, 65_536, 65_537], &[1, 2, 3]);
        let lying = idx_bytes(&[u32::MAX, 28, 28], &[1, 2, 3]);
        for (bytes, expected) in [
            (&[][..], "truncated: 0 bytes, expected 4"),
            (&[0, 0, 8, 3, 0], "truncated: 5 bytes, expected 8"),
            (&lying, "truncated: 19 bytes, expected 3367254359296"),
            (
                &huge,
                "bad header: the product of the sizes [4294967295, 65536, 65537] is above 18446744073709551615",
            ),
            (
                &idx_bytes(&[2, 1, 2], &[1, 2, 3]),
                "truncated: 19 bytes, expected 20",
            ),
            (
                &idx_bytes(&[2, 1, 2], &[1, 2, 3, 4, 5]),
                "goes on after the 20 bytes that its header describes",
            ),
            (
                &idx_bytes(&[2], &[0, 1]),
                "begins with the bytes [00, 00, 08, 01], expected [00, 00, 08, 03] (IDX of unsigned bytes)",
            ),
            (&idx_bytes(&[0, 28, 28], &[]), "holds no values"),
            (&idx_bytes(&[2, 0, 28], &[]), "holds no values"),
        ] {
            let message = IdxDir::new()?.error_with(TRAIN_IMAGES, bytes)?;
            assert_eq!(message, format!("{TRAIN_IMAGES}: {expected}"));
        }
        Ok(())
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() -> TestResult {
        for (name, bytes, expected) in [
            (
                TEST_LABELS,
                idx_bytes(&[3], &[0, 1, 1]),
                "t10k-labels-idx1-ubyte: holds 3 labels, but t10k-images-idx3-ubyte holds 2 samples",
            ),
            (
                TEST_LABELS,
                idx_bytes(&[2], &[0, 2]),
                "t10k-labels-idx1-ubyte: label 2 at index 1, allowed are 0 to 1",
            ),
            (
                TRAIN_LABELS,
                idx_bytes(&[2], &[0, 255]),
                "train-labels-idx1-ubyte: labels begin at 0 and leave 254 of 256 classes without a sample (1 to 254); classes are numbered from 0 without gaps, and --first-label shifts labels that begin elsewhere",
            ),
            (
                TRAIN_LABELS,
                idx_bytes(&[2], &[1, 2]),
                "train-labels-idx1-ubyte: labels begin at 1 and leave 1 of 3 classes without a sample (0); classes are numbered from 0 without gaps, and --first-label shifts labels that begin elsewhere",
            ),
            (
                TEST_IMAGES,
                idx_bytes(&[2, 1, 3], &[0; 6]),
                "t10k-images-idx3-ubyte: a test sample has 3 features, a training sample 2",
            ),
        ] {
            assert_eq!(IdxDir::new()?.error_with(name, &bytes)?, expected);
        }
        Ok(())
    }

    /// Kaggle's MNIST: a folder has the usual name, and the file a dot for the dash.
    #[test]
    fn files_with_a_dot_in_their_names_are_found() -> TestResult {
        let dir = IdxDir::new()?;
        let expected = from_idx_dir(dir.0.path(), 0)?;
        let at = |name: &str| dir.0.path().join(name);
        for (dash, dot) in [
            (TRAIN_IMAGES, "train-images.idx3-ubyte"),
            (TRAIN_LABELS, "train-labels.idx1-ubyte"),
            (TEST_IMAGES, "t10k-images.idx3-ubyte"),
            (TEST_LABELS, "t10k-labels.idx1-ubyte"),
        ] {
            fs::rename(at(dash), at(dot))?;
        }
        fs::create_dir(at(TRAIN_IMAGES))?;
        assert!(from_idx_dir(dir.0.path(), 0)? == expected);

        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packed, &fs::read(at("t10k-labels.idx1-ubyte"))?)?;
        dir.write("t10k-labels.idx1-ubyte.gz", &packed.finish()?)?;
        fs::remove_file(at("t10k-labels.idx1-ubyte"))?;
        assert!(from_idx_dir(dir.0.path(), 0)? == expected);
        Ok(())
    }

    #[test]
    fn labels_that_begin_at_1_are_shifted_where_that_is_said() -> TestResult {
        let dir = IdxDir::new()?;
        let expected = from_idx_dir(dir.0.path(), 0)?;
        for name in [TRAIN_LABELS, TEST_LABELS] {
            dir.write(name, &idx_bytes(&[2], &[1, 2]))?;
        }
        assert!(from_idx_dir(dir.0.path(), 1)? == expected);
        let dir = NpyDir::new()?;
        let expected = dir.read()?;
        for name in ["y", "test_y"] {
            dir.write(name, &npy_bytes(&[2], &[2_i64, 1])?)?;
        }
        assert!(dir.read_from(1)? == expected);
        // Errors are in the file's own numbers.
        for (name, labels, expected) in [
            (
                "y",
                [1_i64, 0],
                "y: label 0 at index 1, allowed are 1 to 4294967295",
            ),
            (
                "test_y",
                [1, 3],
                "test_y: label 3 at index 1, allowed are 1 to 2",
            ),
        ] {
            dir.write("y", &npy_bytes(&[2], &[2_i64, 1])?)?;
            dir.write(name, &npy_bytes(&[2], &labels)?)?;
            assert_eq!(message(&dir.0, dir.read_from(1))?, expected);
        }
        dir.write("y", &npy_bytes(&[2], &[3_i64, 4])?)?;
        let message = message(&dir.0, dir.read_from(1))?;
        assert!(
            message.contains("begin at 3 and leave 2 of 4 classes"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn a_test_set_may_lack_a_class() -> TestResult {
        let dir = NpyDir::new()?;
        dir.write("test_y", &npy_bytes(&[2], &[1_i64, 1])?)?;
        let split = dir.read()?;
        assert_eq!(
            (split.test.labels.as_slice(), split.test.classes),
            (&[1, 1][..], 2)
        );
        let dir = IdxDir::new()?;
        dir.write(TEST_LABELS, &idx_bytes(&[2], &[0, 0]))?;
        assert_eq!(from_idx_dir(dir.0.path(), 0)?.test.classes, 2);
        Ok(())
    }

    #[test]
    fn npy_files_in_fortran_order_are_read() -> TestResult {
        let dir = NpyDir::new()?;
        // numpy.save of numpy.asfortranarray([[0, 1, 2], [3, 4, 5]]): columns one after another.
        let header = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n";
        let bytes =
            |values: [f32; 6]| npy_with_header(header, &values.map(f32::to_le_bytes).concat());
        dir.write("x", &bytes([0., 3., 1., 4., 2., 5.]))?;
        assert_eq!(dir.read()?.train.features, [0., 1., 2., 3., 4., 5.]);
        // Of one dimension both orders are the same.
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2,), }\n";
        dir.write("y", &npy_with_header(header, &[1, 0]))?;
        assert_eq!(dir.read()?.train.labels, [1, 0]);
        let error = dir.error_with("x", &bytes([0., 3., 1., f32::NAN, 2., 5.]))?;
        assert!(error.contains("row 1, column 1 is NaN"), "{error}");
        Ok(())
    }

    #[test]
    fn a_missing_file_is_named() -> TestResult {
        let dir = IdxDir::new()?;
        fs::remove_file(dir.0.path().join(TEST_LABELS))?;
        assert_eq!(
            dir.error()?,
            "t10k-labels-idx1-ubyte (or t10k-labels.idx1-ubyte, or with .gz): no such file"
        );
        let dir = NpyDir::new()?;
        fs::remove_file(dir.path("test_x"))?;
        assert_eq!(message(&dir.0, dir.read())?, "test_x: no such file");
        Ok(())
    }

    #[test]
    fn npy_features_and_labels_of_every_width_round_trip() -> TestResult {
        let features = [0.5_f32, -1.0, 2.0, 4.0, 0.0, 65504.0];
        let labels = [1_u32, 0];
        let half = features.map(f16::from_f32);
        let double = features.map(f64::from);
        for x in [
            npy_bytes(&[2, 3], &half)?,
            npy_bytes(&[2, 3], &features)?,
            npy_bytes(&[2, 3], &double)?,
        ] {
            for y in [
                npy_bytes(&[2], &labels.map(|y| y as i8))?,
                npy_bytes(&[2], &labels.map(|y| y as i16))?,
                npy_bytes(&[2], &labels.map(|y| y as i32))?,
                npy_bytes(&[2], &labels.map(i64::from))?,
                npy_bytes(&[2], &labels.map(|y| y as u8))?,
                npy_bytes(&[2], &labels.map(|y| y as u16))?,
                npy_bytes(&[2], &labels)?,
                npy_bytes(&[2], &labels.map(u64::from))?,
            ] {
                let dir = NpyDir::new()?;
                dir.write("x", &x)?;
                dir.write("y", &y)?;
                let train = dir.read()?.train;
                assert_eq!(train.features, features);
                assert_eq!(train.labels, labels);
                assert_eq!((train.width, train.classes), (3, 2));
            }
        }
        Ok(())
    }

    #[test]
    fn big_endian_npy_values_are_read() -> TestResult {
        let dir = NpyDir::new()?;
        let header = "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let data: Vec<u8> = (0..6_u8).flat_map(|x| f32::from(x).to_be_bytes()).collect();
        dir.write("x", &npy_with_header(header, &data))?;
        assert_eq!(dir.read()?.train.features, [0., 1., 2., 3., 4., 5.]);
        Ok(())
    }

    #[test]
    fn bad_npy_headers_are_refused_before_anything_is_allocated_on_them() -> TestResult {
        let header = |descr: &str, fortran: &str, shape: &str| {
            npy_with_header(
                &format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"),
                &[0; 24],
            )
        };
        let long = [b"\x93NUMPY\x02\x00".as_slice(), &[255; 4], &[b' '; 64]].concat();
        for (bytes, expected) in [
            (
                &b"PK\x03\x04 a zip"[..],
                "begins with the bytes [50, 4b, 03, 04, 20, 61], expected [93, 4e, 55, 4d, 50, 59] (NumPy)",
            ),
            (b"\x93NUMPY\x01\x00", "truncated: 8 bytes, expected 12"),
            (
                b"\x93NUMPY\x09\x00\x10\x00\x00\x00",
                "bad header: format version 9, allowed are 1 to 3",
            ),
            (&long, "bad header: 4294967295 bytes long, allowed are 1024"),
            (
                b"\x93NUMPY\x01\x00\x10\x00{'descr'",
                "truncated: 18 bytes, expected 26",
            ),
            (
                &header("'<f4'", "False", "(100000000, 10000000)"),
                "truncated: ",
            ),
            (
                &header("'<f4'", "False", "(99999999999, 99999999999)"),
                "bad header: more than 18 digits in its type and shape",
            ),
            (
                &header("'<f4'", "False", "(0xffffffffffffffff, 0xff)"),
                "bad header: not that of an array of plain numbers",
            ),
            (
                &header("'<f4'", "False", &"[".repeat(200)),
                "bad header: not that of an array of plain numbers",
            ),
            (&header("'<f4'", "False", "(0, 3)"), "holds no values"),
            (&header("'<f4'", "False", "(2, 0)"), "holds no values"),
            (
                &header("'<f4'", "False", "(6,)"),
                "bad header: 1 dimensions, expected 2",
            ),
            (
                &header("'<i4'", "False", "(2, 3)"),
                "bad header: values of type '<i4', expected f2, f4 or f8",
            ),
            (&header("'<f4'", "False", "(2, 4)"), "truncated: "),
            (&header("'<f4'", "False", "(2, 2)"), "goes on after the "),
        ] {
            let message = NpyDir::new()?.error_with("x", bytes)?;
            assert!(message.starts_with(&format!("x: {expected}")), "{message}");
        }
        Ok(())
    }

    #[test]
    fn bad_npy_values_are_named_with_their_place() -> TestResult {
        let wide = [0., 0., 0., 0., 1e300, 0.];
        for (name, bytes, expected) in [
            (
                "test_x",
                npy_bytes(&[2, 3], &[0., 0., 0., 0., 0., f32::NAN])?,
                "test_x: the feature at row 1, column 2 is NaN, allowed are finite f32",
            ),
            (
                "x",
                npy_bytes(&[2, 3], &wide)?,
                "x: the feature at row 1, column 1 is inf, allowed are finite f32",
            ),
            (
                "y",
                npy_bytes(&[2], &[0_i8, -1])?,
                "y: label -1 at index 1, allowed are 0 to 4294967295",
            ),
            (
                "y",
                npy_bytes(&[2], &[u64::MAX, 0])?,
                "y: label 18446744073709551615 at index 0, allowed are 0 to 4294967295",
            ),
            (
                "y",
                npy_bytes(&[2], &[u32::MAX, 0])?,
                "y: label 4294967295 at index 0, allowed are 0 to 1048575",
            ),
            (
                "y",
                npy_bytes(&[2], &[0_f32, 1.0])?,
                "y: bad header: values of type '<f4', expected i1 to i8 or u1 to u8",
            ),
            (
                "y",
                npy_bytes(&[1], &[0_i64])?,
                "y: holds 1 labels, but x holds 2 samples",
            ),
        ] {
            assert_eq!(NpyDir::new()?.error_with(name, &bytes)?, expected);
        }
        Ok(())
    }

    #[test]
    fn long_tailed_profile_falls_from_max_by_the_imbalance_ratio() {
        // 2000 * 100^(-i/9), as Python rounds it.
        assert_eq!(
            long_tailed_counts(2000, 100.0, 10),
            [2000, 1199, 719, 431, 258, 155, 93, 56, 33, 20]
        );
        assert_eq!(long_tailed_counts(2000, 1.0, 3), [2000, 2000, 2000]);
        assert_eq!(long_tailed_counts(10, 1e9, 3), [10, 1, 1]);
        assert_eq!(long_tailed_counts(7, 100.0, 1), [7]);
        assert!(long_tailed_counts(7, 100.0, 0).is_empty());
    }

    /// 100 samples of each of 10 classes; the feature is the row.
    fn balanced() -> Samples {
        Samples {
            features: (0..1000_u16).map(f32::from).collect(),
            width: 1,
            labels: (0..1000).map(|row| row % 10).collect(),
            classes: 10,
        }
    }

    #[test]
    fn long_tailed_keeps_the_counted_samples_with_their_labels() -> TestResult {
        let (samples, counts) = long_tailed(&balanced(), 50.0, 3)?;
        assert_eq!(class_sizes(&samples), counts);
        let mut profile: Vec<_> = counts.iter().map(|&n| n as usize).collect();
        profile.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(profile, long_tailed_counts(100, 50.0, 10));
        assert!(samples.features.is_sorted_by(|a, b| a < b));
        for (&feature, &label) in samples.features.iter().zip(&samples.labels) {
            assert_eq!(feature as u32 % 10, label);
        }
        Ok(())
    }

    #[test]
    fn the_smallest_class_bounds_the_profile() -> TestResult {
        let mut train = balanced();
        train.labels[..500].fill(0);
        let (_, counts) = long_tailed(&train, 10.0, 0)?;
        assert_eq!(counts.iter().max(), Some(&50));
        Ok(())
    }

    #[test]
    fn a_seed_gives_one_draw_and_another_seed_other_rare_classes() -> TestResult {
        let train = balanced();
        let draws: Vec<_> = (0..5)
            .map(|seed| long_tailed(&train, 50.0, seed))
            .collect::<Result<_, _>>()?;
        assert!(draws[0] == long_tailed(&train, 50.0, 0)?);
        for (i, draw) in draws.iter().enumerate() {
            for other in &draws[..i] {
                assert_ne!(draw.1, other.1);
            }
        }
        Ok(())
    }

    #[test]
    fn a_larger_imbalance_keeps_a_subset() -> TestResult {
        let (many, _) = long_tailed(&balanced(), 10.0, 7)?;
        let (few, _) = long_tailed(&balanced(), 100.0, 7)?;
        assert!(few.features.iter().all(|x| many.features.contains(x)));
        Ok(())
    }

    #[test]
    fn the_draw_of_a_seed_does_not_change() -> TestResult {
        // Pinned: another generator, or another use of it, would change published results in
        // silence.
        let (samples, counts) = long_tailed(&balanced(), 50.0, 0)?;
        assert_eq!(counts, [42, 3, 7, 65, 2, 11, 5, 18, 100, 27]);
        assert_eq!(samples.features[..8], [3., 5., 8., 10., 13., 18., 28., 29.]);
        Ok(())
    }

    #[test]
    fn an_imbalance_ratio_below_1_or_not_finite_is_refused() -> TestResult {
        for imbalance in [0.0, 0.999, -100.0, f64::NAN, f64::INFINITY] {
            let Err(error) = long_tailed(&balanced(), imbalance, 0) else {
                return Err(format!("{imbalance} was accepted").into());
            };
            assert_eq!(
                error.to_string(),
                format!("imbalance ratio {imbalance}, allowed are finite numbers from 1")
            );
        }
        Ok(())
    }
}
