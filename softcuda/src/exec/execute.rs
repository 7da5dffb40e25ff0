//! The instructions of a warp, one after another.

use super::context::Context;
use super::shared::Shared;
use super::warp::{Group, Warp};
use crate::code::operation::{Instruction, Op};
use crate::fault::{Fault, Site};

/// Why a warp stopped running.
#[derive(Clone, Debug)]
pub(super) enum Pause {
    Budget,
    /// It sleeps, or asks again and again for what others write.
    Yield,
    /// All live lanes are at a block barrier.
    Barrier,
    Done,
}

/// What becomes of a group after an instruction.
enum Flow {
    /// These lanes have executed it, and the group goes on.
    Next(u32),
    /// The same, but others have their turn first.
    Rest(u32),
    /// It waits for other lanes, and comes to the instruction again.
    Again,
    Jump(u32),
    End,
    Barrier,
}

/// No kernel of ours comes near; a warp that passes it spins.
const ENDLESS: u64 = 1 << 26;
/// Strong reads that a sleep counts for.
const SLEEP: u32 = 1 << 6;

impl Warp {
    /// Runs until the warp waits, ends or has run `budget` instructions.
    pub(super) fn run(&mut self, cx: &mut Context, shared: &mut Shared, mut budget: u32) -> Result<Pause, Fault> {
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
            let flow = if active == 0 { Flow::Next(0) } else { self.execute(cx, shared, instruction, lanes, active)? };
            if let Some(pause) = self.follow(cx, instruction, flow, active) {
                return Ok(pause);
            }
        }
    }

    /// Counts an instruction and goes where it leads.
    #[inline]
    fn follow(&mut self, cx: &mut Context, instruction: &Instruction, flow: Flow, active: u32) -> Option<Pause> {
        let ran = match flow {
            Flow::Again => return None,
            Flow::Next(ran) | Flow::Rest(ran) => ran,
            Flow::Jump(_) | Flow::End | Flow::Barrier => active,
        };
        cx.counters.warp_instructions += 1;
        cx.counters.lane_instructions += u64::from(ran.count_ones());
        if ran != 0 {
            instruction.count();
        }
        // At a barrier it is told of by the block.
        if let (Some(chain), Some(chains)) = (&mut self.chain, &mut cx.chains)
            && !matches!(flow, Flow::Barrier)
        {
            let ends = cx.code.leads[self.groups[self.current].at as usize + 1];
            chain.step(chains, instruction, self.moved, (ran != 0, ran != self.live), ends);
        }
        match flow {
            Flow::Jump(target) => self.advance(active, target),
            Flow::End => self.end_lanes(active),
            Flow::Barrier => {
                cx.counters.barriers += 1;
                return Some(Pause::Barrier);
            }
            _ => self.advance(0, 0),
        }
        matches!(flow, Flow::Rest(_)).then_some(Pause::Yield)
    }

    /// Executes an instruction in the `active` ones of a group's lanes.
    fn execute(
        &mut self,
        cx: &mut Context,
        shared: &mut Shared,
        instruction: &Instruction,
        group: u32,
        active: u32,
    ) -> Result<Flow, Fault> {
        let code = cx.code;
        let (mut ran, mut rests) = (active, false);
        match &instruction.op {
            Op::Lanes { run, dst, src, arity } => self.compute(*run, *dst, (src, *arity), active, code)?,
            &Op::Move { dst, src, mask } => self.copy(dst, src, mask, active),
            &Op::Select { dst, a, b, pred } => self.select(dst, [a, b], pred, active)?,
            Op::Pack { dst, parts, bits } => self.pack(*dst, parts, *bits, active, code)?,
            Op::Unpack { parts, src, bits } => self.unpack(parts, *src, *bits, active, code)?,
            Op::Compare(compare) => self.compare(compare, active, code)?,
            &Op::Combine { logic, dst, a, b } => self.combine(logic, dst, [a, b], active)?,
            &Op::Branch { target } => return Ok(Flow::Jump(target)),
            Op::Exit => return Ok(Flow::End),
            Op::Trap | Op::Unsupported => return Err(self.stop(cx, instruction, active)),
            Op::Load(load) => {
                self.load(cx, shared, load, active)?;
                rests = load.semantics.strong && self.wait(cx.progress, 1);
            }
            Op::Store(store) => self.store(cx, shared, store, active)?,
            Op::Atomic(atomic) => {
                self.atomic(cx, shared, atomic, active)?;
                rests = self.wait(cx.progress, 1);
            }
            Op::Prefetch { at } => self.prefetch(cx, at, active)?,
            Op::Copy(copy) => self.start_copy(cx, shared, copy, active)?,
            Op::WaitForCopies => self.end_copies(cx, shared, active)?,
            Op::Shuffle(shuffle) => {
                let Some(members) = self.gather(shuffle.members, active, group, code)? else { return Ok(Flow::Again) };
                self.shuffle(shuffle, members, code)?;
                cx.counters.shuffles += 1;
                ran = members;
            }
            &Op::Vote { vote, pred, members } => {
                let Some(members) = self.gather(members, active, group, code)? else { return Ok(Flow::Again) };
                self.vote(vote, pred, members)?;
                ran = members;
            }
            &Op::WarpBarrier { members } => {
                let Some(members) = self.gather(members, active, group, code)? else { return Ok(Flow::Again) };
                self.knowledge.sync(members, members == self.live);
                ran = members;
            }
            &Op::Fence { scope, sc } => self.knowledge.fence(active, scope, sc),
            Op::Barrier(_) => return self.barrier(group, active),
            Op::WaitForEarlier => self.early &= !active,
            Op::LetLaterBegin => {}
            Op::Yield => {
                self.wait(cx.progress, SLEEP);
                rests = true;
            }
        }
        Ok(if rests { Flow::Rest(ran) } else { Flow::Next(ran) })
    }

    /// Comes to a block's barrier, once all of the warp has.
    fn barrier(&mut self, group: u32, active: u32) -> Result<Flow, Fault> {
        self.lane = active.trailing_zeros() as usize;
        if active != group {
            return Err(Fault::divergent(group & !active));
        }
        if group != self.live {
            self.groups[self.current].waits = true;
            return Ok(Flow::Again);
        }
        Ok(Flow::Barrier)
    }

    /// The fault of a trap, or of an instruction that nobody knows.
    fn stop(&mut self, cx: &Context, instruction: &Instruction, active: u32) -> Fault {
        self.lane = active.trailing_zeros() as usize;
        match instruction.op {
            Op::Trap => Fault::Trap { site: Site::default() },
            _ => Fault::Unsupported { text: cx.module.text(&instruction.text), site: Site::default() },
        }
    }
}
