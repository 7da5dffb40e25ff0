//! Samples for the example: read and checked.
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

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// The files of a set that is embedded in this program, packed with gzip.
struct Embedded {
    train_images: &'static [u8],
    train_labels: &'static [u8],
    test_images: &'static [u8],
    test_labels: &'static [u8],
}

macro_rules! embedded {
    ($folder:literal, $labels:literal) => {
        Embedded {
            train_images: include_bytes!(concat!("data/", $folder, "/train-images-idx3-ubyte.gz")),
            train_labels: include_bytes!(concat!(
                "data/",
                $folder,
                "/train-labels-idx1-",
                $labels,
                ".gz"
            )),
            test_images: include_bytes!(concat!("data/", $folder, "/t10k-images-idx3-ubyte.gz")),
            test_labels: include_bytes!(concat!(
                "data/",
                $folder,
                "/t10k-labels-idx1-",
                $labels,
                ".gz"
            )),
        }
    };
}

const FASHION_MNIST: Embedded = embedded!("fashion_mnist", "ubyte");
const SYMBOLS: Embedded = embedded!("symbols", "short");

impl Embedded {
    fn read(&self) -> Result<Split, DataError> {
        let images = |name: &str, bytes| idx_images(Source::embedded(name, bytes));
        let labels = |name: &str, bytes| idx_labels(Source::embedded(name, bytes), 0);
        split_of_images(
            (
                images(TRAIN_IMAGES, self.train_images)?,
                labels(TRAIN_LABELS, self.train_labels)?,
            ),
            (
                images(TEST_IMAGES, self.test_images)?,
                labels(TEST_LABELS, self.test_labels)?,
            ),
        )
    }
}

/// The reduced Fashion-MNIST in `data/fashion_mnist`: 20,000 training and 10,000 test images of
/// 14x14, 10 balanced classes.
///
/// Pixels are divided by 255 and standardised, `(x - mean) / std`, with one mean and one standard
/// deviation over all pixels of all training images (before a long tail is drawn), for both sets.
pub(crate) fn fashion_mnist() -> Result<Split, DataError> {
    FASHION_MNIST.read()
}

/// The hand-drawn symbols in `data/symbols`: 28,575 training images of 24x24, 15 to 45 of each of
/// 815 classes, and 5 test images of each. Pixels are standardised as in [`fashion_mnist`].
pub(crate) fn symbols() -> Result<Split, DataError> {
    SYMBOLS.read()
}

/// The four files of MNIST and its drop-in replacements in `dir`, plain or with `.gz` appended,
/// also where a mirror named them `train-images.idx3-ubyte` and so on. Label files of two bytes a
/// label end in `short`. Label `first_label` is class 0.
///
/// Images whose sides are both even and above 14 are averaged over 2x2 pixels, rounded half up, so
/// that 28x28 becomes 14x14. Then pixels are standardised as in [`fashion_mnist`].
pub(crate) fn from_idx_dir(dir: &Path, first_label: u32) -> Result<Split, DataError> {
    let images = |name: &str| idx_images(Source::open(dir, name)?).map(Images::pooled);
    let labels = |name: &str| idx_labels(Source::open(dir, name)?, first_label);
    split_of_images(
        (images(TRAIN_IMAGES)?, labels(TRAIN_LABELS)?),
        (images(TEST_IMAGES)?, labels(TEST_LABELS)?),
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
        image: None,
    })
}

