//! The memory order: what threads tell one another in order passes, and with one thing missing it
//! is reported, whatever the order of execution.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use device::{Device, ORDERS};
use softcuda::fault::{Access, Fault};

const ORDER: &str = include_str!("ptx/order.ptx");
const BLOCKS: u32 = 6;

/// Runs a kernel on `(data, flag, out)`; gives what is in `out`, or the fault.
fn run(device: &mut Device, kernel: &str, grid: u32, block: u32) -> Result<Vec<u32>, Fault> {
    let data = device.upload_u32(&(0..512).map(|index| 1000 + index).collect::<Vec<_>>());
    let (flag, out) = (device.upload_u32(&[0]), device.upload_u32(&[0; 512]));
    device.run(kernel, grid, block, &[data, flag, out])?;
    Ok(device.u32s(out, 512))
}

/// The same in every order of execution.
fn runs(kernel: &str, grid: u32, block: u32) -> Vec<Result<Vec<u32>, Fault>> {
    let run = |order| {
        let mut device = Device::new(ORDER);
        device.order = order;
        run(&mut device, kernel, grid, block)
    };
    ORDERS.into_iter().map(run).collect()
}

/// What a sound kernel leaves.
fn passes(kernel: &str, grid: u32, block: u32) -> Vec<u32> {
    let mut outs =
        runs(kernel, grid, block).into_iter().map(|out| out.unwrap_or_else(|fault| panic!("{kernel}: {fault}")));
    let first = outs.next().unwrap();
    assert!(outs.all(|out| out == first), "{kernel}");
    first
}

/// All orders report a race in global memory.
fn races(kernel: &str, grid: u32, block: u32) {
    for (order, outcome) in ORDERS.into_iter().zip(runs(kernel, grid, block)) {
        let fault = outcome.expect_err(kernel);
        assert!(matches!(fault, Fault::GlobalRace { .. }), "{kernel}, {order:?}: {fault}");
    }
}

/// All orders report a race in shared memory.
fn races_in_shared(kernel: &str, block: u32) {
    for (order, outcome) in ORDERS.into_iter().zip(runs(kernel, 1, block)) {
        let fault = outcome.expect_err(kernel);
        assert!(matches!(fault, Fault::SharedRace { .. }), "{kernel}, {order:?}: {fault}");
    }
}

#[test]
fn the_last_block_sees_what_was_released_before_it_counted() {
    assert_eq!(passes("last_block", BLOCKS, 64)[0], BLOCKS * (BLOCKS + 1) / 2);
    races("last_block_without_release", BLOCKS, 64);
    races("last_block_without_acquire", BLOCKS, 64);
    races("last_block_with_fence_of_block", BLOCKS, 64);
    // By the atomic itself, which has to do both.
    assert_eq!(passes("counted_acq_rel", BLOCKS, 64)[0], BLOCKS * (BLOCKS + 1) / 2);
    races("counted_release", BLOCKS, 64);
    races("counted_acquire", BLOCKS, 64);
}

#[test]
fn fences_of_other_threads_count_where_they_are_sequentially_consistent() {
    races("last_block_released_by_weaker_fence", BLOCKS, 64);
    races("last_block_acquired_by_weaker_fence", BLOCKS, 64);
    assert_eq!(passes("counted_by_one", 2, 64)[0], 63 * 64 / 2);
    races("counted_by_one_without_fence", 2, 64);
}

#[test]
fn a_message_needs_a_release_and_an_acquire() {
    for kernel in ["message", "message_fences", "message_volatile", "message_by_atomics"] {
        let out = passes(kernel, BLOCKS, 32);
        assert_eq!(out[1..BLOCKS as usize], [42; BLOCKS as usize - 1], "{kernel}");
    }
    for kernel in [
        "message_relaxed_store",
        "message_relaxed_load",
        "message_acquired_for_block",
        "message_volatile_without_fence",
        "message_plain_flag",
    ] {
        races(kernel, BLOCKS, 32);
    }
}

#[test]
fn what_is_read_as_read_only_is_written_by_nobody() {
    for (order, outcome) in ORDERS.into_iter().zip(runs("message_read_only", 2, 32)) {
        let fault = outcome.unwrap_err();
        let Fault::NotReadOnly { access: Access::Read, other: Access::Write, .. } = fault else {
            panic!("{order:?}: {fault}")
        };
    }
    // The write comes later, and in another block; a thread's own is let be.
    let body = |guard: &str| {
        format!(
            "ld.param.u64 %d0, [at]; mov.u32 %r1, %ctaid.x; ld.global.nc.u32 %r2, [%d0]; setp.eq.u32 %p1, %r1, 1;
            {guard} st.global.u32 [%d0], 1;"
        )
    };
    for (guard, grid, sound) in [("@%p1", 2, false), ("@!%p1", 1, true)] {
        let mut device = Device::kernel(".param .u64 at", &body(guard));
        let at = device.upload_u32(&[0]);
        let outcome = device.run("k", grid, 1, &[at]);
        assert!(matches!((&outcome, sound), (Ok(_), true) | (Err(Fault::NotReadOnly { .. }), false)), "{outcome:?}");
    }
}

