//! Control flow, warps, blocks, memory spaces and counters, on hand-written PTX and on nvcc's
//! output.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use device::{Device, ORDERS};
use softcuda::counters::Counters;
use softcuda::exec::Order;
use softcuda::fault::{Access, Fault};

const MACHINE: &str = include_str!("ptx/machine.ptx");

/// Runs a body on one warp that leaves its result in `%r9`.
fn warp(body: &str) -> (Vec<u32>, Counters) {
    let finish = "ld.param.u64 %d1, [out]; mul.wide.u32 %d2, %r0, 4; add.u64 %d1, %d1, %d2; st.global.u32 [%d1], %r9;";
    let mut device = Device::kernel(".param .u64 out", &format!("{body}\n{finish}"));
    let out = device.space(128);
    let counters = device.run("k", 1, 32, &[out]).unwrap_or_else(|fault| panic!("{fault}"));
    (device.u32s(out, 32), counters)
}

fn each(value: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(value).collect()
}

#[test]
fn shuffles_move_values_within_segments() {
    let run = |mode: &str, b: u32, c: u32| {
        warp(&format!("mul.lo.u32 %r1, %r0, 3; shfl.sync.{mode}.b32 %r2|%p1, %r1, {b}, {c}, -1; selp.u32 %r3, 1000, 0, %p1; add.u32 %r9, %r2, %r3;")).0
    };
    // c holds the clamp and, for segments of 8, the segment mask 24.
    let from = |lane: u32, source: Option<u32>| source.map_or(3 * lane, |source| 3 * source + 1000);
    assert_eq!(run("bfly", 5, 31), each(|lane| from(lane, Some(lane ^ 5))));
    assert_eq!(run("down", 3, 31), each(|lane| from(lane, Some(lane + 3).filter(|&source| source < 32))));
    let segments = 24 << 8;
    assert_eq!(run("idx", 2, segments | 31), each(|lane| from(lane, Some(lane / 8 * 8 + 2))));
    assert_eq!(
        run("down", 3, segments | 7),
        each(|lane| from(lane, Some(lane + 3).filter(|&source| source / 8 == lane / 8)))
    );
    assert_eq!(run("bfly", 4, segments | 31), each(|lane| from(lane, Some(lane ^ 4))));
}

#[test]
fn votes_see_all_members() {
    let setup = "setp.gt.u32 %p1, %r0, 11;";
    assert_eq!(warp(&format!("{setup} vote.sync.ballot.b32 %r9, %p1, -1;")).0, each(|_| 0xffff_f000));
    for (condition, want) in [("%p1", 1), ("%p3", 0)] {
        let body = format!(
            "{setup} setp.gt.u32 %p3, %r0, 31; vote.sync.any.pred %p2, {condition}, -1; selp.u32 %r9, 1, 0, %p2;"
        );
        assert_eq!(warp(&body).0, each(|_| want), "{condition}");
    }
    // Two halves, each with its own mask, at one instruction.
    let halves = "setp.lt.u32 %p1, %r0, 16; selp.b32 %r1, 0xffff, 0xffff0000, %p1; and.b32 %r2, %r0, 1;
        setp.eq.u32 %p2, %r2, 1; vote.sync.ballot.b32 %r9, %p2, %r1;";
    assert_eq!(warp(halves).0, each(|lane| if lane < 16 { 0xaaaa } else { 0xaaaa_0000 }));
}

#[test]
fn special_registers_describe_the_launch() {
    let body = "mov.u32 %r1, %ntid.x; mov.u32 %r2, %ntid.y; mov.u32 %r3, %nctaid.x; mov.u32 %r4, %nctaid.z; mov.u32 %r5, %ctaid.x;
        mad.lo.u32 %r9, %r2, 100, %r1; mad.lo.u32 %r9, %r3, 1000, %r9; mad.lo.u32 %r9, %r4, 10000, %r9; add.u32 %r9, %r9, %r5;
        add.u32 %r9, %r9, %r0;";
    assert_eq!(warp(body).0, each(|lane| 32 + 100 + 1000 + 10_000 + lane));
}

