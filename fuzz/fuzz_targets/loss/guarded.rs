//! Buffers between guards, so that a write beside them is seen.

use crate::bits::{self, Bits};

/// A buffer, what lies on either side of it, and what both held at first.
#[derive(Clone)]
pub struct Guarded<T> {
    all: Vec<T>,
    before: Vec<T>,
    begin: usize,
    len: usize,
}

impl<T: Bits> Guarded<T> {
    /// `shift` elements more before it, which decide how it is aligned.
    pub fn new(values: &[T], guard: T, shift: usize) -> Self {
        const GUARDS: usize = 16;
        let begin = GUARDS + shift;
        let mut all = vec![guard; begin];
        all.extend_from_slice(values);
        all.extend([guard; GUARDS]);
        Self {
            before: all.clone(),
            all,
            begin,
            len: values.len(),
        }
    }

    pub fn get(&self) -> &[T] {
        &self.all[self.begin..][..self.len]
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.all[self.begin..][..self.len]
    }

    /// Fails where anything has changed but what `written` names by its place in the buffer.
    pub fn held_but(&self, written: impl Fn(usize) -> bool) {
        for (at, (now, before)) in self.all.iter().zip(&self.before).enumerate() {
            let inside = (self.begin..self.begin + self.len).contains(&at);
            if now.bits() != before.bits() {
                assert!(
                    inside && written(at - self.begin),
                    "element {at} was written"
                );
            }
        }
    }

    /// Fails where anything has changed.
    pub fn held(&self) {
        self.held_but(|_| false);
    }

    /// Rows of so many elements, one behind the other.
    pub fn rows(&self, rows: usize, classes: usize, stride: usize) -> Vec<u64> {
        (0..rows)
            .flat_map(|row| bits::all(&self.get()[row * stride..][..classes]))
            .collect()
    }
}