#[test]
fn atomics_race_with_plain_accesses_and_not_with_one_another() {
    let sum = BLOCKS * (BLOCKS - 1) / 2;
    assert_eq!(passes("atomic_sum", BLOCKS, 32)[0], sum + 1000);
    assert_eq!(passes("atomic_sum_read_atomically", BLOCKS, 32)[0], sum + 1000);
    races("atomic_sum_read_plainly", BLOCKS, 32);
    assert_eq!(passes("all_blocks_exchange_one", BLOCKS, 32)[0], 7);
    races("all_blocks_write_one", BLOCKS, 32);
    passes("counter_is_reset_by_the_last", BLOCKS, 32);
    passes("flag_is_reset_by_its_reader", 2, 32);
    races("counter_is_reset_by_another", BLOCKS, 32);
}

#[test]
fn a_plain_write_before_an_atomic_of_the_same_thread_is_not_forgotten() {
    // Thread 0 sets a cell plainly and adds to it; the other block only adds.
    let mut device = Device::kernel(
        ".param .u64 at",
        "ld.param.u64 %d0, [at]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0;
        @%p1 st.global.u32 [%d0], 5; atom.global.add.u32 %r2, [%d0], 1;",
    );
    let at = device.upload_u32(&[0]);
    let fault = device.run("k", 2, 1, &[at]).unwrap_err();
    assert!(matches!(fault, Fault::GlobalRace { other: Access::Write, .. }), "{fault}");
}

#[test]
fn a_race_tells_of_both_accesses() {
    let mut device = Device::new(ORDER);
    let fault = run(&mut device, "all_blocks_write_one", 2, 32).unwrap_err();
    let Fault::GlobalRace { access: Access::Write, other: Access::Write, ref earlier, ref site, .. } = fault else {
        panic!("{fault}")
    };
    let (earlier, site) = (earlier.0.as_ref().unwrap(), site.0.as_ref().unwrap());
    assert_eq!((earlier.block, site.block), ([0, 0, 0], [1, 0, 0]));
    assert_eq!((earlier.thread, site.thread), ([0, 0, 0], [0, 0, 0]));
    assert_eq!((&earlier.kernel, &earlier.text, earlier.line), (&site.kernel, &site.text, site.line));
    let text = fault.to_string();
    assert_eq!(text.matches("st.global.u32").count(), 2, "{text}");
    assert!(text.contains("byte 0 of the allocation of 2048 bytes"), "{text}");
}

#[test]
fn launches_are_ordered_after_one_another() {
    let mut device = Device::new(ORDER);
    let (data, flag, out) = (device.upload_u32(&[0]), device.upload_u32(&[0]), device.upload_u32(&[0]));
    for _ in 0..3 {
        device.run("all_blocks_write_one", 1, 32, &[data, flag, out]).unwrap();
        device.run("all_blocks_exchange_one", 2, 32, &[data, flag, out]).unwrap();
    }
}

#[test]
fn pieces_of_a_word_belong_to_their_threads() {
    // Every thread writes a byte of its own; thread 0 then reads its word after a barrier, or
    // before it.
    let body = |barrier: &str| {
        format!(
            "ld.param.u64 %d0, [at]; cvt.u64.u32 %d1, %r0; add.u64 %d1, %d0, %d1; ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%d0+64];
            st.global.u8 [%d1], %r0; {barrier} setp.eq.u32 %p1, %r0, 0; @%p1 ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%d0];"
        )
    };
    // And the other way round: what was written as a whole is read by bytes.
    let whole = |barrier: &str| {
        format!(
            "ld.param.u64 %d0, [at]; setp.eq.u32 %p1, %r0, 0; @%p1 st.global.v4.u32 [%d0], {{%r0, %r0, %r0, %r0}}; {barrier}
            setp.eq.u32 %p2, %r0, 32; @%p2 ld.global.u8 %r1, [%d0+13];"
        )
    };
    for (barrier, sound) in [("bar.sync 0;", true), ("", false)] {
        for body in [body(barrier), whole(barrier)] {
            let mut device = Device::kernel(".param .u64 at", &body);
            let at = device.upload_u32(&[0; 32]);
            let outcome = device.run("k", 1, 64, &[at]);
            assert!(matches!((&outcome, sound), (Ok(_), true) | (Err(Fault::GlobalRace { .. }), false)), "{outcome:?}");
        }
    }
}