#[test]
fn diverged_lanes_meet_again_at_the_join() {
    // The rare path lies before the entry's other blocks, as compilers put it: text order would not
    // bring the lanes together before the last instruction.
    let body = "bra.uni START;
        RARE: add.u32 %r9, %r0, 100; bra.uni JOIN;
        JOIN: add.u32 %r9, %r9, 1; add.u32 %r9, %r9, 1; add.u32 %r9, %r9, 1; bra.uni END;
        START: setp.eq.u32 %p1, %r0, 7; @%p1 bra RARE; mov.u32 %r9, %r0; mov.u32 %r9, %r0; bra.uni JOIN;
        END:";
    let (values, counters) = warp(body);
    assert_eq!(values, each(|lane| lane + 3 + if lane == 7 { 100 } else { 0 }));
    // mov tid; bra; setp, bra; two paths of 2 and 3; join 4; finish 4; ret.
    assert_eq!(counters.warp_instructions, 1 + 1 + 2 + 2 + 3 + 4 + 4 + 1);
    assert_eq!(counters.lane_instructions, 32 * (1 + 1 + 1 + 4 + 4 + 1) + 1 + 2 + 31 * 3);
}

#[test]
fn a_sync_waits_for_lanes_that_come_later() {
    // The lower half comes to the shuffle in the first round of the loop, the upper half in the
    // second.
    let body = "mov.u32 %r1, 0; mov.u32 %r9, 0; shr.u32 %r2, %r0, 4;
        LOOP: setp.ne.u32 %p1, %r1, %r2; @%p1 bra NEXT;
        shfl.sync.bfly.b32 %r3, %r0, 16, 31, -1; add.u32 %r9, %r9, %r3;
        NEXT: add.u32 %r1, %r1, 1; setp.lt.u32 %p2, %r1, 2; @%p2 bra LOOP;";
    let (values, counters) = warp(body);
    assert_eq!(values, each(|lane| lane ^ 16));
    assert_eq!(counters.shuffles, 1);
}

#[test]
fn ragged_loops_break_and_rejoin() {
    let lengths: Vec<u32> = (0..32).map(|lane| lane * 5 % 37).collect();
    let want: Vec<u32> = (0u32..32)
        .map(|lane| {
            let mut steps = 0;
            for i in 0..lengths[lane as usize] {
                if i ^ lane == 21 {
                    steps += 100;
                    break;
                } else if i & 2 == 0 {
                    steps += i >> 4 & 1;
                }
                steps += 1;
            }
            steps
        })
        .collect();
    for order in ORDERS {
        let mut device = Device::new(MACHINE);
        device.order = order;
        let (input, out) = (device.upload_u32(&lengths), device.space(128));
        let counters = device.run("ragged", 1, 32, &[out, input]).unwrap();
        assert_eq!(device.u32s(out, 32), want);
        // One load and one store, all lanes together.
        assert_eq!((counters.global_load_requests, counters.global_store_requests), (4, 4));
    }
}

#[test]
fn predicated_instructions_touch_their_lanes_only() {
    let (values, counters) =
        warp("mov.u32 %r9, 1; setp.lt.u32 %p1, %r0, 3; @%p1 mov.u32 %r9, 2; @!%p1 add.u32 %r9, %r9, 4;");
    assert_eq!(values, each(|lane| if lane < 3 { 2 } else { 5 }));
    assert_eq!((counters.warp_instructions, counters.lane_instructions), (10, 32 * 8 + 3 + 29));
}

#[test]
fn loads_and_stores_extend_narrow_and_vector() {
    let mut device = Device::kernel(
        ".param .u64 in, .param .u64 out",
        "ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out];
        ld.global.s8 %r1, [%d0+3]; st.global.u32 [%d1], %r1; ld.global.u8 %r1, [%d0+3]; st.global.u32 [%d1+4], %r1;
        ld.global.s16 %d3, [%d0+2]; st.global.u64 [%d1+8], %d3;
        ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%d0+16]; st.global.cs.v2.b32 [%d1+16], {%r4, %r1};
        ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%d0+8]; mov.b64 %d4, {%h4, %h3, %h2, %h1}; st.global.v2.b64 [%d1+32], {%d4, 7};
        ld.volatile.global.v2.b64 {%d5, _}, [%d0+16]; mov.b64 {%r5, _}, %d5; st.global.b8 [%d1+24], %r5;
        cvta.to.global.u64 %d6, %d0; ld.global.cg.u32 %r6, [%d6+4]; st.global.u32 [%d1+28], %r6;",
    );
    let bytes: Vec<u8> = (0..32).map(|index| 0x80 + index).collect();
    let (input, out) = (device.upload(&bytes), device.space(48));
    device.memory.set(out, 0, 48).unwrap();
    device.run("k", 1, 1, &[input, out]).unwrap_or_else(|fault| panic!("{fault}"));
    let got = device.u32s(out, 12);
    assert_eq!(got[..4], [0xffff_ff83, 0x83, 0xffff_8382, 0xffff_ffff]);
    assert_eq!(got[4..8], [0x9f9e_9d9c, 0x9392_9190, 0x90, 0x8786_8584]);
    assert_eq!(got[8..], [0x8d8c_8f8e, 0x8988_8b8a, 7, 0]);
}

