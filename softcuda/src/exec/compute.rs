//! Moves, selections and comparisons: what a warp does with its registers beside arithmetic.

use super::warp::Warp;
use crate::code::operation::{Code, Compare, Logic, Pred};
use crate::code::row::WarpFn;
use crate::fault::Fault;

impl Warp {
    #[inline]
    pub(super) fn compute(
        &mut self,
        run: WarpFn,
        dst: u32,
        (src, arity): (&[u32; 4], u8),
        active: u32,
        code: &Code,
    ) -> Result<(), Fault> {
        for &row in &src[..usize::from(arity)] {
            self.need(row, active, code)?;
        }
        run(&mut self.rows, dst, src, active);
        self.defined[dst as usize] |= active;
        Ok(())
    }

    pub(super) fn copy(&mut self, dst: u32, src: u32, mask: u64, active: u32) {
        let undefined = !self.defined[src as usize] & active;
        self.set_row(dst, active, |rows, lane| rows[src as usize][lane] & mask);
        self.defined[dst as usize] &= !undefined;
    }

    pub(super) fn select(&mut self, dst: u32, [a, b]: [u32; 2], pred: Pred, active: u32) -> Result<(), Fault> {
        let first = self.pred(pred, active)?;
        let defined = first & self.defined[a as usize] | !first & self.defined[b as usize];
        self.set_row(dst, active, |rows, lane| rows[if first >> lane & 1 != 0 { a } else { b } as usize][lane]);
        self.defined[dst as usize] &= defined | !active;
        Ok(())
    }

    pub(super) fn pack(&mut self, dst: u32, parts: &[u32], bits: u32, active: u32, code: &Code) -> Result<(), Fault> {
        for &part in parts {
            self.need(part, active, code)?;
        }
        let mask = u64::MAX >> (64 - bits);
        self.set_row(dst, active, |rows, lane| {
            parts.iter().rev().fold(0, |value, &part| value << bits | rows[part as usize][lane] & mask)
        });
        Ok(())
    }

    pub(super) fn unpack(
        &mut self,
        parts: &[Option<u32>],
        src: u32,
        bits: u32,
        active: u32,
        code: &Code,
    ) -> Result<(), Fault> {
        self.need(src, active, code)?;
        let whole = self.rows[src as usize];
        let mask = u64::MAX >> (64 - bits);
        for (at, dst) in parts.iter().enumerate() {
            if let Some(dst) = dst {
                self.set_row(*dst, active, |_, lane| whole[lane] >> (at as u32 * bits) & mask);
            }
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, compare: &Compare, active: u32, code: &Code) -> Result<(), Fault> {
        self.need(compare.a, active, code)?;
        self.need(compare.b, active, code)?;
        let [less, equal, neither] = (compare.run)(&self.rows, compare.a, compare.b);
        let outcomes = [less, equal, !(less | equal | neither), neither];
        let accepted = outcomes.iter().enumerate().filter(|(bit, _)| compare.accept >> bit & 1 != 0);
        let mut held = accepted.fold(0, |held, (_, lanes)| held | lanes);
        if let Some(pred) = compare.and {
            held &= self.pred(pred, active)?;
        }
        self.set_pred(compare.dst, active, held);
        Ok(())
    }

    pub(super) fn combine(&mut self, logic: Logic, dst: u32, [a, b]: [Pred; 2], active: u32) -> Result<(), Fault> {
        let (a, b) = (self.pred(a, active)?, self.pred(b, active)?);
        let held = match logic {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        };
        self.set_pred(dst, active, held);
        Ok(())
    }
}