#[test]
fn warps_of_a_block_are_ordered_by_its_barriers() {
    let out = passes("warps", 1, 64);
    assert_eq!(out[..64], (0..64).map(|thread| thread ^ 32).collect::<Vec<_>>());
    races("warps_without_barrier", 1, 64);
    assert_eq!(passes("flag_in_block", 1, 64)[0], 1000);
    races_in_shared("flag_in_block_without_fence", 64);
}

#[test]
fn lanes_are_ordered_by_warp_barriers_alone() {
    for (kernel, distance) in [("lanes", 1), ("lanes_of_half_warps", 8)] {
        let out = passes(kernel, 1, 64);
        assert_eq!(out[..64], (0..64).map(|thread| 1000 + (thread ^ distance)).collect::<Vec<_>>(), "{kernel}");
    }
    for kernel in
        ["lanes_in_lockstep", "lanes_of_other_halves", "lanes_after_shuffle", "lanes_after_vote", "lanes_after_fence"]
    {
        races_in_shared(kernel, 64);
    }
    let out = passes("lanes_through_global", 1, 64);
    assert_eq!(out[..64], (0..64).map(|thread| thread ^ 1).collect::<Vec<_>>());
    races("lanes_through_global_in_lockstep", 1, 64);
    passes("lanes_write_after_read", 1, 64);
    races("lanes_write_after_read_in_lockstep", 1, 64);
}

#[test]
fn a_lane_speaks_for_those_it_has_met() {
    passes("spokesman", BLOCKS, 32);
    races("spokesman_for_nobody", BLOCKS, 32);
    races("spokesman_unheard", BLOCKS, 32);
    assert_eq!(passes("heard_by_a_lane", 2, 32)[1], 42);
    races("heard_by_a_lane_alone", 2, 32);
}

#[test]
fn blocks_that_wait_for_one_another_must_all_be_resident() {
    for kernel in ["all_meet", "all_meet_by_atomics", "all_meet_asleep"] {
        for order in ORDERS {
            let mut device = Device::new(ORDER);
            (device.order, device.resident) = (order, BLOCKS as usize);
            let out = run(&mut device, kernel, BLOCKS, 64).unwrap_or_else(|fault| panic!("{kernel}: {fault}"));
            assert_eq!(out[..BLOCKS as usize], [1; BLOCKS as usize]);
            device.resident -= 2;
            let fault = run(&mut device, kernel, BLOCKS, 64).expect_err(kernel);
            let Fault::BlockDeadlock { resident: 4, to_come: 2, ref site } = fault else { panic!("{kernel}: {fault}") };
            assert_eq!((&*site.0.as_ref().unwrap().kernel, site.0.as_ref().unwrap().thread), (kernel, [0, 0, 0]));
        }
    }
}

#[test]
fn waiting_for_what_nobody_writes_is_a_deadlock() {
    for fault in runs("one_too_many_is_met", BLOCKS, 32) {
        let fault = fault.unwrap_err();
        assert!(matches!(fault, Fault::BlockDeadlock { resident: 6, to_come: 0, .. }), "{fault}");
    }
}

#[test]
fn work_that_takes_long_is_no_deadlock() {
    // A warp computes for longer than the others are patient, and only then writes what they wait
    // for.
    let mut device = Device::kernel(
        ".param .u64 at",
        "ld.param.u64 %d0, [at]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 bra WORK;
        WAIT: ld.relaxed.gpu.global.u32 %r2, [%d0]; setp.eq.u32 %p2, %r2, 0; @%p2 bra WAIT; bra.uni END;
        WORK: mov.u32 %r3, 0;
        MORE: add.u32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 2000000; @%p3 bra MORE;
        st.relaxed.gpu.global.u32 [%d0], %r3; END:",
    );
    for order in ORDERS {
        device.order = order;
        let at = device.upload_u32(&[0]);
        device.run("k", 3, 1, &[at]).unwrap_or_else(|fault| panic!("{order:?}: {fault}"));
    }
}

#[test]
fn blocks_that_take_turns_are_no_deadlock() {
    // Each waits for far longer than is taken for a deadlock, but never while nothing happens.
    let mut device = Device::kernel(
        ".param .u64 at",
        "ld.param.u64 %d0, [at]; mov.u32 %r1, %ctaid.x; mov.u32 %r3, 0;
        WAIT: ld.relaxed.gpu.global.u32 %r2, [%d0]; and.b32 %r4, %r2, 1; setp.ne.u32 %p1, %r4, %r1; @%p1 bra WAIT;
        add.u32 %r2, %r2, 1; st.relaxed.gpu.global.u32 [%d0], %r2; add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 300; @%p2 bra WAIT;",
    );
    let at = device.upload_u32(&[0]);
    device.run("k", 2, 1, &[at]).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(device.u32s(at, 1), [600]);
}
