//! Checks of shapes and lengths, the same for every path.

use crate::error::Error;

/// Checks that `rows` rows fit and returns their stride. Without a stated stride the length must be
/// exact, since anything else means that `C` is not the table's.
pub(crate) fn check_rows(
    name: &'static str,
    got: usize,
    rows: usize,
    classes: usize,
    stride: Option<usize>,
) -> Result<usize, Error> {
    let row_stride = stride.unwrap_or(classes);
    if row_stride < classes {
        return Err(Error::Stride {
            name,
            stride: row_stride,
            classes,
        });
    }
    let expected = match rows {
        0 => Some(0),
        _ => (rows - 1)
            .checked_mul(row_stride)
            .and_then(|n| n.checked_add(classes)),
    };
    let expected = expected.ok_or(Error::ShapeOverflow {
        rows,
        stride: row_stride,
    })?;
    match stride {
        Some(stride) if got < expected => Err(Error::StridedBuffer {
            name,
            got,
            expected,
            rows,
            classes,
            stride,
        }),
        None if got != expected && name == "logits" => Err(Error::LogitsShape {
            got,
            expected,
            rows,
            classes,
        }),
        None if got != expected => Err(Error::Length {
            name,
            got,
            expected,
        }),
        _ => Ok(row_stride),
    }
}

/// Checks a buffer that has one entry for each row, where it is given.
pub(crate) fn check_length(
    name: &'static str,
    got: Option<usize>,
    expected: usize,
) -> Result<(), Error> {
    match got {
        Some(got) if got != expected => Err(Error::Length {
            name,
            got,
            expected,
        }),
        _ => Ok(()),
    }
}
