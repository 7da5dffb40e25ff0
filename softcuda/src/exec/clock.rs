//! Vector clocks over the threads of a launch: what an access happens after.
//!
//! A clock value stands for all that a thread did until its warp's clock passed it. Threads of a
//! warp that meet at a sync are known together, so a clock holds one value a warp, and one for each
//! thread that is known further than that.
use std::rc::Rc;

/// How far the threads of one block are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    warps: [u32; 32],
    /// Threads known further than their warp, by number.
    threads: Vec<(u16, u32)>,
}

/// How far the threads of a launch are known: a view of each block of which anything is, by block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    views: Vec<(u32, Rc<View>)>,
}

impl View {
    fn knows(&self, warp: usize, lanes: u32, value: u32) -> bool {
        let known = |lane: u32| {
            let thread = (warp as u32 * 32 + lane) as u16;
            self.threads.iter().any(|&(known, until)| known == thread && until >= value)
        };
        self.warps[warp] >= value || (0..32).filter(|lane| lanes >> lane & 1 != 0).all(known)
    }

    fn learn_thread(&mut self, thread: u16, value: u32) {
        if self.warps[usize::from(thread / 32)] >= value {
            return;
        }
        match self.threads.binary_search_by_key(&thread, |known| known.0) {
            Ok(at) => self.threads[at].1 = self.threads[at].1.max(value),
            Err(at) => self.threads.insert(at, (thread, value)),
        }
    }

    fn learn_warp(&mut self, warp: usize, value: u32) {
        self.warps[warp] = self.warps[warp].max(value);
        let warps = &self.warps;
        self.threads.retain(|&(thread, known)| known > warps[usize::from(thread / 32)]);
    }

    /// Whether the other one knows nothing more.
    fn covers(&self, other: &Self) -> bool {
        self.warps.iter().zip(&other.warps).all(|(own, other)| own >= other)
            && other
                .threads
                .iter()
                .all(|&(thread, value)| self.knows(usize::from(thread / 32), 1 << (thread % 32), value))
    }

    fn join(&mut self, other: &Self) {
        for (own, other) in self.warps.iter_mut().zip(&other.warps) {
            *own = (*own).max(*other);
        }
        let warps = &self.warps;
        self.threads.retain(|&(thread, known)| known > warps[usize::from(thread / 32)]);
        other.threads.iter().for_each(|&(thread, value)| self.learn_thread(thread, value));
    }
}

impl Clock {
    /// Whether what these lanes did until `value` happened before.
    pub(crate) fn knows(&self, block: u32, warp: usize, lanes: u32, value: u32) -> bool {
        let found = self.views.binary_search_by_key(&block, |view| view.0);
        found.is_ok_and(|at| self.views[at].1.knows(warp, lanes, value))
    }

    fn view(&mut self, block: u32) -> &mut View {
        let at = match self.views.binary_search_by_key(&block, |view| view.0) {
            Ok(at) => at,
            Err(at) => {
                self.views.insert(at, (block, Rc::default()));
                at
            }
        };
        Rc::make_mut(&mut self.views[at].1)
    }

    /// All lanes of a warp are known until `value`.
    pub(crate) fn learn_warp(&mut self, block: u32, warp: usize, value: u32) {
        self.view(block).learn_warp(warp, value);
    }

    /// These lanes of a warp are known until `value`.
    pub(crate) fn learn_lanes(&mut self, block: u32, warp: usize, lanes: u32, value: u32) {
        let view = self.view(block);
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            view.learn_thread((warp as u32 * 32 + lane) as u16, value);
        }
    }

    fn covers(&self, other: &Self) -> bool {
        other.views.iter().all(|(block, theirs)| {
            let found = self.views.binary_search_by_key(block, |view| view.0);
            found.is_ok_and(|at| Rc::ptr_eq(&self.views[at].1, theirs) || self.views[at].1.covers(theirs))
        })
    }

    fn join(&mut self, other: &Self) {
        for (block, theirs) in &other.views {
            match self.views.binary_search_by_key(block, |view| view.0) {
                Err(at) => self.views.insert(at, (*block, Rc::clone(theirs))),
                Ok(at) => {
                    let own = &mut self.views[at].1;
                    if Rc::ptr_eq(own, theirs) || own.covers(theirs) {
                    } else if theirs.covers(own) {
                        *own = Rc::clone(theirs);
                    } else {
                        Rc::make_mut(own).join(theirs);
                    }
                }
            }
        }
    }
}

/// Adds what `more` knows. Clocks are shared by all who know the same, and copied only where they
/// part.
pub(crate) fn join(clock: &mut Rc<Clock>, more: &Rc<Clock>) {
    if Rc::ptr_eq(clock, more) || clock.covers(more) {
    } else if more.covers(clock) {
        *clock = Rc::clone(more);
    } else {
        Rc::make_mut(clock).join(more);
    }
}

/// The same where either may be missing.
pub(crate) fn join_some(clock: &mut Option<Rc<Clock>>, more: &Option<Rc<Clock>>) {
    match (clock, more) {
        (_, None) => {}
        (Some(clock), Some(more)) => join(clock, more),
        (clock, more) => clock.clone_from(more),
    }
}
