//! What a rank says of its records, before them in the same message.

use crate::error::Error;
use crate::failure::{self, Failure};

/// The words of a header.
const WORDS: usize = 4 + failure::WORDS;

/// The numbers of a header. A message is of `f64`, as records are, and no bits of a `f64` are sure
/// to travel but those of numbers: each holds half a word.
pub(crate) const NUMBERS: usize = 2 * WORDS;

/// A rank's part of a step: how much it tells, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Header {
    pub(crate) rows: usize,
    /// Numbers of a row.
    pub(crate) record_len: usize,
    /// Of the labels.
    pub(crate) labels: u64,
    /// Of the options that all ranks must be given alike.
    pub(crate) options: u64,
}

impl Header {
    /// The numbers of its records.
    pub(crate) fn need(&self) -> usize {
        self.rows.saturating_mul(self.record_len)
    }

    /// Writes it over `numbers`, with what went wrong where something did.
    pub(crate) fn write(&self, failure: Option<&Failure>, numbers: &mut [f64]) {
        let own = [
            self.rows as u64,
            self.record_len as u64,
            self.labels,
            self.options,
        ];
        let failure = failure.map_or(failure::NONE, failure::pack);
        let (halves, _) = numbers.as_chunks_mut::<2>();
        for (halves, word) in halves.iter_mut().zip(own.into_iter().chain(failure)) {
            *halves = [(word >> 32) as f64, f64::from(word as u32)];
        }
    }

    /// Reads what [`write`](Self::write) wrote on `rank`.
    pub(crate) fn read(rank: usize, numbers: &[f64]) -> (Self, Option<Error>) {
        let mut words = [0; WORDS];
        for (word, [high, low]) in words.iter_mut().zip(numbers.as_chunks::<2>().0) {
            *word = (*high as u64) << 32 | *low as u64;
        }
        let [rows, record_len, labels, options, ..] = words;
        let mut failure = failure::NONE;
        failure.copy_from_slice(&words[WORDS - failure::WORDS..]);
        let size = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
        let header = Self {
            rows: size(rows),
            record_len: size(record_len),
            labels,
            options,
        };
        (header, failure::unpack(rank, &failure))
    }

    /// Fails where a rank was given something else than rank 0, of which this is the header.
    pub(crate) fn check(&self, rank: usize, other: &Self) -> Result<(), Error> {
        let counts = [
            ("rows", other.rows, self.rows),
            (
                "numbers a row in its records",
                other.record_len,
                self.record_len,
            ),
        ];
        for (what, got, expected) in counts {
            if got != expected {
                return Err(Error::Differ {
                    what,
                    rank,
                    got,
                    expected,
                });
            }
        }
        let contents = [
            ("labels", other.labels, self.labels),
            ("options", other.options, self.options),
        ];
        match contents
            .into_iter()
            .find(|(_, got, expected)| got != expected)
        {
            Some((what, ..)) => Err(Error::Unlike { what, rank }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_arrive_as_they_were_written() {
        let header = Header {
            rows: (1 << 40) + 3,
            record_len: 12,
            labels: u64::MAX,
            options: 0x8000_0000_7fff_ffff,
        };
        let mut numbers = [f64::NAN; NUMBERS];
        header.write(None, &mut numbers);
        assert!(numbers.iter().all(|n| (0.0..=4_294_967_295.0).contains(n)));
        assert_eq!(Header::read(3, &numbers), (header, None));

        header.write(Some(&Failure::Memory { numbers: 9 }), &mut numbers);
        let error = Error::Memory {
            rank: 3,
            numbers: 9,
        };
        assert_eq!(Header::read(3, &numbers), (header, Some(error)));
        // An earlier failure leaves nothing behind.
        header.write(None, &mut numbers);
        assert_eq!(Header::read(3, &numbers), (header, None));
    }

    #[test]
    fn what_is_counted_is_told_before_what_it_holds() {
        let first = Header::default();
        let check = |other: Header| first.check(2, &other);
        assert_eq!(check(first), Ok(()));
        let other = Header { rows: 1, ..first };
        let message = "rank 2 has 1 rows, and rank 0 has 0: all must have the same";
        let both = Header { labels: 1, ..other };
        for other in [other, both] {
            assert_eq!(check(other).expect_err("other rows").to_string(), message);
        }
        let unlike = |what| Err(Error::Unlike { what, rank: 2 });
        assert_eq!(check(Header { labels: 1, ..first }), unlike("labels"));
        let options = Header {
            options: 1,
            ..first
        };
        assert_eq!(check(options), unlike("options"));
    }
}
