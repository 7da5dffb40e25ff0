//! What a launch cost, counted exactly.
use std::ops::AddAssign;

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Counts of one launch, or the sum over several.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])+ pub $name: u64,)+ }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) { $(self.$name += other.$name;)+ }
        }
    };
}

counters! {
    /// Kernel launches.
    launches,
    /// Instructions, one for each warp or part of a warp that runs them together.
    warp_instructions,
    /// Instructions, one for each lane whose guard predicate held.
    lane_instructions,
    /// For each load the number of distinct 32-byte sectors its lanes touch.
    global_load_requests,
    /// The same for each store, atomic and reduction.
    global_store_requests,
    /// 32-byte sectors read at least once in a launch.
    distinct_sectors_read,
    /// 32-byte sectors written at least once in a launch.
    distinct_sectors_written,
    /// 32-byte sectors read or written at least once in a launch.
    distinct_sectors,
    /// Passes through the 32 banks of shared memory, conflicts counted; 8- and 16-byte accesses by
    /// half and quarter warps.
    shared_wavefronts,
    /// Block barriers, one for each warp that executes one.
    barriers,
    /// Warp-level `shfl.sync` executions.
    shuffles,
    /// Atomics and reductions, one for each lane.
    atomics,
}