#[test]
fn atomics_return_the_old_value_and_do_not_tear() {
    for order in ORDERS {
        let mut device = Device::kernel(
            ".param .u64 at, .param .u64 out",
            ".shared .align 8 .b8 cell[16];
            ld.param.u64 %d0, [at]; ld.param.u64 %d1, [out]; mul.wide.u32 %d2, %r0, 4; add.u64 %d1, %d1, %d2;
            setp.ne.u32 %p1, %r0, 0; @!%p1 st.shared.u32 [cell], 0; bar.sync 0;
            atom.shared.add.u32 %r1, [cell], 1; atom.global.add.u32 %r2, [%d0], 1; st.global.u32 [%d1], %r2;
            cvt.u64.u32 %d3, %r0; atom.global.min.u64 %d4, [%d0+8], %d3; mov.b32 %f1, 0f3F000000; red.global.add.f32 [%d0+16], %f1;
            atom.global.exch.b32 %r3, [%d0+20], 9; red.global.add.u32 [%d0+24], %r0; atom.global.exch.b64 %d5, [%d0+32], %d3;
            red.global.add.u64 [%d0+40], %d3;
            bar.sync 0; @%p1 bra END; ld.shared.u32 %r6, [cell]; st.global.u32 [%d0+28], %r6; END:",
        );
        device.order = order;
        let at = device.upload_u32(&[100, 0, 9, 0, 0, 1, 5, 0, 200, 0, u32::MAX, 0]);
        let out = device.space(4 * 96);
        let counters = device.run("k", 1, 96, &[at, out]).unwrap_or_else(|fault| panic!("{fault}"));
        let cells = device.u32s(at, 12);
        let last = cells[8];
        assert!(last < 96 && (order != Order::Forward || last == 95), "{order:?}: {last}");
        // The last carries over into its upper half.
        assert_eq!(cells, [196, 0, 0, 0, 48f32.to_bits(), 9, 5 + 95 * 48, 96, last, 0, 95 * 48 - 1, 1]);
        let mut olds = device.u32s(out, 96);
        olds.sort_unstable();
        assert_eq!(olds, (100..196).collect::<Vec<_>>());
        assert_eq!(counters.atomics, 8 * 96);
    }
}

#[test]
fn barriers_carry_votes_and_may_have_names_and_counts() {
    for order in ORDERS {
        let mut device = Device::kernel(
            ".param .u64 out",
            ".shared .align 4 .b8 cells[512];
            ld.param.u64 %d0, [out]; mul.wide.u32 %d1, %r0, 16; add.u64 %d0, %d0, %d1;
            setp.lt.u32 %p1, %r0, 40; setp.gt.u32 %p2, %r0, 127; bar.red.or.pred %p3, 0, %p1; bar.red.or.pred %p4, 0, %p2;
            selp.u32 %r1, 1, 0, %p3; selp.u32 %r2, 1, 0, %p4;
            shl.b32 %r4, %r0, 2; mov.u32 %r5, cells; add.u32 %r5, %r5, %r4; xor.b32 %r4, %r4, 128; mov.u32 %r6, cells; add.u32 %r6, %r6, %r4;
            st.shared.u32 [%r5], %r0; shr.u32 %r7, %r0, 6; add.u32 %r7, %r7, 1; bar.sync %r7, 64; ld.shared.u32 %r8, [%r6];
            st.global.v4.u32 [%d0], {%r1, %r2, %r7, %r8};",
        );
        device.order = order;
        let out = device.space(128 * 16);
        let counters = device.run("k", 1, 128, &[out]).unwrap_or_else(|fault| panic!("{fault}"));
        for (thread, got) in device.u32s(out, 512).chunks(4).enumerate() {
            let thread = thread as u32;
            assert_eq!(got, [1, 0, thread / 64 + 1, thread ^ 32]);
        }
        assert_eq!(counters.barriers, 12);
    }
}

