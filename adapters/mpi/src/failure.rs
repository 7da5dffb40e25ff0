//! What went wrong on a rank, in words of a fixed number that all others can read.

use ala_loss::Error as LossError;

use crate::error::Error;

/// What may keep a rank from its part of a step. It takes part in the exchange all the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    Loss(LossError),
    TooLong { numbers: usize, most: usize },
    Memory { numbers: usize },
}

impl From<LossError> for Failure {
    fn from(error: LossError) -> Self {
        Self::Loss(error)
    }
}

const NUMBERS: usize = 7;
const TEXT_WORDS: usize = 20;

/// A kind, its numbers, a text.
pub(crate) const WORDS: usize = 1 + NUMBERS + TEXT_WORDS;

type Words = [u64; WORDS];

/// Nothing went wrong.
pub(crate) const NONE: Words = [0; WORDS];

/// The texts that errors are made of, which travel as their places here. An error with another one
/// travels as its message.
const TEXTS: [&str; 15] = [
    "logits",
    "records",
    "second labels",
    "lambda",
    "row weights",
    "weight",
    "from 0 to 1",
    "at least 0, and at most 1e280 when multiplied by its class's weight",
    "divisor",
    "finite and at least 0",
    "finite and above 0, or 0 where no row counts",
    "upstream gradient",
    "row losses",
    "smoothed labels for shards",
    "build the loss without label smoothing",
];

fn place(text: &str) -> Option<u64> {
    let place = TEXTS.iter().position(|&known| known == text)?;
    Some(place as u64)
}

fn text(place: u64) -> Option<&'static str> {
    TEXTS.get(usize::try_from(place).ok()?).copied()
}

/// The failure as words.
pub(crate) fn pack(failure: &Failure) -> Words {
    let mut words = NONE;
    match numbers(failure) {
        Some((kind, numbers)) => {
            words[0] = kind;
            words[1..=NUMBERS].copy_from_slice(&numbers);
        }
        None => {
            words[0] = MESSAGE;
            // The others are made of numbers.
            let message = match failure {
                Failure::Loss(error) => error.to_string(),
                other => format!("{other:?}"),
            };
            write_text(&message, &mut words[1 + NUMBERS..]);
        }
    }
    words
}

const MESSAGE: u64 = 1;

fn numbers(failure: &Failure) -> Option<(u64, [u64; NUMBERS])> {
    let mut numbers = [0; NUMBERS];
    let mut hold = |kind: u64, values: &[u64]| {
        numbers[..values.len()].copy_from_slice(values);
        (kind, numbers)
    };
    let n = |value: usize| value as u64;
    Some(match failure {
        Failure::TooLong { numbers, most } => hold(2, &[n(*numbers), n(*most)]),
        Failure::Memory { numbers } => hold(3, &[n(*numbers)]),
        Failure::Loss(error) => match *error {
            LossError::Length {
                name,
                got,
                expected,
            } => hold(4, &[place(name)?, n(got), n(expected)]),
            LossError::LogitsShape {
                got,
                expected,
                rows,
                classes,
            } => hold(5, &[n(got), n(expected), n(rows), n(classes)]),
            LossError::StridedBuffer {
                name,
                got,
                expected,
                rows,
                classes,
                stride,
            } => {
                let sizes = [n(got), n(expected), n(rows), n(classes), n(stride)];
                let [got, expected, rows, classes, stride] = sizes;
                hold(6, &[place(name)?, got, expected, rows, classes, stride])
            }
            LossError::Stride {
                name,
                stride,
                classes,
            } => hold(7, &[place(name)?, n(stride), n(classes)]),
            LossError::ShapeOverflow { rows, stride } => hold(8, &[n(rows), n(stride)]),
            LossError::Label {
                row,
                label,
                classes,
            } => hold(9, &[n(row), label as u64, (label >> 64) as u64, n(classes)]),
            LossError::SecondLabel {
                row,
                label,
                classes,
            } => hold(
                10,
                &[n(row), label as u64, (label >> 64) as u64, n(classes)],
            ),
            LossError::RowParameter {
                row,
                name,
                value,
                allowed,
            } => hold(
                11,
                &[n(row), place(name)?, value.to_bits(), place(allowed)?],
            ),
            LossError::Parameter {
                name,
                value,
                allowed,
            } => hold(12, &[place(name)?, value.to_bits(), place(allowed)?]),
            LossError::ShardClasses {
                start,
                end,
                classes,
            } => hold(13, &[n(start), n(end), n(classes)]),
            LossError::Misplaced { given, instead } => hold(14, &[place(given)?, place(instead)?]),
            _ => return None,
        },
    })
}

/// The error that every rank makes of a rank's words; none where nothing went wrong there.
pub(crate) fn unpack(rank: usize, words: &Words) -> Option<Error> {
    if words[0] == 0 {
        return None;
    }
    Some(known(rank, words).unwrap_or_else(|| Error::RankMessage {
        rank,
        message: read_text(&words[1 + NUMBERS..]),
    }))
}

