//! Ranks that meet.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a rank tells the others when they meet.
#[derive(Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) address: u64,
    pub(crate) event: usize,
}

/// The ranks of one communicator.
pub(crate) struct Group {
    meeting: Mutex<Meeting>,
    all_came: Condvar,
}

struct Meeting {
    /// How many came to an end.
    number: u64,
    came: usize,
    told: Vec<Told>,
    /// Of the last one.
    all: Arc<[Told]>,
}

/// One of them.
pub(crate) struct Rank {
    pub(crate) group: Arc<Group>,
    pub(crate) rank: usize,
}

static GROUPS: Mutex<BTreeMap<u64, Arc<Group>>> = Mutex::new(BTreeMap::new());

/// A number that no group has.
pub(crate) fn new_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

impl Group {
    /// The group of a number: its first rank makes it.
    pub(crate) fn of(number: u64, ranks: usize) -> Arc<Self> {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let meeting = Meeting { number: 0, came: 0, told: vec![Told::default(); ranks], all: Arc::new([]) };
            Arc::new(Self { meeting: Mutex::new(meeting), all_came: Condvar::new() })
        };
        Arc::clone(groups.entry(number).or_insert_with(new))
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ranks(&self) -> usize {
        self.meeting().told.len()
    }
}

impl Rank {
    /// Waits for all ranks, and gives what each has told, in their order.
    pub(crate) fn meet(&self, told: Told) -> Vec<Told> {
        let mut meeting = self.group.meeting();
        let number = meeting.number;
        meeting.told[self.rank] = told;
        meeting.came += 1;
        if meeting.came == meeting.told.len() {
            meeting.came = 0;
            meeting.number += 1;
            meeting.all = meeting.told.clone().into();
            self.group.all_came.notify_all();
        }
        while meeting.number == number {
            meeting = self.group.all_came.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
        meeting.all.to_vec()
    }
}
