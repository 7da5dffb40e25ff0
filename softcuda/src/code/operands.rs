//! What an operation reads and writes.
use super::operation::{Instruction, Op, Vote};

/// Registers of both kinds.
pub(crate) trait Registers {
    /// A row.
    fn row(&mut self, row: u32);
    /// A predicate.
    fn pred(&mut self, pred: u32);
}

impl Instruction {
    /// What it reads, its guard first.
    pub(crate) fn sources(&self, to: &mut impl Registers) {
        self.guard.iter().for_each(|guard| to.pred(guard.index));
        match &self.op {
            Op::Lanes { src, arity, .. } => src[..usize::from(*arity)].iter().for_each(|&row| to.row(row)),
            Op::Move { src, .. } | Op::Unpack { src, .. } => to.row(*src),
            Op::Select { a, b, pred, .. } => {
                to.row(*a);
                to.row(*b);
                to.pred(pred.index);
            }
            Op::Pack { parts, .. } => parts.iter().for_each(|&part| to.row(part)),
            Op::Compare(compare) => {
                to.row(compare.a);
                to.row(compare.b);
                compare.and.iter().for_each(|pred| to.pred(pred.index));
            }
            Op::Combine { a, b, .. } => {
                to.pred(a.index);
                to.pred(b.index);
            }
            Op::Load(load) => to.row(load.at.base),
            Op::Store(store) => {
                to.row(store.at.base);
                store.rows.iter().for_each(|&row| to.row(row));
            }
            Op::Atomic(atomic) => {
                to.row(atomic.at.base);
                to.row(atomic.operand);
            }
            Op::Prefetch { at } => to.row(at.base),
            Op::Copy(copy) => {
                to.row(copy.from.base);
                to.row(copy.to.base);
            }
            Op::Shuffle(shuffle) => {
                [shuffle.value, shuffle.lane, shuffle.clamp, shuffle.members].iter().for_each(|&row| to.row(row));
            }
            Op::Vote { pred, members, .. } => {
                to.pred(pred.index);
                to.row(*members);
            }
            Op::WarpBarrier { members } => to.row(*members),
            Op::Barrier(barrier) => {
                to.row(barrier.id);
                barrier.threads.iter().for_each(|&row| to.row(row));
                barrier.any.iter().for_each(|(pred, _)| to.pred(pred.index));
            }
            Op::Branch { .. } | Op::Exit | Op::Trap | Op::Fence { .. } | Op::Yield => {}
            Op::WaitForCopies | Op::WaitForEarlier | Op::LetLaterBegin | Op::Unsupported => {}
        }
    }

    /// What it writes.
    pub(crate) fn destinations(&self, to: &mut impl Registers) {
        match &self.op {
            Op::Lanes { dst, .. } | Op::Move { dst, .. } | Op::Select { dst, .. } | Op::Pack { dst, .. } => {
                to.row(*dst);
            }
            Op::Unpack { parts, .. } => parts.iter().flatten().for_each(|&part| to.row(part)),
            Op::Compare(compare) => to.pred(compare.dst),
            Op::Combine { dst, .. } => to.pred(*dst),
            Op::Load(load) => load.rows.iter().for_each(|&row| to.row(row)),
            Op::Atomic(atomic) => atomic.old.iter().for_each(|&row| to.row(row)),
            Op::Shuffle(shuffle) => {
                to.row(shuffle.dst);
                shuffle.in_range.iter().for_each(|&pred| to.pred(pred));
            }
            Op::Vote { vote: Vote::Ballot(row), .. } => to.row(*row),
            Op::Vote { vote: Vote::Any(pred), .. } => to.pred(*pred),
            Op::Barrier(barrier) => barrier.any.iter().for_each(|&(_, outcome)| to.pred(outcome)),
            Op::Store(_) | Op::Prefetch { .. } | Op::Copy(_) => {}
            Op::WaitForCopies | Op::WaitForEarlier | Op::LetLaterBegin => {}
            Op::WarpBarrier { .. }
            | Op::Branch { .. }
            | Op::Exit
            | Op::Trap
            | Op::Fence { .. }
            | Op::Yield
            | Op::Unsupported => {}
        }
    }
}
