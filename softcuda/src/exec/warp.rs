//! A warp: its registers, and the groups that its lanes have split into.

use super::chain::{Moved, WarpChain};
use super::order::Knowledge;
use super::scene::Order;
use crate::code::operation::{Code, Pred, TRUE};
use crate::code::row::Row;
use crate::code::special::Surroundings;
use crate::fault::{Fault, Site};

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) at: u32,
    pub(super) lanes: u32,
    /// At a sync whose other lanes have not come.
    pub(super) waits: bool,
}

/// A lane's copy from global to shared memory that it has not waited for.
pub(super) struct UnderWay {
    pub(super) lane: usize,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) content: Vec<u8>,
}

/// The registers and groups of a warp.
pub(super) struct Warp {
    pub(super) rows: Vec<Row>,
    /// Lanes in which a row has a value.
    pub(super) defined: Vec<u32>,
    preds: Vec<u32>,
    preds_defined: Vec<u32>,
    pub(super) groups: Vec<Group>,
    /// The group that runs.
    pub(super) current: usize,
    pub(super) live: u32,
    pub(super) steps: u64,
    /// The lane that a fault is put down to.
    pub(super) lane: usize,
    pub(super) knowledge: Knowledge,
    /// Lanes that have not waited for the kernel before this one, where that may still run.
    pub(super) early: u32,
    /// Copies to shared memory under way.
    pub(super) copies: Vec<UnderWay>,
    /// Where the launch is asked for it.
    pub(super) chain: Option<WarpChain>,
    pub(super) moved: Moved,
    /// How long it has waited since that much progress.
    waited: (u32, u64),
}

/// Strong reads, in which a warp may ask for what others write, between two of its rests.
const PATIENCE: u32 = 1 << 10;
/// Who has waited so long while nothing happened waits for nothing.
const IN_VAIN: u32 = 1 << 16;

/// The lanes of a mask, from the last where `reverse`.
pub(super) fn lanes(mut mask: u32, reverse: bool) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = if reverse { 31u32.wrapping_sub(mask.leading_zeros()) } else { mask.trailing_zeros() };
        if mask == 0 {
            return None;
        }
        mask &= !(1 << lane);
        Some(lane as usize)
    })
}

impl Warp {
    pub(super) fn new(code: &Code, index: usize) -> Self {
        let mut warp = Self {
            rows: vec![[0; 32]; code.rows],
            defined: vec![0; code.rows],
            preds: vec![0; code.preds],
            preds_defined: vec![0; code.preds],
            groups: Vec::new(),
            current: 0,
            live: 0,
            steps: 0,
            lane: 0,
            knowledge: Knowledge::new(index),
            early: 0,
            copies: Vec::new(),
            chain: None,
            moved: Moved::default(),
            waited: (0, 0),
        };
        for &(row, bits) in &code.constants {
            warp.rows[row as usize] = [bits; 32];
        }
        warp
    }

    /// Ready for the first `threads` lanes of a block.
    pub(super) fn start(&mut self, code: &Code, threads: u32, block: u32, around: &Surroundings) {
        self.defined.fill(0);
        self.preds_defined.fill(0);
        self.preds[TRUE as usize] = u32::MAX;
        self.preds_defined[TRUE as usize] = u32::MAX;
        for &(row, _) in &code.constants {
            self.defined[row as usize] = u32::MAX;
        }
        for &(row, special) in &code.specials {
            self.defined[row as usize] = u32::MAX;
            self.rows[row as usize] = std::array::from_fn(|lane| special(around, lane as u32).into());
        }
        self.live = u32::MAX >> (32 - threads);
        self.groups = vec![Group { at: 0, lanes: self.live, waits: false }];
        self.current = 0;
        self.steps = 0;
        self.copies.clear();
        self.knowledge.start(block, self.live);
        self.waited = (0, 0);
    }

    /// The instruction that the warp is at.
    pub(super) fn at(&self) -> usize {
        self.groups.get(self.current).map_or(0, |group| group.at as usize)
    }

    /// Whether lanes are visited from the last to the first, for what depends on their order.
    pub(super) fn reverse(&self, order: Order) -> bool {
        match order {
            Order::Forward => false,
            Order::Reverse => true,
            Order::Interleaved => self.steps.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 != 0,
        }
    }

