//! Features and labels in NumPy files.

use std::fmt::Display;
use std::io;
use std::path::Path;

use half::f16;
use npyz::{DType, Deserialize, NpyFile, NpyHeader, Order, TypeChar};

use crate::data::{DataError, Labels, Part, Rows, Split, read_error, shown, split};

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

    use crate::data::refusal;

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

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
            refusal(self.0.path(), self.read())
        }
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
    fn labels_that_begin_at_1_are_shifted_where_that_is_said() -> TestResult {
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
            assert_eq!(refusal(dir.0.path(), dir.read_from(1))?, expected);
        }
        dir.write("y", &npy_bytes(&[2], &[3_i64, 4])?)?;
        let message = refusal(dir.0.path(), dir.read_from(1))?;
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
        Ok(())
    }

    #[test]
    fn a_missing_file_is_named() -> TestResult {
        let dir = NpyDir::new()?;
        fs::remove_file(dir.path("test_x"))?;
        assert_eq!(refusal(dir.0.path(), dir.read())?, "test_x: no such file");
        Ok(())
    }
}
