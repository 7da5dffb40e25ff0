//! What the threads of a warp know of the others' work, and how they come to know it: PTX's memory
//! order, simplified.
//!
//! - A barrier makes all its threads' work known to each of them, within the block and within the
//!   warp. Shuffles, votes and reductions over a warp order nothing.
//! - A release pattern is a fence and a strong write after it, or a release; an acquire pattern is
//!   a strong read and a fence after it, or an acquire. A read of what the pattern wrote, or of
//!   what atomics made of it since, brings over all that was known at the release.
//! - There are two scopes: a block, and all that is wider. A pattern reaches as far as the narrower
//!   of its two parts.
//! - `fence.sc` (`membar` is the same) is also ordered against every other one, so that the strong
//!   access may be another thread's of the block, with a barrier between the two: on the side of
//!   the release, of the acquire, or on both. Of `fence.acq_rel` this does not hold.
//!
//! The run is one of those that the program allows, and what it does decides which patterns meet: a
//! race is found in the orders of execution in which nothing orders it. Not seen: that a plain
//! write ends what was published at its place.
use std::collections::HashMap;
use std::rc::Rc;

use super::clock::{Clock, join, join_some};
use crate::code::operation::{Scope, Semantics};

/// What a fence lets later strong writes publish: a clock, and the thread's own work until `at`.
#[derive(Clone, Debug)]
struct Fenced {
    clock: Rc<Clock>,
    at: u32,
    sc: bool,
}

/// Lanes of a warp that know the same.
#[derive(Clone, Debug)]
struct Front {
    lanes: u32,
    known: Rc<Clock>,
    /// By own fences, for strong writes of either scope.
    released: [Option<Fenced>; 2],
    /// What own strong reads saw, known after a fence of either scope.
    seen: [Option<Rc<Clock>>; 2],
    /// The part of it that `fence.sc` published.
    seen_sc: Option<Rc<Clock>>,
    /// By `fence.sc` of threads met at a barrier.
    released_by_others: Option<Rc<Clock>>,
    /// What strong reads of threads met at a barrier saw, known after a `fence.sc`.
    seen_by_others: Option<Rc<Clock>>,
}

/// What the threads that come to a barrier bring with them, and take away from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meeting {
    known: Option<Rc<Clock>>,
    released: Option<Rc<Clock>>,
    seen: Option<Rc<Clock>>,
}

/// What a strong read of a location brings.
#[derive(Clone, Debug, Default)]
struct Published {
    device: Option<Rc<Clock>>,
    sc: Option<Rc<Clock>>,
    /// By the block that wrote there last, to itself.
    block: Option<(u32, Rc<Clock>)>,
}

/// The locations that strong writes published something at.
#[derive(Debug, Default)]
pub(crate) struct Locations(HashMap<u64, Published>);

/// What the lanes of one warp know.
#[derive(Debug)]
pub(crate) struct Knowledge {
    pub(crate) block: u32,
    pub(crate) warp: usize,
    /// The clock value of what is done now. It grows whenever earlier work is published.
    pub(crate) now: u32,
    fronts: Vec<Front>,
}

impl Front {
    fn new(lanes: u32) -> Self {
        Self {
            lanes,
            known: Rc::default(),
            released: [None, None],
            seen: [None, None],
            seen_sc: None,
            released_by_others: None,
            seen_by_others: None,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let same = |a: &Option<Rc<Clock>>, b: &Option<Rc<Clock>>| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let same_fence = |a: &Option<Fenced>, b: &Option<Fenced>| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(&a.clock, &b.clock) && (a.at, a.sc) == (b.at, b.sc),
            (a, b) => a.is_none() && b.is_none(),
        };
        Rc::ptr_eq(&self.known, &other.known)
            && (0..2).all(|scope| same_fence(&self.released[scope], &other.released[scope]))
            && (0..2).all(|scope| same(&self.seen[scope], &other.seen[scope]))
            && same(&self.seen_sc, &other.seen_sc)
            && same(&self.released_by_others, &other.released_by_others)
            && same(&self.seen_by_others, &other.seen_by_others)
    }
}

impl Knowledge {
    pub(crate) fn new(warp: usize) -> Self {
        Self { block: 0, warp, now: 1, fronts: Vec::new() }
    }

    /// For a block that begins: nothing is known.
    pub(crate) fn start(&mut self, block: u32, lanes: u32) {
        self.block = block;
        self.now = 1;
        self.fronts = vec![Front::new(lanes)];
    }

    /// Whether what these lanes did until `value` happened before what `lane` does now.
    pub(crate) fn knows(&self, lane: usize, block: u32, warp: usize, lanes: u32, value: u32) -> bool {
        let front = self.fronts.iter().find(|front| front.lanes >> lane & 1 != 0);
        front.is_some_and(|front| front.known.knows(block, warp, lanes, value))
    }

    /// Parts the fronts so that `lanes` are some of them whole.
    fn part(&mut self, lanes: u32) {
        for at in 0..self.fronts.len() {
            let inside = self.fronts[at].lanes & lanes;
            if inside != 0 && inside != self.fronts[at].lanes {
                let mut rest = self.fronts[at].clone();
                rest.lanes &= !lanes;
                self.fronts[at].lanes = inside;
                self.fronts.push(rest);
            }
        }
    }