fn split_of_images(
    (train, train_labels): (Images, Labels),
    (test, test_labels): (Images, Labels),
) -> Result<Split, DataError> {
    // Whole numbers: the sums are exact, so the features are the same bits everywhere.
    let (mut sum, mut sum_of_squares) = (0_u64, 0_u64);
    for &pixel in &train.pixels {
        sum += u64::from(pixel);
        sum_of_squares += u64::from(pixel).pow(2);
    }
    let count = train.pixels.len() as f64;
    let mean = sum as f64 / count / 255.0;
    let variance = (sum_of_squares as f64 / count / 255.0 / 255.0 - mean * mean).max(0.0);
    // Blank images stay 0 instead of becoming NaN.
    let std = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    let feature = |pixel| ((f64::from(pixel) / 255.0 - mean) / std) as f32;
    let image = Image {
        rows: train.rows,
        columns: train.columns,
        black: feature(0),
    };
    let split = split(
        Part::new(train.into_rows(), train_labels)?,
        Part::new(test.into_rows(), test_labels)?,
        feature,
    )?;
    Ok(Split {
        image: Some(image),
        ..split
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
        let wide = name.replace("idx1-ubyte", "idx1-short");
        for name in [name, &dotted, &wide] {
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

/// The type of an IDX file's values, by its code.
#[derive(Clone, Copy)]
enum IdxType {
    Byte = 0x08,
    /// Of two bytes, the more significant one first, with a sign.
    Short = 0x0b,
}

impl IdxType {
    fn size(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Short => 2,
        }
    }
}

/// An IDX file: its type, its sizes and its values' bytes. The first of `types` is what an error
/// says is expected.
fn idx<const DIMENSIONS: usize>(
    mut source: Source,
    types: &[IdxType],
    format: &'static str,
) -> Result<(String, IdxType, [u32; DIMENSIONS], Vec<u8>), DataError> {
    // Two zeros, the code of the type, the number of dimensions.
    let magic = |code: IdxType| [0, 0, code as u8, DIMENSIONS as u8];
    let found = source.take(4)?;
    let Some(&kind) = types.iter().find(|&&code| found == magic(code)) else {
        return Err(DataError::Magic {
            file: source.file,
            found,
            expected: magic(types[0]).to_vec(),
            format,
        });
    };
    let mut sizes = [0; DIMENSIONS];
    for size in &mut sizes {
        let bytes = source.take(4)?;
        *size = bytes
            .iter()
            .fold(0, |size, &byte| size << 8 | u32::from(byte));
    }
    let bytes = sizes
        .iter()
        .try_fold(kind.size(), |count, &size| {
            count.checked_mul(u64::from(size))
        })
        .ok_or_else(|| DataError::Header {
            file: source.file.clone(),
            reason: format!("the product of the sizes {sizes:?} is above {}", u64::MAX),
        })?;
    if bytes == 0 {
        return Err(DataError::Empty { file: source.file });
    }
    let values = source.take(bytes)?;
    Ok((source.finish()?, kind, sizes, values))
}

/// Images of one size, one byte a pixel.
struct Images {
    file: String,
    pixels: Vec<u8>,
    rows: usize,
    columns: usize,
}

impl Images {
    fn into_rows(self) -> Rows<u8> {
        Rows {
            file: self.file,
            values: self.pixels,
            width: self.rows * self.columns,
        }
    }

    /// With half the sides, where both are even and above 14.
    fn pooled(self) -> Self {
        let poolable = |side: usize| side > 14 && side.is_multiple_of(2);
        if !poolable(self.rows) || !poolable(self.columns) {
            return self;
        }
        Self {
            pixels: pooled(&self.pixels, self.columns),
            rows: self.rows / 2,
            columns: self.columns / 2,
            file: self.file,
        }
    }
}

fn idx_images(source: Source) -> Result<Images, DataError> {
    let (file, _, [_, rows, columns], pixels) =
        idx(source, &[IdxType::Byte], "IDX of unsigned bytes")?;
    Ok(Images {
        file,
        pixels,
        // The file holds that many bytes, so the sizes fit.
        rows: rows as usize,
        columns: columns as usize,
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
    let types = [IdxType::Byte, IdxType::Short];
    let (file, kind, [_], bytes) = idx(source, &types, "IDX of unsigned bytes or of shorts")?;
    let labels = match kind {
        IdxType::Byte => bytes.into_iter().map(u32::from).collect(),
        IdxType::Short => {
            let mut labels = Vec::with_capacity(bytes.len() / 2);
            for pair in bytes.chunks_exact(2) {
                let label = i16::from_be_bytes([pair[0], pair[1]]);
                labels.push(u32::try_from(label).map_err(|_| DataError::Label {
                    file: file.clone(),
                    label: label.to_string(),
                    index: labels.len(),
                    smallest: first,
                    largest: i16::MAX as u32,
                })?);
            }
            labels
        }
    };
    Labels::new(file, labels, first)
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
    fn fashion_mnist_is_balanced_and_of_the_documented_shape() -> TestResult {
        let split = fashion_mnist()?;
        for (samples, per_class) in [(&split.train, 2000), (&split.test, 1000)] {
            assert_eq!((samples.width, samples.classes), (196, 10));
            assert_eq!(class_sizes(samples), [per_class; 10]);
            assert_eq!(samples.features.len(), samples.labels.len() * 196);
        }
        Ok(())
    }

    #[test]
    fn symbols_are_of_the_documented_shape() -> TestResult {
        let split = symbols()?;
        let (train, test) = (&split.train, &split.test);
        assert_eq!((train.width, train.classes), (576, 815));
        assert_eq!((train.labels.len(), test.labels.len()), (28_575, 4075));
        assert_eq!(class_sizes(test), [5; 815]);
        let sizes = class_sizes(train);
        let range = (sizes.iter().min(), sizes.iter().max());
        assert_eq!(range, (Some(&15), Some(&45)));
        Ok(())
    }

    /// Else what a network has learnt by heart would count as right, or two classes be one.
    #[test]
    fn no_symbol_comes_twice() -> TestResult {
        let split = symbols()?;
        let mut images = std::collections::HashSet::new();
        for samples in [&split.train, &split.test] {
            for image in samples.features.chunks_exact(samples.width) {
                let bits: Vec<u32> = image.iter().map(|x| x.to_bits()).collect();
                assert!(images.insert(bits));
            }
        }
        assert_eq!(images.len(), 28_575 + 4075);
        Ok(())
    }

    /// The four greys, and where they are: `black` is what surrounds a drawing.
    #[test]
    fn a_symbol_is_drawn_on_black() -> TestResult {
        let split = symbols()?;
        let image = split.image.ok_or("images have a shape")?;
        assert_eq!((image.rows, image.columns), (24, 24));
        let mut values: Vec<f32> = split.test.features.clone();
        assert!(values.chunks_exact(576).all(|pixels| {
            let edge = pixels[..24].iter().chain(&pixels[552..]);
            edge.into_iter().all(|&x| x == image.black)
        }));
        values.sort_by(f32::total_cmp);
        values.dedup();
        assert_eq!((values.len(), values[0]), (4, image.black));
        Ok(())
    }

    #[test]
    fn embedded_training_pixels_have_mean_0_and_variance_1() -> TestResult {
        for split in [fashion_mnist()?, symbols()?] {
            let features = split.train.features;
            let count = features.len() as f64;
            let mean = features.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let square = features.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count;
            assert!(mean.abs() < 1e-6, "mean {mean}");
            assert!((square - 1.0).abs() < 1e-6, "mean square {square}");
        }
        Ok(())
    }

    #[test]
    fn labels_may_have_two_bytes_each() -> TestResult {
        let dir = IdxDir::new()?;
        fs::remove_file(dir.0.path().join(TRAIN_LABELS))?;
        let short = |labels: &[i16]| {
            let values: Vec<u8> = labels.iter().flat_map(|y| y.to_be_bytes()).collect();
            let mut bytes = idx_bytes(&[labels.len() as u32], &values);
            bytes[2] = 0x0b;
            bytes
        };
        let name = "train-labels-idx1-short";
        dir.write(name, &short(&[300, 299]))?;
        let labels = idx_labels(Source::open(dir.0.path(), TRAIN_LABELS)?, 299)?;
        assert_eq!(labels.labels, [1, 0]);
        for (bytes, expected) in [
            (
                short(&[0, -1]),
                "label -1 at index 1, allowed are 0 to 32767",
            ),
            (
                short(&[1, 0])[..11].to_vec(),
                "truncated: 11 bytes, expected 12",
            ),
        ] {
            assert_eq!(dir.error_with(name, &bytes)?, format!("{name}: {expected}"));
        }
        Ok(())
    }

    #[test]
    fn packed_files_in_a_folder_read_like_the_embedded_ones() -> TestResult {
        let dir = tempfile::tempdir()?;
        for (name, bytes) in [
            (TRAIN_IMAGES, FASHION_MNIST.train_images),
            (TRAIN_LABELS, FASHION_MNIST.train_labels),
            (TEST_IMAGES, FASHION_MNIST.test_images),
            (TEST_LABELS, FASHION_MNIST.test_labels),
        ] {
            fs::write(dir.path().join(format!("{name}.gz")), bytes)?;
        }
        assert!(from_idx_dir(dir.path(), 0)? == fashion_mnist()?);

        let cut = &FASHION_MNIST.test_images[..FASHION_MNIST.test_images.len() / 2];
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
            let images = idx_images(source)?.pooled().into_rows();
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
}
