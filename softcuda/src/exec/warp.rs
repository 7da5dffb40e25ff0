//! A warp: registers, the groups its lanes have split into, and the instructions that are not memory accesses.
use std::ops::ControlFlow;

use super::access::AsyncCopy;
use super::arith::Row;
use super::code::*;
use super::global::Global;
use super::order::{Knowledge, Meeting};
use super::races::Scene;
use super::shared::{Region, Shared};
use super::{LoadedModule, Order};
use crate::counters::Counters;
use crate::fault::{Fault, Site};
use crate::memory::Memory;

/// What the warps of a launch work on.
pub(crate) struct Context<'a> {
    pub(crate) module: &'a LoadedModule,
    pub(crate) code: &'a Code,
    pub(crate) scene: Scene<'a>,
    pub(crate) memory: &'a mut Memory,
    pub(crate) global: Global,
    pub(crate) params: &'a [u8],
    pub(crate) counters: Counters,
    pub(crate) order: Order,
    /// The allocation last used.
    pub(crate) hint: usize,
    /// Grows whenever something happens that a waiting warp may wait for.
    pub(crate) progress: u64,
}

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
struct Group {
    at: u32,
    lanes: u32,
    /// At a sync whose other lanes have not come.
    waits: bool,
}

/// Why a warp stopped running.
#[derive(Clone, Debug)]
pub(crate) enum Pause {
    Budget,
    /// It sleeps, or asks again and again for what others write.
    Yield,
    /// All live lanes are at a block barrier.
    Barrier,
    Done,
}

pub(crate) struct Warp {
    pub(crate) rows: Vec<Row>,
    /// Lanes in which a row has a value.
    pub(crate) defined: Vec<u32>,
    preds: Vec<u32>,
    preds_defined: Vec<u32>,
    groups: Vec<Group>,
    /// The group that runs.
    current: usize,
    live: u32,
    pub(crate) steps: u64,
    /// The lane that a fault is put down to.
    pub(crate) lane: usize,
    pub(crate) knowledge: Knowledge,
    /// How long it has waited since that much progress.
    waited: (u32, u64),
    /// Local memory of each lane.
    pub(crate) local: Vec<Region>,
    pub(crate) copies: Vec<AsyncCopy>,
    /// Groups of asynchronous copies committed by each lane.
    pub(crate) committed: [u32; 32],
}

/// No kernel of ours comes near; a warp that passes it spins.
const ENDLESS: u64 = 1 << 26;

/// Strong reads, in which a warp may ask for what others write, between two of its rests.
const PATIENCE: u32 = 1 << 10;
/// Strong reads that a sleep counts for.
const SLEEP: u32 = 1 << 6;
/// Who has waited so long while nothing happened waits for nothing.
const IN_VAIN: u32 = 1 << 16;

