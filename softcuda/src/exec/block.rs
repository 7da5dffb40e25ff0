//! A resident block: its warps take turns between barriers.
use super::chain::{Met, Reach, WarpChain};
use super::context::Context;
use super::execute::Pause;
use super::order::Meeting;
use super::scene::{Launch, Order, Scene, coordinates};
use super::shared::Shared;
use super::warp::Warp;
use crate::code::operation::{Code, Op};
use crate::code::special::Surroundings;
use crate::fault::{Fault, Place, Site};

/// Instructions a warp may run before another one gets its turn, so that a warp may spin on what
/// another one writes.
const TURN: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    AtBarrier(usize),
    Done,
}

/// A barrier that some warps have reached.
#[derive(Clone, Default)]
struct Arrivals {
    warps: u32,
    /// What the arrived warps know; who passes knows it too.
    meeting: Meeting,
    /// Whether the barrier's predicate holds in a thread of theirs.
    any: bool,
    met: Met,
    /// Warps to wait for, where the barrier says so.
    expected: Option<u32>,
}

/// A resident block.
pub(super) struct Slot {
    block: u32,
    ctaid: [u32; 3],
    warps: Vec<Warp>,
    states: Vec<State>,
    pub(super) running: usize,
    next: usize,
    barriers: [Arrivals; 16],
    shared: Shared,
    /// The warp whose turn was last.
    last: usize,
}

impl Slot {
    pub(super) fn new(code: &Code, threads: usize) -> Self {
        let warps: Vec<Warp> = (0..threads.div_ceil(32)).map(|index| Warp::new(code, index)).collect();
        Self {
            block: 0,
            ctaid: [0; 3],
            states: vec![State::Done; warps.len()],
            warps,
            running: 0,
            next: 0,
            barriers: Default::default(),
            shared: Shared::default(),
            last: 0,
        }
    }

    pub(super) fn start(&mut self, cx: &mut Context, block: u64) {
        let Scene { launch, code } = cx.scene;
        self.block = block as u32;
        self.ctaid = coordinates(launch.grid, block);
        self.shared.reset(&code.shared, launch.dynamic_shared);
        self.states.fill(State::Ready);
        self.running = self.warps.len();
        self.next = 0;
        self.barriers = Default::default();
        cx.progress += 1;
        let threads = launch.block.iter().product::<u32>();
        for index in 0..self.warps.len() {
            let around = self.surroundings(launch, index);
            let warp = &mut self.warps[index];
            warp.start(code, (threads - index as u32 * 32).min(32), self.block, &around);
            warp.early = if launch.overlaps { warp.live } else { 0 };
            warp.chain = cx.chains.is_some().then(|| WarpChain::new(code, Reach::default()));
        }
    }

    /// Whether all that can run here only waits for memory to change, and has for long.
    pub(super) fn waits(&self, progress: u64) -> bool {
        let mut ready = self.warps.iter().zip(&self.states).filter(|(_, state)| **state == State::Ready).peekable();
        self.running == 0 || ready.peek().is_some() && ready.all(|(warp, _)| warp.waits(progress))
    }

    fn surroundings(&self, launch: &Launch, warp: usize) -> Surroundings {
        Surroundings { block: launch.block, grid: launch.grid, ctaid: self.ctaid, warp: warp as u32 }
    }

    /// Lets one warp run. Tells whether it went to sleep.
    pub(super) fn turn(&mut self, cx: &mut Context, random: u64) -> Result<bool, Fault> {
        let count = self.warps.len();
        let (first, budget) = match cx.order {
            Order::Interleaved => (random as u32 as usize % count, 1 + (random >> 60) as u32 / 2),
            _ => (self.next, TURN),
        };
        let visit = (0..count).map(|at| match cx.order {
            Order::Reverse => count - 1 - (first + at) % count,
            _ => (first + at) % count,
        });
        let Some(index) = visit.into_iter().find(|&warp| self.states[warp] == State::Ready) else {
            let waiting = self.states.iter().filter(|state| matches!(state, State::AtBarrier(_))).count();
            let at = self.states.iter().position(|state| matches!(state, State::AtBarrier(_))).unwrap_or(0);
            let fault = Fault::Deadlock { waiting, block: self.ctaid, site: Site::default() };
            self.last = at;
            return Err(fault.at(self.place(cx.scene)));
        };
        self.last = index;
        let outcome = self.warps[index].run(cx, &mut self.shared, budget);
        let outcome = outcome.and_then(|pause| match pause {
            Pause::Budget => {
                self.next += 1;
                Ok(false)
            }
            Pause::Yield => {
                self.next += 1;
                Ok(true)
            }
            Pause::Barrier => {
                cx.progress += 1;
                self.arrive(cx.code, index).map(|()| false)
            }
            Pause::Done => {
                self.states[index] = State::Done;
                self.running -= 1;
                cx.progress += 1;
                // Who has ended is not waited for.
                (0..self.barriers.len()).try_for_each(|id| self.complete(cx.code, id)).map(|()| false)
            }
        });
        outcome.map_err(|fault| fault.at(self.place(cx.scene)))
    }

    /// A warp is at a barrier instruction.
    fn arrive(&mut self, code: &Code, index: usize) -> Result<(), Fault> {
        let warp = &mut self.warps[index];
        let Op::Barrier(barrier) = &code.instructions[warp.at()].op else { return Ok(()) };
        let id = warp.uniform(barrier.id, code)? as usize;
        let expected = match barrier.threads {
            Some(row) => Some(warp.uniform(row, code)?.div_ceil(32)),
            None => None,
        };
        let Some(arrivals) = self.barriers.get_mut(id) else {
            return Err(Fault::Unsupported { text: format!("barrier {id}"), site: Site::default() });
        };
        if arrivals.warps == 0 {
            *arrivals = Arrivals { expected, ..Arrivals::default() };
        } else if arrivals.expected != expected {
            return Err(Fault::divergent(0));
        }
        arrivals.warps += 1;
        warp.arrive(&mut arrivals.meeting);
        if let Some(chain) = &warp.chain {
            chain.arrive(&code.instructions[warp.at()], &mut arrivals.met);
        }
        if let Some((pred, _)) = barrier.any {
            arrivals.any |= warp.holds_in_any(pred)?;
        }
        self.states[index] = State::AtBarrier(id);
        self.complete(code, id)
    }

    /// Lets the warps at a barrier go on if all have come.
    fn complete(&mut self, code: &Code, id: usize) -> Result<(), Fault> {
        let arrivals = &self.barriers[id];
        if arrivals.warps == 0 || arrivals.warps < arrivals.expected.unwrap_or(self.running as u32) {
            return Ok(());
        }
        let arrivals = std::mem::take(&mut self.barriers[id]);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            if self.states[index] != State::AtBarrier(id) {
                continue;
            }
            self.states[index] = State::Ready;
            warp.learn(&arrivals.meeting);
            let instruction = &code.instructions[warp.at()];
            if let Some(chain) = &mut warp.chain {
                chain.leave(instruction, &arrivals.met);
            }
            let Op::Barrier(barrier) = &instruction.op else { continue };
            warp.leave_barrier(barrier.any.map(|(_, outcome)| (outcome, arrivals.any)));
        }
        Ok(())
    }

    /// Where the warp is whose turn was last, for a fault's message.
    pub(super) fn place(&self, scene: Scene) -> Place {
        let warp = &self.warps[self.last];
        scene.place(warp.at(), self.block, (self.last * 32 + warp.lane) as u32)
    }
}