#[test]
fn counters_count_sectors_and_bank_conflicts() {
    let strided = |bytes: u32, vector: &str, registers: &str| {
        let mut device = Device::kernel(
            ".param .u64 in",
            &format!(
                "ld.param.u64 %d0, [in]; mul.wide.u32 %d1, %r0, {bytes}; add.u64 %d0, %d0, %d1; ld.global{vector} {registers}, [%d0];"
            ),
        );
        let input = device.upload(&vec![0; 8192]);
        let counters = device.run("k", 1, 64, &[input + 16]).unwrap();
        (counters.global_load_requests, counters.distinct_sectors_read)
    };
    // Two warps of 128 bytes from the middle of a sector: 5 sectors each, one shared.
    assert_eq!(strided(4, ".u32", "%r1"), (10, 9));
    assert_eq!(strided(16, ".v4.u32", "{%r1, %r2, %r3, %r4}"), (34, 33));
    assert_eq!(strided(64, ".u32", "%r1"), (64, 64));
    assert_eq!(strided(0, ".u32", "%r1"), (2, 1));

    let wavefronts = |scale: u32, vector: &str, values: &str| {
        let mut device = Device::kernel(
            "",
            &format!(
                ".shared .align 16 .b8 s[8192]; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, {scale}, %r1; st.shared{vector} [%r1], {values};"
            ),
        );
        device.run("k", 1, 32, &[]).unwrap_or_else(|fault| panic!("{fault}")).shared_wavefronts
    };
    assert_eq!(wavefronts(4, ".u32", "%r0"), 1);
    assert_eq!(wavefronts(8, ".u32", "%r0"), 2);
    assert_eq!(wavefronts(128, ".u32", "%r0"), 32);
    assert_eq!(wavefronts(0, ".u32", "7"), 1);
    assert_eq!(wavefronts(2, ".u16", "1"), 1);
    assert_eq!(wavefronts(8, ".v2.u32", "{1, 2}"), 2);
    assert_eq!(wavefronts(16, ".v4.u32", "{1, 2, 3, 4}"), 4);
    assert_eq!(wavefronts(32, ".v4.u32", "{1, 2, 3, 4}"), 8);
}

#[test]
fn written_and_read_sectors_are_told_apart() {
    let mut device = Device::kernel(
        ".param .u64 in, .param .u64 out",
        "ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mul.wide.u32 %d2, %r0, 4; add.u64 %d0, %d0, %d2; add.u64 %d1, %d1, %d2;
        ld.global.u32 %r1, [%d0]; st.global.u32 [%d1], %r1;",
    );
    let (input, out) = (device.upload_u32(&[1; 64]), device.space(256));
    let apart = device.run("k", 1, 64, &[input, out]).unwrap();
    assert_eq!((apart.distinct_sectors_read, apart.distinct_sectors_written, apart.distinct_sectors), (8, 8, 16));
    let in_place = device.run("k", 1, 64, &[input, input]).unwrap();
    assert_eq!(
        (in_place.distinct_sectors_read, in_place.distinct_sectors_written, in_place.distinct_sectors),
        (8, 8, 8)
    );
    let mut sum = apart;
    sum += in_place;
    assert_eq!((sum.launches, sum.distinct_sectors, sum.global_store_requests), (2, 24, 16));
}