/// The lanes of a mask, from the last where `reverse`.
pub(crate) fn lanes(mut mask: u32, reverse: bool) -> impl Iterator<Item = usize> {
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
    pub(crate) fn new(code: &Code, index: usize) -> Self {
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
            waited: (0, 0),
            local: Vec::new(),
            copies: Vec::new(),
            committed: [0; 32],
        };
        for &(row, bits) in &code.constants {
            warp.rows[row as usize] = [bits; 32];
        }
        if code.local > 0 {
            warp.local.resize_with(32, || Region::new("local"));
        }
        warp
    }

    /// Ready for the first `threads` lanes of a block.
    pub(crate) fn start(&mut self, code: &Code, threads: u32, block: u32, around: &Surroundings) {
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
        self.knowledge.start(block, self.live);
        self.waited = (0, 0);
        for local in &mut self.local {
            local.reset([(0, code.local)].into_iter(), code.local as usize);
        }
        self.copies.clear();
        self.committed = [0; 32];
    }

    /// The instruction that the warp is at.
    pub(crate) fn at(&self) -> usize {
        self.groups.get(self.current).map_or(0, |group| group.at as usize)
    }

    /// Whether lanes are visited from the last to the first, for what depends on their order.
    pub(crate) fn reverse(&self, order: Order) -> bool {
        match order {
            Order::Forward => false,
            Order::Reverse => true,
            Order::Interleaved => self.steps.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 != 0,
        }
    }

    /// Runs until the warp waits, ends or has run `budget` instructions.
    pub(crate) fn run(&mut self, cx: &mut Context, shared: &mut Shared, mut budget: u32) -> Result<Pause, Fault> {
        let code = cx.code;
        loop {
            if self.groups.len() != 1 || self.groups[0].waits {
                if self.groups.is_empty() {
                    return Ok(Pause::Done);
                }
                self.choose(code)?;
            }
            if budget == 0 {
                return Ok(Pause::Budget);
            }
            budget -= 1;
            self.steps += 1;
            if self.steps > ENDLESS {
                return Err(Fault::Endless { instructions: self.steps, site: Site::default() });
            }
            let Group { at, lanes, .. } = self.groups[self.current];
            let instruction = &code.instructions[at as usize];
            let active = match instruction.guard {
                Some(guard) => lanes & self.pred(guard, lanes)?,
                None => lanes,
            };
            match self.execute(cx, shared, instruction, lanes, active)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(pause) => return Ok(pause),
            }
        }
    }

    /// Merges groups that have met and picks the one that is behind the others.
    fn choose(&mut self, code: &Code) -> Result<(), Fault> {
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
    fn advance(&mut self, jumping: u32, target: u32) {
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

    fn end_lanes(&mut self, ending: u32) {
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
    fn pred(&mut self, pred: Pred, needed: u32) -> Result<u32, Fault> {
        let undefined = needed & !self.preds_defined[pred.index as usize];
        if undefined != 0 {
            self.lane = undefined.trailing_zeros() as usize;
            return Err(Fault::UninitialisedRegister { register: "a predicate".to_owned(), site: Site::default() });
        }
        let held = self.preds[pred.index as usize];
        Ok(if pred.negate { !held } else { held })
    }

    fn set_pred(&mut self, pred: u32, lanes: u32, held: u32) {
        let place = &mut self.preds[pred as usize];
        *place = *place & !lanes | held & lanes;
        self.preds_defined[pred as usize] |= lanes;
    }

    /// Every lane of `lanes` must have a value in `row`.
    #[inline]
    pub(crate) fn need(&mut self, row: u32, lanes: u32, code: &Code) -> Result<(), Fault> {
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

    fn set_row(&mut self, row: u32, active: u32, value: impl Fn(&[Row], usize) -> u64) {
        for lane in lanes(active, false) {
            self.rows[row as usize][lane] = value(&self.rows, lane);
        }
        self.defined[row as usize] |= active;
    }

    /// The lanes of `active` whose named members have all come, of one member mask. None means that the group waits.
    fn members(&mut self, row: u32, active: u32, lanes_here: u32, code: &Code) -> Result<Option<u32>, Fault> {
        self.need(row, active, code)?;
        for lane in lanes(active, false) {
            let named = self.rows[row as usize][lane] as u32;
            self.lane = lane;
            // A lane that ended or that skips the instruction never comes, and a lane must name itself.
            let missing = named & !self.live | named & lanes_here & !active | 1 << lane & !named;
            if missing != 0 {
                return Err(Fault::divergent(missing));
            }
            let same = lanes(named & active, false).all(|other| self.rows[row as usize][other] as u32 == named);
            if named & !active == 0 && same {
                return Ok(Some(named));
            }
        }
        Ok(None)
    }

    /// Leaves only the members of a sync in the current group, if they have all come. Otherwise the group waits, and comes
    /// to the instruction again.
    fn gather(&mut self, row: u32, active: u32, lanes_here: u32, code: &Code) -> Result<Option<u32>, Fault> {
        let members = self.members(row, active, lanes_here, code)?;
        match members {
            Some(members) => {
                self.narrow(members);
            }
            None => self.groups[self.current].waits = true,
        }
        Ok(members)
    }

    /// Leaves only `part` of the current group to run; the rest comes to the instruction again.
    fn narrow(&mut self, part: u32) {
        let group = &mut self.groups[self.current];
        let rest = group.lanes & !part;
        group.lanes = part;
        if rest != 0 {
            let at = group.at;
            self.groups.push(Group { at, lanes: rest, waits: false });
        }
    }

    /// For a barrier that completed: the outcome of its vote, and on to the next instruction.
    pub(crate) fn leave_barrier(&mut self, outcome: Option<(Outcome, u64)>) {
        let lanes = self.live;
        match outcome {
            Some((Outcome::Row(row), value)) => self.set_row(row, lanes, |_, _| value),
            Some((Outcome::Pred(pred), value)) => self.set_pred(pred, lanes, if value != 0 { lanes } else { 0 }),
            None => {}
        }
        self.advance(0, 0);
    }

    /// The value that all live lanes have for a barrier's operand, and the lanes in which its predicate holds.
    pub(crate) fn uniform(&mut self, row: u32, code: &Code) -> Result<u32, Fault> {
        self.need(row, self.live, code)?;
        let first = self.rows[row as usize][self.live.trailing_zeros() as usize];
        match lanes(self.live, false).find(|&lane| self.rows[row as usize][lane] != first) {
            Some(lane) => Err(Fault::divergent(1 << lane)),
            None => Ok(first as u32),
        }
    }

    /// The live lanes, and those of them in which a predicate holds.
    pub(crate) fn votes(&mut self, pred: Pred) -> Result<(u32, u32), Fault> {
        Ok((self.live, self.live & self.pred(pred, self.live)?))
    }

    /// Comes to a block's barrier.
    pub(crate) fn arrive(&mut self, meeting: &mut Meeting) {
        self.knowledge.arrive(meeting, self.live, true);
    }

    /// Takes away from a block's barrier what those know who came to it.
    pub(crate) fn learn(&mut self, meeting: &Meeting) {
        self.knowledge.leave(meeting, self.live);
    }

    /// Counts what may be waiting for others. Tells whether it is their turn.
    fn wait(&mut self, progress: u64, count: u32) -> bool {
        let (waited, since) = self.waited;
        let waited = if since == progress { waited.saturating_add(count) } else { 0 };
        self.waited = (waited, progress);
        waited % PATIENCE == PATIENCE - 1
    }

    /// Whether it has waited for long while nothing happened that it may wait for.
    pub(crate) fn waits(&self, progress: u64) -> bool {
        self.waited.0 >= IN_VAIN && self.waited.1 == progress
    }

    fn execute(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        instruction: &Instruction,
        group: u32,
        active: u32,
    ) -> Result<ControlFlow<Pause>, Fault> {
        let code = cx.code;
        let go_on = Ok(ControlFlow::Continue(()));
        let mut ran = active;
        let mut rests = false;
        match &instruction.op {
            _ if active == 0 => {}
            Op::Lanes { run, dst, src, arity } => {
                for &row in &src[..usize::from(*arity)] {
                    self.need(row, active, code)?;
                }
                run(&mut self.rows, *dst, src, active);
                self.defined[*dst as usize] |= active;
            }
            Op::Convert { conversion, dst, src } => {
                self.need(*src, active, code)?;
                self.set_row(*dst, active, |rows, lane| conversion.apply(rows[*src as usize][lane]));
            }
            &Op::Move { dst, src, mask } => {
                let undefined = !self.defined[src as usize] & active;
                self.set_row(dst, active, |rows, lane| rows[src as usize][lane] & mask);
                self.defined[dst as usize] &= !undefined;
            }
            &Op::Select { dst, a, b, pred } => {
                let first = self.pred(pred, active)?;
                let defined = first & self.defined[a as usize] | !first & self.defined[b as usize];
                self.set_row(dst, active, |rows, lane| rows[if first >> lane & 1 != 0 { a } else { b } as usize][lane]);
                self.defined[dst as usize] &= defined | !active;
            }
            Op::Pack { dst, parts, bits } => {
                for &part in parts {
                    self.need(part, active, code)?;
                }
                let mask = u64::MAX >> (64 - bits);
                self.set_row(*dst, active, |rows, lane| {
                    parts.iter().rev().fold(0, |value, &part| value << bits | rows[part as usize][lane] & mask)
                });
            }
            Op::Unpack { parts, src, bits } => {
                self.need(*src, active, code)?;
                let whole = self.rows[*src as usize];
                let mask = u64::MAX >> (64 - bits);
                for (at, dst) in parts.iter().enumerate() {
                    if let Some(dst) = dst {
                        self.set_row(*dst, active, |_, lane| whole[lane] >> (at as u32 * bits) & mask);
                    }
                }
            }
            Op::Compare(compare) => {
                self.need(compare.a, active, code)?;
                self.need(compare.b, active, code)?;
                let [less, equal, neither] = (compare.run)(&self.rows, compare.a, compare.b);
                let outcomes = [less, equal, !(less | equal | neither), neither];
                let accepted = outcomes.iter().enumerate().filter(|(bit, _)| compare.accept >> bit & 1 != 0);
                let held = accepted.fold(0, |held, (_, lanes)| held | lanes);
                let (mut first, mut second) = (held, !held);
                if let Some((logic, pred)) = compare.combine {
                    let other = self.pred(pred, active)?;
                    (first, second) = (combine(logic, held, other), combine(logic, !held, other));
                }
                for (dst, held) in [(compare.dst, first), (compare.complement, second)] {
                    if let Some(dst) = dst {
                        self.set_pred(dst, active, held);
                    }
                }
                if let Some((dst, bits)) = compare.set {
                    self.set_row(dst, active, |_, lane| u64::from(first >> lane & 1) * bits);
                }
            }
            &Op::Test { test, dst, src } => {
                self.need(src, active, code)?;
                let row = &self.rows[src as usize];
                let held = (0..32).fold(0, |held, lane| held | u32::from(test(row[lane])) << lane);
                self.set_pred(dst, active, held);
            }
            &Op::Combine { logic, dst, a, b } => {
                let held = combine(logic, self.pred(a, active)?, self.pred(b, active)?);
                self.set_pred(dst, active, held);
            }
            &Op::Branch { target } => {
                self.count(cx, active);
                self.advance(active, target);
                return go_on;
            }
            Op::Table { targets, index } => {
                self.need(*index, active, code)?;
                self.count(cx, active);
                let Group { at, .. } = self.groups[self.current];
                self.groups.swap_remove(self.current);
                self.groups.extend((active != group).then_some(Group {
                    at: at + 1,
                    lanes: group & !active,
                    waits: false,
                }));
                for lane in lanes(active, false) {
                    let Some(&at) = targets.get(self.rows[*index as usize][lane] as usize) else {
                        self.groups.push(Group { at, lanes: active, waits: false });
                        self.lane = lane;
                        return Err(Fault::Trap { site: Site::default() });
                    };
                    self.groups.push(Group { at, lanes: 1 << lane, waits: false });
                }
                self.current = 0;
                return go_on;
            }
            Op::Exit => {
                self.count(cx, active);
                self.end_lanes(active);
                return go_on;
            }
            Op::Trap => {
                self.lane = active.trailing_zeros() as usize;
                return Err(Fault::Trap { site: Site::default() });
            }
            Op::Unsupported => {
                self.lane = active.trailing_zeros() as usize;
                let text = cx.module.text(&instruction.text);
                return Err(Fault::Unsupported { text, site: Site::default() });
            }
            Op::Load(load) => {
                self.load(cx, shared, load, active)?;
                rests = load.semantics.strong && self.wait(cx.progress, 1);
            }
            Op::Store(store) => self.store(cx, shared, store, active)?,
            Op::Atomic(atomic) => {
                self.atomic(cx, shared, atomic, active)?;
                rests = self.wait(cx.progress, 1);
            }
            Op::Prefetch(at) => self.prefetch(cx, at, active)?,
            Op::CopyAsync { to, from, bytes, taken } => {
                self.copy_async(cx, shared, [to, from], *bytes, *taken, active)?;
            }
            Op::CommitCopies => lanes(active, false).for_each(|lane| self.committed[lane] += 1),
            &Op::WaitCopies(newest) => self.wait_copies(cx, shared, newest, active)?,
            Op::Shuffle(shuffle) => {
                let Some(members) = self.gather(shuffle.members, active, group, code)? else { return go_on };
                ran = members;
                self.shuffle(shuffle, members, code)?;
                cx.counters.shuffles += 1;
            }
            &Op::Vote { reduction, pred, outcome, members } => {
                let Some(members) = self.gather(members, active, group, code)? else { return go_on };
                ran = members;
                let held = self.pred(pred, members)? & members;
                match (outcome, reduction) {
                    (Outcome::Row(row), _) => self.set_row(row, members, |_, _| held.into()),
                    (Outcome::Pred(dst), Some(reduction)) => {
                        let held = vote(reduction, held, members) != 0;
                        self.set_pred(dst, members, if held { members } else { 0 });
                    }
                    (Outcome::Pred(_), None) => {}
                }
            }
            &Op::Reduce { update, dst, src, members } => {
                let Some(members) = self.gather(members, active, group, code)? else { return go_on };
                ran = members;
                self.need(src, members, code)?;
                let row = self.rows[src as usize];
                let total = lanes(members, false).map(|lane| row[lane]).reduce(|a, b| update(a, b, 0)).unwrap_or(0);
                self.set_row(dst, members, |_, _| total);
            }
            &Op::ActiveMask { dst } => self.set_row(dst, active, |_, _| group.into()),
            &Op::WarpBarrier { members } => {
                let Some(members) = self.gather(members, active, group, code)? else { return go_on };
                ran = members;
                self.knowledge.sync(members, members == self.live);
            }
            &Op::Fence { scope, sc } => self.knowledge.fence(active, scope, sc),
            Op::Barrier(_) => {
                self.lane = active.trailing_zeros() as usize;
                if active != group {
                    return Err(Fault::divergent(group & !active));
                }
                if group != self.live {
                    self.groups[self.current].waits = true;
                    return go_on;
                }
                self.count(cx, active);
                cx.counters.barriers += 1;
                return Ok(ControlFlow::Break(Pause::Barrier));
            }
            Op::Nothing => {}
            Op::Yield => {
                self.wait(cx.progress, SLEEP);
                rests = true;
            }
        }
        self.count(cx, ran);
        self.advance(0, 0);
        if rests { Ok(ControlFlow::Break(Pause::Yield)) } else { go_on }
    }

    fn count(&mut self, cx: &mut Context, active: u32) {
        cx.counters.warp_instructions += 1;
        cx.counters.lane_instructions += u64::from(active.count_ones());
    }

    fn shuffle(&mut self, shuffle: &Shuffle, members: u32, code: &Code) -> Result<(), Fault> {
        self.need(shuffle.lane, members, code)?;
        self.need(shuffle.clamp, members, code)?;
        let values = self.rows[shuffle.value as usize];
        let mut in_range = 0;
        let mut out = [0; 32];
        for lane in lanes(members, false) {
            let (b, c) =
                (self.rows[shuffle.lane as usize][lane] as u32, self.rows[shuffle.clamp as usize][lane] as u32);
            let (at, b, clamp, segment) = (lane as u32, b & 0x1f, c & 0x1f, c >> 8 & 0x1f);
            let last = at & segment | clamp & !segment;
            let (source, valid) = match shuffle.mode {
                ShuffleMode::Up => (at.wrapping_sub(b), at as i32 - b as i32 >= last as i32),
                ShuffleMode::Down => (at + b, at + b <= last),
                ShuffleMode::Butterfly => (at ^ b, at ^ b <= last),
                ShuffleMode::Index => {
                    let source = at & segment | b & !segment;
                    (source, source <= last)
                }
            };
            let source = if valid { source } else { at };
            in_range |= u32::from(valid) << lane;
            self.lane = lane;
            if members >> source & 1 == 0 {
                return Err(Fault::ShuffleSource { lane: source, site: Site::default() });
            }
            self.need(shuffle.value, 1 << source, code)?;
            out[lane] = values[source as usize] & 0xffff_ffff;
        }
        self.set_row(shuffle.dst, members, |_, lane| out[lane]);
        if let Some(pred) = shuffle.in_range {
            self.set_pred(pred, members, in_range);
        }
        Ok(())
    }
}

fn combine(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The outcome of a vote in which `held` of `members` have the predicate.
pub(crate) fn vote(reduction: Reduction, held: u32, members: u32) -> u64 {
    match reduction {
        Reduction::All => u64::from(held == members),
        Reduction::Any => u64::from(held != 0),
        Reduction::Uniform => u64::from(held == 0 || held == members),
        Reduction::Count => held.count_ones().into(),
    }
}
