//! Images and labels in IDX files, the format of MNIST.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::data::{DataError, Image, Labels, Part, Rows, Split, read_error, shown, split};

pub(crate) const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
pub(crate) const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
pub(crate) const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
pub(crate) const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// The four files of a set that is embedded in a program, packed with gzip.
pub(crate) struct Embedded {
    pub(crate) train_images: &'static [u8],
    pub(crate) train_labels: &'static [u8],
    pub(crate) test_images: &'static [u8],
    pub(crate) test_labels: &'static [u8],
}

impl Embedded {
    /// Pixels are standardised as in [`from_idx_dir`]; none are averaged.
    pub(crate) fn read(&self) -> Result<Split, DataError> {
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

/// The four files of MNIST and its drop-in replacements in `dir`, plain or with `.gz` appended,
/// also where a mirror named them `train-images.idx3-ubyte` and so on. Label files of two bytes a
/// label end in `short`. Label `first_label` is class 0.
///
/// Images whose sides are both even and above 14 are averaged over 2x2 pixels, rounded half up, so
/// that 28x28 becomes 14x14. Then the pixels of both sets are standardised alike: divided by 255,
/// then `(x - mean) / std`, with one mean and one standard deviation over all pixels of all
/// training images (before a long tail is drawn).
pub(crate) fn from_idx_dir(dir: &Path, first_label: u32) -> Result<Split, DataError> {
    let images = |name: &str| idx_images(Source::open(dir, name)?).map(Images::pooled);
    let labels = |name: &str| idx_labels(Source::open(dir, name)?, first_label);
    split_of_images(
        (images(TRAIN_IMAGES)?, labels(TRAIN_LABELS)?),
        (images(TEST_IMAGES)?, labels(TEST_LABELS)?),
    )
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

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;

    use tempfile::TempDir;

    use crate::data::refusal;

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
            refusal(self.0.path(), from_idx_dir(self.0.path(), 0))
        }
    }

    fn idx_bytes(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(values);
        bytes
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
        Ok(())
    }

    #[test]
    fn a_test_set_may_lack_a_class() -> TestResult {
        let dir = IdxDir::new()?;
        dir.write(TEST_LABELS, &idx_bytes(&[2], &[0, 0]))?;
        assert_eq!(from_idx_dir(dir.0.path(), 0)?.test.classes, 2);
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
        Ok(())
    }
}