    /// Makes one front of those that know the same.
    fn unite(&mut self) {
        let mut at = 0;
        while at < self.fronts.len() {
            let mut other = at + 1;
            while other < self.fronts.len() {
                if self.fronts[at].is_like(&self.fronts[other]) {
                    self.fronts[at].lanes |= self.fronts.swap_remove(other).lanes;
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// Adds a front's own work to a clock.
    fn with_own(&self, fenced: &Fenced, lanes: u32) -> Rc<Clock> {
        let mut clock = Rc::clone(&fenced.clock);
        Rc::make_mut(&mut clock).learn_lanes(self.block, self.warp, lanes, fenced.at);
        clock
    }

    /// The lanes come to a barrier. `whole`: they are all that are left of the warp.
    pub(crate) fn arrive(&mut self, meeting: &mut Meeting, lanes: u32, whole: bool) {
        self.part(lanes);
        for front in self.fronts.iter().filter(|front| front.lanes & lanes != 0) {
            join_some(&mut meeting.known, &Some(Rc::clone(&front.known)));
            if let Some(fenced) = front.released[Scope::Device as usize].as_ref().filter(|fenced| fenced.sc) {
                join_some(&mut meeting.released, &Some(self.with_own(fenced, front.lanes)));
            }
            join_some(&mut meeting.released, &front.released_by_others);
            join_some(&mut meeting.seen, &front.seen_sc);
            join_some(&mut meeting.seen, &front.seen_by_others);
        }
        let known = Rc::make_mut(meeting.known.get_or_insert_default());
        if whole {
            known.learn_warp(self.block, self.warp, self.now);
        } else {
            known.learn_lanes(self.block, self.warp, lanes, self.now);
        }
        self.now += 1;
    }

    /// The lanes leave a barrier that all have come to.
    pub(crate) fn leave(&mut self, meeting: &Meeting, lanes: u32) {
        for front in self.fronts.iter_mut().filter(|front| front.lanes & lanes != 0) {
            if let Some(known) = &meeting.known {
                front.known = Rc::clone(known);
            }
            front.released_by_others.clone_from(&meeting.released);
            front.seen_by_others.clone_from(&meeting.seen);
            front.seen_sc = None;
        }
        self.unite();
    }

    /// A barrier of lanes of this warp alone.
    pub(crate) fn sync(&mut self, lanes: u32, whole: bool) {
        let mut meeting = Meeting::default();
        self.arrive(&mut meeting, lanes, whole);
        self.leave(&meeting, lanes);
    }

    pub(crate) fn fence(&mut self, lanes: u32, scope: Scope, sc: bool) {
        self.part(lanes);
        let at = self.now;
        for front in self.fronts.iter_mut().filter(|front| front.lanes & lanes != 0) {
            let mut learn = |seen: Option<Rc<Clock>>| seen.iter().for_each(|seen| join(&mut front.known, seen));
            learn(front.seen[Scope::Block as usize].take());
            if scope == Scope::Device {
                learn(front.seen[Scope::Device as usize].take());
                if sc {
                    learn(front.seen_sc.take());
                    learn(front.seen_by_others.take());
                    front.released_by_others = None;
                }
            }
            let fenced = Some(Fenced { clock: Rc::clone(&front.known), at, sc });
            front.released[Scope::Block as usize].clone_from(&fenced);
            if scope == Scope::Device {
                front.released[Scope::Device as usize] = fenced;
            }
        }
        self.now += 1;
        self.unite();
    }

    /// A strong read by a lane; an atomic's comes before its write.
    pub(crate) fn read(&mut self, locations: &Locations, address: u64, lane: usize, semantics: Semantics) {
        let Some(published) = locations.0.get(&address) else { return };
        let device = published.device.as_ref().filter(|_| semantics.scope == Scope::Device);
        let block = published.block.as_ref().filter(|(block, _)| *block == self.block).map(|(_, clock)| clock);
        self.part(1 << lane);
        let Some(front) = self.fronts.iter_mut().find(|front| front.lanes == 1 << lane) else { return };
        if semantics.acquire {
            device.into_iter().chain(block).for_each(|clock| join(&mut front.known, clock));
        } else {
            join_some(&mut front.seen[Scope::Device as usize], &device.cloned());
            join_some(&mut front.seen[Scope::Block as usize], &block.cloned());
            if semantics.scope == Scope::Device {
                join_some(&mut front.seen_sc, &published.sc);
            }
        }
        self.unite();
    }

    /// A strong write by a lane. An atomic adds to what is published there already, another write
    /// replaces it.
    pub(crate) fn write(&mut self, locations: &mut Locations, address: u64, lane: usize, semantics: Semantics) {
        let Some(front) = self.fronts.iter().find(|front| front.lanes >> lane & 1 != 0) else { return };
        let own = |fenced: &Fenced| self.with_own(fenced, 1 << lane);
        let by_itself = semantics.release.then(|| Fenced { clock: Rc::clone(&front.known), at: self.now, sc: false });
        let [of_block, of_device] =
            [Scope::Block, Scope::Device].map(|scope| by_itself.as_ref().or(front.released[scope as usize].as_ref()));
        let mut new = Published { block: of_block.map(|fenced| (self.block, own(fenced))), ..Published::default() };
        if semantics.scope == Scope::Device {
            new.device = of_device.map(own);
            new.sc = new.device.clone().filter(|_| of_device.is_some_and(|fenced| fenced.sc));
            join_some(&mut new.sc, &front.released_by_others);
        }
        self.now += u32::from(semantics.release);
        locations.publish(address, new, semantics.atomic);
    }
}

impl Locations {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn publish(&mut self, address: u64, new: Published, adds: bool) {
        let nothing = new.device.is_none() && new.sc.is_none() && new.block.is_none();
        if !adds {
            self.0.remove(&address);
        }
        if nothing {
            return;
        }
        let place = self.0.entry(address).or_default();
        join_some(&mut place.device, &new.device);
        join_some(&mut place.sc, &new.sc);
        match (&mut place.block, new.block) {
            (Some((block, clock)), Some((other, more))) if *block == other => join(clock, &more),
            (place, Some(new)) => *place = Some(new),
            (_, None) => {}
        }
    }
}