    /// Merges groups that have met and picks the one that is behind the others.
    pub(super) fn choose(&mut self, code: &Code) -> Result<(), Fault> {
        let mut at = 0;
        while at < self.groups.len() {
            let mut other = at + 1;
            while other < self.groups.len() {
                if self.groups[other].at == self.groups[at].at {
                    self.groups[at].lanes |= self.groups[other].lanes;
                    self.groups[at].waits = false;
                    self.groups.swap_remove(other);
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
        let runnable = (0..self.groups.len()).filter(|&group| !self.groups[group].waits);
        if let Some(next) = runnable.min_by_key(|&group| code.rank[self.groups[group].at as usize]) {
            self.current = next;
            return Ok(());
        }
        // Every group waits for lanes that are in another one.
        self.current = 0;
        let Group { lanes, .. } = self.groups[0];
        self.lane = lanes.trailing_zeros() as usize;
        Err(Fault::divergent(self.live & !lanes))
    }

    /// Goes on: `jumping` lanes to `target`, the rest of the group to the next instruction.
    pub(super) fn advance(&mut self, jumping: u32, target: u32) {
        let group = &mut self.groups[self.current];
        let staying = group.lanes & !jumping;
        let next = group.at + 1;
        if staying == 0 {
            group.at = target;
        } else {
            group.at = next;
            group.lanes = staying;
            if jumping != 0 {
                self.groups.push(Group { at: target, lanes: jumping, waits: false });
            }
        }
    }

    pub(super) fn end_lanes(&mut self, ending: u32) {
        self.live &= !ending;
        self.advance(0, 0);
        let group = &mut self.groups[self.current];
        group.lanes &= !ending;
        if group.lanes == 0 {
            self.groups.remove(self.current);
            self.current = 0;
        }
        // Who waited for these lanes waits for fewer now.
        self.groups.iter_mut().for_each(|group| group.waits = false);
    }

    /// The lanes in which a predicate holds. Those of `needed` must have it defined.
    pub(super) fn pred(&mut self, pred: Pred, needed: u32) -> Result<u32, Fault> {
        let undefined = needed & !self.preds_defined[pred.index as usize];
        if undefined != 0 {
            self.lane = undefined.trailing_zeros() as usize;
            return Err(Fault::UninitialisedRegister { register: "a predicate".to_owned(), site: Site::default() });
        }
        let held = self.preds[pred.index as usize];
        Ok(if pred.negate { !held } else { held })
    }

    pub(super) fn set_pred(&mut self, pred: u32, lanes: u32, held: u32) {
        let place = &mut self.preds[pred as usize];
        *place = *place & !lanes | held & lanes;
        self.preds_defined[pred as usize] |= lanes;
    }

    /// Every lane of `lanes` must have a value in `row`.
    #[inline]
    pub(super) fn need(&mut self, row: u32, lanes: u32, code: &Code) -> Result<(), Fault> {
        let undefined = lanes & !self.defined[row as usize];
        if undefined == 0 {
            return Ok(());
        }
        self.lane = undefined.trailing_zeros() as usize;
        let family = code.names.iter().find(|&&(_, first, count)| (first..first + count).contains(&row));
        let register = family.map_or_else(String::new, |(prefix, first, count)| match count {
            1 => prefix.clone(),
            _ => format!("{prefix}{}", row - first),
        });
        Err(Fault::UninitialisedRegister { register, site: Site::default() })
    }

    pub(super) fn set_row(&mut self, row: u32, active: u32, value: impl Fn(&[Row], usize) -> u64) {
        for lane in lanes(active, false) {
            self.rows[row as usize][lane] = value(&self.rows, lane);
        }
        self.defined[row as usize] |= active;
    }

    /// Counts what may be waiting for others. Tells whether it is their turn.
    pub(super) fn wait(&mut self, progress: u64, count: u32) -> bool {
        let (waited, since) = self.waited;
        let waited = if since == progress { waited.saturating_add(count) } else { 0 };
        self.waited = (waited, progress);
        waited % PATIENCE == PATIENCE - 1
    }

    /// Whether it has waited for long while nothing happened that it may wait for.
    pub(super) fn waits(&self, progress: u64) -> bool {
        self.waited.0 >= IN_VAIN && self.waited.1 == progress
    }
}
