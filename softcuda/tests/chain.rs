//! The longest chain of dependent operations, added up by hand from the latencies.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use device::{Device, ORDERS};
use softcuda::exec::{Chain, Order, Reach};

const PARAM: u64 = 4;
const ADD: u64 = 4;
const DOUBLE: u64 = 8;
const EX2: u64 = 23;
const SHARED: u64 = 29;
const SHUFFLE: u64 = 29;
const BARRIER: u64 = 29;
const L2: u64 = 278;
const DRAM: u64 = 472;

/// Cycles within the multiprocessor and those of global memory, and its round trips.
fn reach(own: u64, global: u64, trips: u64) -> Reach {
    Reach { cycles: own + global, global, trips }
}

/// Runs a kernel on `in` and `out`, 64 words each, and gives its chains and the one to the last
/// store to `out`.
fn run(order: Order, grid: u32, block: u32, body: &str) -> (Chain, Reach) {
    let body = format!("ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; {body}");
    let mut device = Device::kernel(".param .u64 in, .param .u64 out", &body);
    device.order = order;
    let (input, out) = (device.upload_u32(&[0; 64]), device.upload_u32(&[0; 64]));
    let params = [input, out].map(u64::to_le_bytes).concat();
    let (_, chain) = device.run_with_chain("k", grid, block, &params).unwrap_or_else(|fault| panic!("{fault}"));
    let stored = chain.stores.get(&out).copied().unwrap_or_default();
    (chain, stored)
}

/// The same of one block in every order of execution.
fn one(block: u32, body: &str) -> (Reach, Reach) {
    let all = ORDERS.map(|order| {
        let (chain, stored) = run(order, 1, block, body);
        assert!(!chain.spins);
        (chain.end, stored)
    });
    assert_eq!(all, [all[0]; 3], "{body}");
    all[0]
}

#[test]
fn what_depends_on_one_another_adds_up_and_what_does_not_does_not() {
    let two =
        "ld.global.u32 %r1, [%d0]; ld.global.u32 %r2, [%d0+128]; add.u32 %r3, %r1, %r2; st.global.u32 [%d1], %r3;";
    let stored = reach(PARAM + ADD, DRAM, 1);
    // The end waits for the store.
    assert_eq!(one(1, two), (reach(PARAM + ADD, DRAM + L2, 2), stored));
    let chase = "ld.global.u32 %r1, [%d0]; cvt.u64.u32 %d2, %r1; add.u64 %d3, %d0, %d2; ld.global.u32 %r2, [%d3+128];
        st.global.u32 [%d1], %r2;";
    assert_eq!(one(1, chase).1, reach(PARAM + 2 * ADD, DRAM + DRAM, 2));
}

#[test]
fn each_kind_has_its_latency() {
    let after = |body: &str| one(32, &format!("{body} st.global.u32 [%d1], %r9;")).1;
    let mixed = "mov.f32 %f1, 0f3F800000; ex2.approx.ftz.f32 %f2, %f1; mov.b32 %r9, %f2;";
    assert_eq!(after(mixed), reach(ADD + EX2 + ADD, 0, 0));
    let double = "cvt.f64.f32 %d3, 0f3F800000; add.f64 %d4, %d3, %d3; cvt.rn.f32.f64 %f2, %d4; mov.b32 %r9, %f2;";
    assert_eq!(after(double), reach(3 * DOUBLE + ADD, 0, 0));
    let shuffled = "mov.u32 %r1, 7; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;";
    assert_eq!(after(shuffled), reach(ADD + SHUFFLE, 0, 0));
    // Touched before: from L2.
    let again = "ld.global.u32 %r1, [%d0]; cvt.u64.u32 %d2, %r1; add.u64 %d3, %d0, %d2; ld.global.u32 %r9, [%d3];";
    assert_eq!(after(again), reach(PARAM + 2 * ADD, DRAM + L2, 2));
}

#[test]
fn within_a_basic_block_loads_do_not_wait_for_one_another_and_over_its_border_they_do() {
    let turn = |at: u32| format!("ld.global.u32 %r1, [%d0+{at}]; add.u32 %r9, %r9, %r1;");
    let start = "mov.u32 %r9, 0;";
    let end = "st.global.u32 [%d1], %r9;";
    let straight: String = [0, 64, 128].into_iter().map(turn).collect();
    assert_eq!(one(1, &format!("{start} {straight} {end}")).1, reach(PARAM + 3 * ADD, DRAM, 1));
    // Each turn's addition has to begin before the next turn does.
    let looped = "mov.u32 %r9, 0; mov.u32 %r2, 0; mov.u64 %d2, %d0;
        again: ld.global.u32 %r1, [%d2]; add.u32 %r9, %r9, %r1; add.u64 %d2, %d2, 64; add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 3; @%p1 bra again; st.global.u32 [%d1], %r9;";
    assert_eq!(one(1, looped).1, reach(PARAM + ADD + ADD, 3 * DRAM, 3));
}

