//! A number that stands for what all ranks must have been given alike.

use std::fmt;

/// FNV-1a, of bytes and of whole words. Each step is one to one, so that what differs in a single
/// place never has the same digest.
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(crate) fn number(&mut self, number: f64) {
        self.word(number.to_bits());
    }

    /// Of what its `Debug` shows.
    pub(crate) fn shown(&mut self, value: &dyn fmt::Debug) {
        // Writing to a digest does not fail.
        let _ = fmt::write(self, format_args!("{value:?}"));
    }

    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.word(byte.into()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    fn of(words: &[u64]) -> u64 {
        let mut digest = Digest::new();
        words.iter().for_each(|&word| digest.word(word));
        digest.value()
    }

    #[test]
    fn order_length_and_every_bit_count() {
        let all = [of(&[]), of(&[0]), of(&[0, 0]), of(&[1, 2]), of(&[2, 1])];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{i}");
        }
        for bit in 0..64 {
            assert_ne!(of(&[7, 1 << bit, 9]), of(&[7, 0, 9]), "bit {bit}");
        }
    }

    #[test]
    fn a_value_is_told_by_what_it_shows() {
        let of = |value: &dyn std::fmt::Debug| {
            let mut digest = Digest::new();
            digest.shown(value);
            digest.value()
        };
        assert_eq!(of(&[0.5, 1.0]), of(&[0.5, 1.0]));
        assert_ne!(of(&[0.5, 1.0]), of(&[0.5, 1.0000000000000002]));
    }
}