fn known(rank: usize, words: &Words) -> Option<Error> {
    let [kind, a, b, c, d, e, f, ..] = *words;
    let n = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
    let label = i128::from(c as i64) << 64 | i128::from(b);
    let error = match kind {
        2 => {
            return Some(Error::TooLong {
                rank,
                numbers: n(a),
                most: n(b),
            });
        }
        3 => {
            return Some(Error::Memory {
                rank,
                numbers: n(a),
            });
        }
        4 => LossError::Length {
            name: text(a)?,
            got: n(b),
            expected: n(c),
        },
        5 => LossError::LogitsShape {
            got: n(a),
            expected: n(b),
            rows: n(c),
            classes: n(d),
        },
        6 => LossError::StridedBuffer {
            name: text(a)?,
            got: n(b),
            expected: n(c),
            rows: n(d),
            classes: n(e),
            stride: n(f),
        },
        7 => LossError::Stride {
            name: text(a)?,
            stride: n(b),
            classes: n(c),
        },
        8 => LossError::ShapeOverflow {
            rows: n(a),
            stride: n(b),
        },
        9 => LossError::Label {
            row: n(a),
            label,
            classes: n(d),
        },
        10 => LossError::SecondLabel {
            row: n(a),
            label,
            classes: n(d),
        },
        11 => LossError::RowParameter {
            row: n(a),
            name: text(b)?,
            value: f64::from_bits(c),
            allowed: text(d)?,
        },
        12 => LossError::Parameter {
            name: text(a)?,
            value: f64::from_bits(b),
            allowed: text(c)?,
        },
        13 => LossError::ShardClasses {
            start: n(a),
            end: n(b),
            classes: n(c),
        },
        14 => LossError::Misplaced {
            given: text(a)?,
            instead: text(b)?,
        },
        _ => return None,
    };
    Some(Error::Rank { rank, error })
}

/// As much of it as there is room for, without half a character.
fn write_text(text: &str, words: &mut [u64]) {
    let mut end = text.len().min(8 * words.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (word, bytes) in words.iter_mut().zip(text.as_bytes()[..end].chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(whole);
    }
}

fn read_text(words: &[u64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ala_loss::{ClassCounts, Lambda, Loss, Objective, Options, Outputs, Reduction, Upstream};

    fn arrives(error: LossError) {
        let words = pack(&Failure::Loss(error.clone()));
        assert_eq!(unpack(5, &words), Some(Error::Rank { rank: 5, error }));
    }

    /// Of a loss that is made of its halves, what either says: so no text is missing in the table.
    #[test]
    fn what_the_halves_say_arrives_whole() {
        let counts = ClassCounts::new([9, 3, 1]).expect("counts");
        let loss = Loss::new(Objective::ala(), &counts).expect("a loss");
        let shard = loss.shard(0..2).expect("a shard");
        let x = [0.5f64; 4];
        let partial = |x: &[f64], labels: &[i64], options: &Options<'_, f64>, records: usize| {
            shard.partial(x, labels, options, &mut vec![0.0; records])
        };
        let plain = Options::new();
        let mixed = plain.mixed_with(&[0, 1], Lambda::Scalar(0.5));
        let half = |lambda| Options::new().mixed_with(&[0, 1], Lambda::Scalar(lambda));
        let errors = [
            partial(&x, &[0, i64::MIN], &plain, 6),
            partial(&x, &[0, 3], &plain, 6),
            partial(&x[1..], &[0, 1], &plain, 6),
            partial(&x, &[0, 1], &plain, 5),
            partial(&x, &[0, 1], &plain.stride(1), 6),
            partial(&x, &[0, 1], &plain.stride(9), 6),
            partial(&x, &[0, 1], &plain.stride(usize::MAX), 6),
            partial(&x, &[0, 1], &plain.row_weights(&[1.0]), 6),
            partial(&x, &[0, 1], &plain.row_weights(&[1.0, -1.0]), 6),
            partial(
                &x,
                &[0, 1],
                &plain.mixed_with(&[0], Lambda::Scalar(0.5)),
                12,
            ),
            partial(
                &x,
                &[0, 1],
                &plain.mixed_with(&[0, 7], Lambda::Scalar(0.5)),
                12,
            ),
            partial(&x, &[0, 1], &half(1.5), 12),
            partial(
                &x,
                &[0, 1],
                &plain.mixed_with(&[0, 1], Lambda::PerRow(&[1.0])),
                12,
            ),
        ];
        for error in errors {
            arrives(error.expect_err("each is wrong"));
        }
        let records = shard.record_len(&mixed);
        assert_eq!(partial(&x, &[0, 1], &mixed, 2 * records), Ok(()));
        arrives(loss.shard(2..2).expect_err("an empty range"));
        arrives(loss.shard(2..4).expect_err("beyond the classes"));
        let smoothed = Loss::builder(Objective::CrossEntropy, &counts).label_smoothing(0.1);
        let smoothed = smoothed.build().expect("a loss");
        arrives(smoothed.shard(0..1).expect_err("shards do not smooth"));
        let none = loss.with_reduction(Reduction::None);
        let options = plain.upstream(Upstream::PerRow(&[1.0]));
        let upstream = none.evaluate_into(&[0.5; 6], &[0, 1], &options, Outputs::new());
        arrives(upstream.expect_err("too few"));
    }

    #[test]
    fn other_errors_arrive_as_their_message() {
        let told = |error: LossError| unpack(1, &pack(&Failure::Loss(error)));
        let message = |text: &str| {
            Some(Error::RankMessage {
                rank: 1,
                message: text.to_owned(),
            })
        };
        let error = LossError::Length {
            name: "ünknown",
            got: 1,
            expected: 2,
        };
        assert_eq!(told(error), message("ünknown has 1 entries: expected 2"));
        let long = "é".repeat(200);
        let error = LossError::Read(long.clone());
        let text = format!("cannot read annotations: {long}");
        // 25 bytes, and 67 characters of 2 in the 135 that are left.
        assert_eq!(told(error), message(&text[..159]));
    }

    #[test]
    fn words_of_no_failure_and_of_any_other_kind_are_no_panic() {
        assert_eq!(unpack(0, &NONE), None);
        for kind in 1..40 {
            let mut words = [u64::MAX; WORDS];
            words[0] = kind;
            assert!(unpack(0, &words).is_some(), "kind {kind}");
        }
    }
}
