//! What the lanes of a warp do together: shuffles, votes and barriers.

use super::order::Meeting;
use super::warp::{Group, Warp, lanes};
use crate::code::operation::{Code, Pred, Shuffle, ShuffleMode, Vote};
use crate::fault::{Fault, Site};

impl Warp {
    /// The lanes of `active` whose named members have all come, of one member mask. None means that
    /// the group waits.
    fn members(&mut self, row: u32, active: u32, lanes_here: u32, code: &Code) -> Result<Option<u32>, Fault> {
        self.need(row, active, code)?;
        for lane in lanes(active, false) {
            let named = self.rows[row as usize][lane] as u32;
            self.lane = lane;
            // A lane that ended or that skips the instruction never comes, and a lane must name
            // itself.
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

    /// Leaves only the members of a sync in the current group, if they have all come. Otherwise the
    /// group waits, and comes to the instruction again.
    pub(super) fn gather(&mut self, row: u32, active: u32, lanes_here: u32, code: &Code) -> Result<Option<u32>, Fault> {
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

    /// For a barrier that completed: the predicate that its outcome goes to, and on to the next
    /// instruction.
    pub(super) fn leave_barrier(&mut self, outcome: Option<(u32, bool)>) {
        if let Some((pred, held)) = outcome {
            self.set_pred(pred, self.live, if held { self.live } else { 0 });
        }
        self.advance(0, 0);
    }

    /// The value that all live lanes have for a barrier's operand.
    pub(super) fn uniform(&mut self, row: u32, code: &Code) -> Result<u32, Fault> {
        self.need(row, self.live, code)?;
        let first = self.rows[row as usize][self.live.trailing_zeros() as usize];
        match lanes(self.live, false).find(|&lane| self.rows[row as usize][lane] != first) {
            Some(lane) => Err(Fault::divergent(1 << lane)),
            None => Ok(first as u32),
        }
    }

    /// Whether a predicate holds in a live lane.
    pub(super) fn holds_in_any(&mut self, pred: Pred) -> Result<bool, Fault> {
        Ok(self.live & self.pred(pred, self.live)? != 0)
    }

    /// Comes to a block's barrier.
    pub(super) fn arrive(&mut self, meeting: &mut Meeting) {
        self.knowledge.arrive(meeting, self.live, true);
    }

    /// Takes away from a block's barrier what those know who came to it.
    pub(super) fn learn(&mut self, meeting: &Meeting) {
        self.knowledge.leave(meeting, self.live);
    }

    pub(super) fn vote(&mut self, vote: Vote, pred: Pred, members: u32) -> Result<(), Fault> {
        let held = self.pred(pred, members)? & members;
        match vote {
            Vote::Ballot(row) => self.set_row(row, members, |_, _| held.into()),
            Vote::Any(dst) => self.set_pred(dst, members, if held != 0 { members } else { 0 }),
        }
        Ok(())
    }

    pub(super) fn shuffle(&mut self, shuffle: &Shuffle, members: u32, code: &Code) -> Result<(), Fault> {
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