#[test]
fn a_prefetch_moves_its_sector_and_looks_at_nothing() {
    let kernel = || {
        Device::kernel(
            ".param .u64 in",
            "ld.param.u64 %d0, [in]; mul.wide.u32 %d2, %r0, 64; add.u64 %d0, %d0, %d2; prefetch.global.L2 [%d0];",
        )
    };
    let mut device = kernel();
    // Never written.
    let space = device.space(32 * 64);
    let counters = device.run("k", 1, 32, &[space]).unwrap();
    assert_eq!((counters.distinct_sectors_read, counters.distinct_sectors_written), (32, 0));
    assert_eq!(counters.global_load_requests, 0);
    let mut device = kernel();
    let short = device.space(31 * 64);
    let fault = device.run("k", 1, 32, &[short]).unwrap_err();
    assert!(matches!(fault, Fault::OutOfBounds { access: Access::Read, .. }), "{fault}");
}

#[test]
fn copies_go_to_shared_memory_without_a_register_and_are_there_when_waited_for() {
    // Each thread copies 16 bytes and reads the neighbour's word behind a barrier.
    let body = |wait: &str, meet: &str, offset: u32| {
        format!(
            ".shared .align 16 .b8 s[1024]; ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out];
            mul.wide.u32 %d2, %r0, 16; add.u64 %d3, %d0, %d2; mul.wide.u32 %d4, %r0, 4; add.u64 %d4, %d1, %d4;
            mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1; cp.async.cg.shared.global [%r2], [%d3+{offset}], 16; {wait} {meet}
            xor.b32 %r3, %r0, 32; mad.lo.u32 %r3, %r3, 16, %r1; ld.shared.u32 %r4, [%r3+4]; st.global.u32 [%d4], %r4;"
        )
    };
    let run = |wait, meet, offset| {
        let mut device = Device::kernel(".param .u64 in, .param .u64 out", &body(wait, meet, offset));
        let input = device.upload_u32(&(0..256).collect::<Vec<_>>());
        let out = device.space(256);
        device.run("k", 1, 64, &[input, out]).map(|counters| (device.u32s(out, 64), counters))
    };
    let (wait, meet) = ("cp.async.wait_all;", "bar.sync 0;");
    let (read, counters) = run(wait, meet, 0).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(read, (0..64).map(|thread| 4 * (thread ^ 32) + 1).collect::<Vec<u32>>());
    // 32 sectors of 32 bytes; 16 bytes a thread in, by quarter warps, and a word in 4 out.
    assert_eq!((counters.global_load_requests, counters.distinct_sectors_read), (32, 32));
    assert_eq!(counters.shared_wavefronts, 8 + 2 * 4);
    let not_waited = run("", meet, 0).unwrap_err();
    assert!(matches!(not_waited, Fault::UninitialisedRead { .. }), "{not_waited}");
    let not_met = run(wait, "", 0).unwrap_err();
    assert!(matches!(not_met, Fault::UninitialisedRead { .. } | Fault::SharedRace { .. }), "{not_met}");
    let past_the_end = run(wait, meet, 16).unwrap_err();
    assert!(matches!(past_the_end, Fault::OutOfBounds { access: Access::Read, .. }), "{past_the_end}");
    let misaligned = run(wait, meet, 4).unwrap_err();
    assert!(matches!(misaligned, Fault::Misaligned { bytes: 16, .. }), "{misaligned}");
}

#[test]
fn what_is_copied_over_has_no_value_meanwhile_and_may_not_be_in_use() {
    let run = |before: &str, after: &str| {
        let body = format!(
            ".shared .align 4 .b8 s[256]; ld.param.u64 %d0, [in]; mul.wide.u32 %d2, %r0, 4; add.u64 %d3, %d0, %d2;
            mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; xor.b32 %r3, %r2, 128; st.shared.u32 [%r2], %r0; bar.sync 0;
            {before} cp.async.ca.shared.global [%r2], [%d3], 4; {after} st.global.u32 [%d3], %r4;"
        );
        let mut device = Device::kernel(".param .u64 in", &body);
        let input = device.upload_u32(&[7; 64]);
        device.run("k", 1, 64, &[input]).map(|_| device.u32s(input, 64))
    };
    let own = "ld.shared.u32 %r4, [%r2];";
    assert_eq!(run("", &format!("cp.async.wait_all; {own}")).unwrap(), [7; 64]);
    let early = run("", own).unwrap_err();
    assert!(matches!(early, Fault::UninitialisedRead { .. }), "{early}");
    // What is copied may not be written before the copy is there, whatever a barrier says.
    let over = "setp.ge.u32 %p1, %r0, 32; mul.wide.u32 %d4, %r0, 4; xor.b64 %d4, %d4, 128; add.u64 %d4, %d0, %d4;
        @%p1 st.global.u32 [%d4], 9;";
    let nothing = "mov.u32 %r4, 7; bar.sync 0;";
    assert!(run("", &format!("cp.async.wait_all; bar.sync 0; {over} {nothing}")).is_ok());
    let over = run("", &format!("bar.sync 0; {over} cp.async.wait_all; {nothing}")).unwrap_err();
    assert!(matches!(over, Fault::GlobalRace { .. }), "{over}");
    // Another warp may still read it.
    let others = "ld.shared.u32 %r4, [%r3];";
    assert!(run(&format!("{others} bar.sync 0;"), "cp.async.wait_all;").is_ok());
    let race = run(others, "cp.async.wait_all;").unwrap_err();
    assert!(matches!(race, Fault::SharedRace { .. }), "{race}");
}