#[test]
fn a_branch_waits_for_its_predicate() {
    let skipped = "ld.global.u32 %r1, [%d0]; setp.ne.u32 %p1, %r1, 0; @%p1 bra over; add.u32 %r2, %r0, 1;
        over: st.global.u32 [%d1], 7;";
    assert_eq!(one(1, skipped).1, reach(PARAM + ADD, DRAM, 1));
    // What is done where a predicate holds waits alone.
    let guarded =
        "ld.global.u32 %r1, [%d0]; setp.ne.u32 %p1, %r1, 0; @%p1 add.u32 %r2, %r0, 1; st.global.u32 [%d1], 7;";
    assert_eq!(one(1, guarded).1, reach(PARAM, 0, 0));
}

#[test]
fn what_is_written_in_some_lanes_is_as_late_as_what_was_there() {
    let partly =
        "ld.global.u32 %r9, [%d0]; setp.eq.u32 %p1, %r0, 0; @%p1 mov.u32 %r9, 7; @%p1 st.global.u32 [%d1], %r9;";
    assert_eq!(one(2, partly).1, reach(PARAM, DRAM, 1));
}

#[test]
fn a_barrier_waits_for_what_has_begun_in_every_warp() {
    let first = "setp.gt.u32 %p1, %r0, 31;";
    let end = "bar.sync 0; @%p1 st.global.u32 [%d1], 7;";
    // Nobody uses what the first warp loads.
    let unused = format!("{first} @%p1 bra over; ld.global.u32 %r1, [%d0]; over: {end}");
    assert_eq!(one(64, &unused).1, reach(2 * ADD + BARRIER, 0, 0));
    let used = format!("{first} @%p1 bra over; ld.global.u32 %r1, [%d0]; add.u32 %r2, %r1, 1; over: {end}");
    assert_eq!(one(64, &used).1, reach(2 * ADD + BARRIER, DRAM, 1));
}

#[test]
fn a_load_waits_for_stores_before_it_in_its_space() {
    let through = "mov.u32 %r1, 7; st.shared.u32 [words], %r1; ld.shared.u32 %r9, [words];
        st.global.u32 [%d1], %r9;";
    assert_eq!(one(1, &format!(".shared .u32 words; {through}")).1, reach(ADD + SHARED, 0, 0));
    let waits =
        "ld.global.u32 %r1, [%d0]; st.global.u32 [%d1+4], %r1; ld.global.u32 %r2, [%d0+128]; st.global.u32 [%d1], %r2;";
    assert_eq!(one(1, waits).1, reach(PARAM, 2 * DRAM, 2));
    let read_only = waits.replace("ld.global.u32 %r2", "ld.global.nc.u32 %r2");
    assert_eq!(one(1, &read_only).1, reach(PARAM, DRAM, 1));
}

#[test]
fn copies_wait_for_none_and_who_waits_for_them_waits_for_the_last() {
    let start = ".shared .align 4 .b8 s[256]; mov.u32 %r1, s;";
    let copy = |at: u32| format!("cp.async.ca.shared.global [%r1+{at}], [%d0+{at}], 4;");
    let read = "ld.shared.u32 %r9, [%r1+128]; st.global.u32 [%d1], %r9;";
    let body = format!("{start} {} bra next; next: {} cp.async.wait_all; {read}", copy(0), copy(128));
    assert_eq!(one(1, &body).1, reach(PARAM + SHARED + SHARED, DRAM, 1));
}

#[test]
fn a_release_waits_for_stores_and_an_acquire_holds_up_what_follows() {
    let atomic = |kind: &str| {
        format!("st.global.u32 [%d1+4], 7; atom.{kind}.gpu.global.add.u32 %r1, [%d0], 1; st.global.u32 [%d1], 7;")
    };
    assert_eq!(one(1, &atomic("relaxed")).1, reach(PARAM, 0, 0));
    assert_eq!(one(1, &atomic("release")).1, reach(PARAM, L2, 1));
    assert_eq!(one(1, &atomic("acquire")).1, reach(PARAM, DRAM, 1));
    assert_eq!(one(1, &atomic("acq_rel")).1, reach(PARAM, L2 + DRAM, 2));
    let fenced = "st.global.u32 [%d1+4], 7; fence.acq_rel.gpu; st.global.u32 [%d1], 7;";
    assert_eq!(one(1, fenced).1, reach(PARAM, L2, 1));
}

/// Every block counts itself; the first has a load to wait for before.
#[test]
fn the_last_block_waits_for_the_others_atomics() {
    let body = "mov.u32 %r3, %ctaid.x; setp.ne.u32 %p1, %r3, 0; @%p1 bra over; ld.global.u32 %r1, [%d0+128]; add.u32 %r2, %r1, 1;
        over: atom.acquire.gpu.global.add.u32 %r4, [%d0], 1; setp.ne.u32 %p2, %r4, 2; @%p2 bra done; st.global.u32 [%d1], 7; done:";
    let (_, stored) = run(Order::Forward, 3, 1, body);
    // All three are done as the first one's arrives.
    assert_eq!(stored, reach(2 * ADD + ADD, DRAM + DRAM, 2));
}

#[test]
fn who_asks_again_and_again_is_told_of() {
    let body = "again: ld.relaxed.gpu.global.u32 %r1, [%d0]; setp.ne.u32 %p1, %r1, 0; @%p1 bra again;";
    assert!(run(Order::Forward, 1, 1, body).0.spins);
}
