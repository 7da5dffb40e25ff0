//! What a call allocates, counted by the allocator itself. One test, since the count is the
//! process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        let bytes = BYTES.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(bytes, Relaxed);
        // SAFETY: the caller's promises are the allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the allocator's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of 100 calls, after as many that start what there is to start: a thread of rayon
/// sets up its queue when it first takes work from another. The count is the whole process's, where
/// threads come and go, so the least of several counts is taken: what the calls allocate is in each
/// of them.
fn count(mut call: impl FnMut()) -> usize {
    let mut hundred = || {
        let before = CALLS.load(Relaxed);
        for _ in 0..100 {
            call();
        }
        CALLS.load(Relaxed) - before
    };
    hundred();
    (0..5).map(|_| hundred()).min().unwrap_or(usize::MAX)
}

#[test]
fn a_call_into_buffers_allocates_nothing_and_an_owned_one_its_result() {
    for (rows, classes) in [(8, 10), (3000, 100), (70, 1000), (20, 9000), (3, 100_000)] {
        let counts = ClassCounts::new(vec![7; classes]).expect("valid");
        for objective in [Objective::ala(), Objective::BalancedSoftmax] {
            let loss = Loss::builder(objective, &counts).build().expect("valid");
            let x = vec![0.5f32; rows * classes];
            let labels = vec![1u32; rows];
            let mut gradient = vec![0.0f32; rows * classes];
            let mut losses = vec![0.0f32; rows];
            let mut call = || {
                let outputs = Outputs::new()
                    .gradient(&mut gradient)
                    .row_losses(&mut losses);
                loss.evaluate_into(&x, &labels, &Options::new(), outputs)
                    .expect("valid");
            };
            let what = format!("{rows} x {classes}");
            // On a thread of the pool, as in a trainer that runs in one.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
            let pool = pool.build().expect("a thread pool");
            assert_eq!(pool.install(|| count(&mut call)), 0, "{what} in the pool");
            // From outside, rayon hands the call over through a queue that grows by blocks of 63
            // entries.
            let handed_over = if rows * classes > 64 * 1024 { 4 } else { 0 };
            let outside = count(&mut call);
            assert!(outside <= handed_over, "{what}: {outside} from outside");

            // The halves of a shard's step, of which it has all classes.
            let shard = loss.shard(0..classes).expect("valid");
            let mut records = vec![0.0; 3 * rows];
            let mut halves = || {
                let options = Options::new();
                let first = shard.partial(&x, &labels, &options, &mut records);
                first.expect("valid");
                let outputs = Outputs::new()
                    .gradient(&mut gradient)
                    .row_losses(&mut losses);
                let second = shard.finish(&x, &labels, &options, &records, outputs);
                second.expect("valid");
            };
            let halves = pool.install(|| count(&mut halves));
            assert_eq!(halves, 0, "{what} by halves");

            // Inputs and outputs, and nothing that grows with them: the peak is what the result
            // holds, to the byte but for what rayon's queue holds.
            let before = BYTES.load(Relaxed);
            PEAK.store(before, Relaxed);
            let outcome = loss.evaluate(&x, &labels).expect("valid");
            let peak = PEAK.load(Relaxed) - before;
            let result = 4 * (outcome.gradient.len() + outcome.row_losses.len());
            assert!((result..result + 4096).contains(&peak), "{what}: {peak}");
        }
    }
}