#[test]
fn module_variables_have_their_initial_values_and_keep_new_ones() {
    let mut device = Device::new(MACHINE);
    let (out, before) = (device.space(32 * 8), device.upload_u32(&[0; 32]));
    device.run("variables", 1, 32, &[out, before]).unwrap_or_else(|fault| panic!("{fault}"));
    for (index, got) in device.u64s(out, 32).into_iter().map(f64::from_bits).enumerate() {
        assert_eq!(got, [1.5, 2.5][index % 2]);
    }
    assert_eq!(device.u32s(before, 32), each(|lane| 7 + lane));
    let (counter, size) = device.module.global("counter").unwrap();
    assert_eq!((device.u32s(counter, 1)[0], size), (39, 4));
    let live = device.memory.live().len();
    device.module.unload(&mut device.memory).unwrap();
    assert_eq!(device.memory.live().len(), live - device.module.module().globals.len());
}

#[test]
fn tiles_and_votes_work_as_compiled() {
    for order in ORDERS {
        let mut device = Device::new(MACHINE);
        device.order = order;
        let x: Vec<f32> = (0..64).map(|index| (index % 13) as f32).collect();
        let (out, input) = (device.space(256), device.upload_f32(&x));
        device.run("groups", 1, 64, &[out, input]).unwrap_or_else(|fault| panic!("{fault}"));
        for (index, got) in device.f32s(out, 64).into_iter().enumerate() {
            let (tile, warp) = (&x[index / 8 * 8..index / 8 * 8 + 8], &x[index / 32 * 32..index / 32 * 32 + 32]);
            let zeros = warp.iter().filter(|&&x| x == 0.0).count() as f32;
            assert_eq!(got, tile.iter().sum::<f32>() + 100.0 + if zeros > 2.0 { 0.5 } else { 0.0 });
        }
    }
}

#[test]
fn blocks_of_three_dimensions_are_numbered_as_cuda_does() {
    use softcuda::device::RESIDENT_BLOCKS;
    use softcuda::exec::{Launch, launch};
    let mut device = Device::kernel(
        ".param .u64 out",
        "ld.param.u64 %d0, [out]; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %ctaid.z;
        mad.lo.u32 %r6, %r2, 3, %r1; mad.lo.u32 %r6, %r6, 5, %r0; mad.lo.u32 %r7, %r5, 2, %r4; mad.lo.u32 %r7, %r7, 2, %r3;
        mad.lo.u32 %r8, %r7, 30, %r6; mul.wide.u32 %d1, %r8, 4; add.u64 %d0, %d0, %d1; st.global.u32 [%d0], %r8;",
    );
    for order in ORDERS {
        let out = device.space(8 * 30 * 4);
        let launched = Launch {
            module: &device.module,
            kernel: "k",
            grid: [2, 2, 2],
            block: [5, 3, 2],
            dynamic_shared: 0,
            params: &out.to_le_bytes(),
            order,
            resident: RESIDENT_BLOCKS,
            races: true,
            overlaps: false,
        };
        launch(&mut device.memory, &launched).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(device.u32s(out, 240), (0..240).collect::<Vec<_>>());
    }
}

#[test]
fn a_warp_has_the_size_that_its_name_tells() {
    assert_eq!(warp("mov.u32 %r9, WARP_SZ;").0, each(|_| 32));
}
