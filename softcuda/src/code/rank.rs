//! The order in which the parts of a diverged warp run.
//!
//! Lanes that are behind in this order run first, so that a join is reached by all who can reach it
//! before anyone goes on, as on hardware. Text order will not do: compilers place rare blocks
//! anywhere.

use std::ops::Range;

use super::operation::{Instruction, Op};

/// Whether an operation may be followed by another one than the next.
fn leaves(op: &Op) -> bool {
    matches!(op, Op::Exit | Op::Trap | Op::Branch { .. })
}

/// Whether a basic block begins with each instruction, and behind the last.
pub(super) fn leads(instructions: &[Instruction]) -> Vec<bool> {
    let mut leads = vec![false; instructions.len() + 1];
    leads[0] = true;
    for (at, instruction) in instructions.iter().enumerate() {
        leads[at + 1] |= leaves(&instruction.op);
        if let Op::Branch { target } = instruction.op {
            leads[target as usize] = true;
        }
    }
    leads
}

/// The rank of each instruction in the order in which diverged lanes run.
pub(super) fn rank(instructions: &[Instruction]) -> Vec<u32> {
    let count = instructions.len();
    let leads = leads(instructions);
    let starts: Vec<usize> = (0..count).filter(|&at| leads[at]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let ends = starts[1..].iter().copied().chain([count]);
    let successors: Vec<Vec<usize>> = ends
        .clone()
        .map(|end| {
            let last = &instructions[end - 1];
            let jumps = if let Op::Branch { target } = last.op { Some(block_at(target as usize)) } else { None };
            let goes_on = end < count && (!leaves(&last.op) || last.guard.is_some());
            jumps.into_iter().chain(goes_on.then(|| block_at(end))).collect()
        })
        .collect();
    let mut blocks: Vec<(u32, Range<usize>)> =
        ranks(&successors).into_iter().zip(starts.iter().zip(ends).map(|(&start, end)| start..end)).collect();
    blocks.sort_by_key(|(rank, _)| *rank);
    let mut ranks = vec![0; count];
    for (rank, at) in blocks.into_iter().flat_map(|(_, block)| block).enumerate() {
        ranks[at] = rank as u32;
    }
    ranks
}

/// The rank of every block of a control-flow graph: Bourdoncle's weak topological order, in which a
/// block comes after its predecessors and a loop is contiguous. Block 0 is the entry.
fn ranks(successors: &[Vec<usize>]) -> Vec<u32> {
    let mut order = Order { successors, number: vec![0; successors.len()], last: 0, stack: Vec::new() };
    let reversed = if successors.is_empty() { Vec::new() } else { order.reversed() };
    let mut ranks = vec![u32::MAX; successors.len()];
    for (rank, &block) in reversed.iter().rev().enumerate() {
        ranks[block] = rank as u32;
    }
    ranks
}

struct Order<'a> {
    successors: &'a [Vec<usize>],
    /// Depth-first numbers; 0 is not visited, `u32::MAX` is placed.
    number: Vec<u32>,
    last: u32,
    stack: Vec<usize>,
}

/// A block whose successors are being visited.
struct Visit {
    block: usize,
    /// Its next successor.
    next: usize,
    /// The least number that it reaches.
    head: u32,
    in_loop: bool,
    /// Whether its successors are visited a second time, for the order within the loop it heads.
    within: bool,
}

impl Visit {
    fn reaches(&mut self, least: u32) {
        if least <= self.head {
            self.head = least;
            self.in_loop = true;
        }
    }
}

impl Order<'_> {
    fn enter(&mut self, block: usize) -> Visit {
        self.stack.push(block);
        self.last += 1;
        self.number[block] = self.last;
        Visit { block, next: 0, head: self.last, in_loop: false, within: false }
    }

    /// The blocks back to front. Visits wait in a list of ours: a long kernel would overflow the
    /// thread's stack.
    fn reversed(&mut self) -> Vec<usize> {
        let mut open = vec![self.enter(0)];
        // What is in order so far, and of each loop that is being ordered its own.
        let mut lists = vec![Vec::new()];
        while let Some(visit) = open.last_mut() {
            if let Some(&next) = self.successors[visit.block].get(visit.next) {
                visit.next += 1;
                match self.number[next] {
                    0 => {
                        let visit = self.enter(next);
                        open.push(visit);
                    }
                    least if !visit.within => visit.reaches(least),
                    _ => {}
                }
                continue;
            }
            let (block, head) = (visit.block, visit.head);
            if visit.within {
                let component = lists.pop().unwrap_or_default();
                if let Some(list) = lists.last_mut() {
                    list.extend(component);
                    list.push(block);
                }
            } else if head == self.number[block] {
                self.number[block] = u32::MAX;
                while let Some(top) = self.stack.pop().filter(|&top| top != block) {
                    self.number[top] = 0;
                }
                if visit.in_loop {
                    (visit.within, visit.next) = (true, 0);
                    lists.push(Vec::new());
                    continue;
                }
                if let Some(list) = lists.last_mut() {
                    list.push(block);
                }
            }
            open.pop();
            if let Some(parent) = open.last_mut().filter(|parent| !parent.within) {
                parent.reaches(head);
            }
        }
        lists.pop().unwrap_or_default()
    }
}
