//! Seeded faults: each must be caught, by name, in every order of execution, and the sound kernel
//! must pass.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use device::{Device, ORDERS, ptx};
use softcuda::exec::Order;
use softcuda::fault::{Access, Fault};
use softcuda::memory::Memory;

const MUTANTS: &str = include_str!("ptx/mutants.ptx");
const ROWS: usize = 3;
const COLUMNS: usize = 600;

fn little(values: &[u64], ints: &[u32]) -> Vec<u8> {
    let ints = ints.iter().flat_map(|value| value.to_le_bytes());
    values.iter().flat_map(|value| value.to_le_bytes()).chain(ints).collect()
}

/// Runs one of the row sums; gives the sums or the fault.
fn row_sums(kernel: &str, order: Order) -> Result<Vec<f32>, Fault> {
    let mut device = Device::new(MUTANTS);
    device.order = order;
    let x: Vec<f32> = (0..ROWS * COLUMNS).map(|index| (index % 17) as f32).collect();
    let x = device.upload_f32(&x);
    let out = device.space(4 * ROWS as u64);
    device.run_bytes(kernel, 1, 256, &little(&[x, out], &[ROWS as u32, COLUMNS as u32]))?;
    Ok(device.f32s(out, ROWS))
}

fn want_sums() -> Vec<f32> {
    let sum = |row: usize| (row * COLUMNS..(row + 1) * COLUMNS).map(|index| (index % 17) as f32).sum();
    (0..ROWS).map(sum).collect()
}

/// A fault of a kernel with inputs of 96 floats, an output of 64, and perhaps an int.
fn fault(kernel: &str, threads: u32, ints: &[u32], order: Order) -> Fault {
    let mut device = Device::new(MUTANTS);
    device.order = order;
    let x = device.upload_f32(&(0..96).map(|index| index as f32).collect::<Vec<_>>());
    let out = device.space(4 * 64);
    let params = if kernel == "barrier_of_too_many" { vec![out] } else { vec![x, out] };
    device.run_bytes(kernel, 1, threads, &little(&params, ints)).expect_err(kernel)
}

#[test]
fn a_sound_kernel_passes_in_every_order() {
    for order in ORDERS {
        assert_eq!(row_sums("sound", order).unwrap(), want_sums());
    }
}

#[test]
fn a_missing_barrier_is_a_race() {
    for order in ORDERS {
        for kernel in ["missing_barrier", "missing_barrier_between_rows"] {
            let fault = row_sums(kernel, order).expect_err(kernel);
            // A warp that comes first reads what was not written yet.
            let seen = matches!(fault, Fault::SharedRace { .. } | Fault::UninitialisedRead { .. });
            assert!(seen, "{kernel}, {order:?}: {fault}");
        }
        let fault = row_sums("missing_barrier_between_rows", order).unwrap_err();
        assert!(matches!(fault, Fault::SharedRace { .. }), "{order:?}: {fault}");
    }
}

#[test]
fn a_narrow_shuffle_gives_wrong_sums() {
    assert_ne!(row_sums("narrow_shuffle", Order::Forward).unwrap(), want_sums());
}

#[test]
fn an_uninitialised_slot_is_seen() {
    let fault = row_sums("uninitialised_slots", Order::Forward).unwrap_err();
    assert!(matches!(fault, Fault::UninitialisedRead { .. }), "{fault}");
}

#[test]
fn one_element_too_many_is_out_of_bounds() {
    // Within the rows it only reads the next row; the last row runs off the allocation.
    let fault = row_sums("one_column_too_many", Order::Forward).unwrap_err();
    let Fault::OutOfBounds { bytes: 4, access: Access::Read, ref site, .. } = fault else { panic!("{fault}") };
    assert_eq!(site.0.as_ref().unwrap().thread, [COLUMNS as u32 % 256, 0, 0]);
    let text = fault.to_string();
    for part in ["one_column_too_many", "ld.global", "byte 7200 of the allocation of 7200 bytes", "block [0, 0, 0]"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_misaligned_vector_is_seen() {
    let fault = fault("misaligned_vector", 8, &[], Order::Forward);
    assert!(matches!(fault, Fault::Misaligned { bytes: 16, .. }), "{fault}");
}

#[test]
fn shuffles_without_all_their_lanes_are_divergent() {
    for order in ORDERS {
        let found = fault("divergent_shuffle", 32, &[], order);
        assert!(matches!(found, Fault::DivergentSync { .. }), "{found}");
        let found = fault("shuffle_after_exit", 32, &[20], order);
        assert!(matches!(found, Fault::DivergentSync { missing: 0xfff0_0000, .. }), "{found}");
        let found = fault("shuffle_from_outside", 32, &[], order);
        assert!(matches!(found, Fault::ShuffleSource { lane: 16, .. }), "{found}");
    }
}

#[test]
fn barriers_that_part_of_a_warp_reaches_are_seen() {
    for order in ORDERS {
        let found = fault("divergent_barrier", 64, &[], order);
        assert!(matches!(found, Fault::DivergentSync { .. }), "{found}");
        let found = fault("barrier_of_too_many", 64, &[], order);
        assert!(matches!(found, Fault::Deadlock { waiting: 2, .. }), "{found}");
    }
}

#[test]
fn an_unwritten_tail_cannot_be_read_back() {
    let mut device = Device::new(MUTANTS);
    let x = device.upload_f32(&[1.0; 62]);
    let out = device.space(4 * 62);
    device.run_bytes("unwritten_tail", 1, 32, &little(&[x, out], &[62])).unwrap();
    let mut bytes = [0; 4 * 62];
    let fault = device.memory.read(out, &mut bytes).unwrap_err();
    assert!(matches!(fault, Fault::UninitialisedRead { address, .. } if address == out + 4 * 60), "{fault}");
    device.memory.read(out, &mut bytes[..4 * 60]).unwrap();
}

#[test]
fn shared_arrays_end_where_they_end() {
    for order in ORDERS {
        let found = fault("shared_off_the_end", 64, &[], order);
        assert!(matches!(found, Fault::OutOfBounds { .. }), "{found}");
    }
}

#[test]
fn lanes_of_a_warp_race_without_a_warp_sync() {
    for order in ORDERS {
        let found = fault("missing_warp_sync", 64, &[], order);
        assert!(matches!(found, Fault::SharedRace { .. }), "{found}");
        // Reads of one word by all lanes, then a write by one of them.
        for writer in [0, 31] {
            let mut device = Device::kernel(
                "",
                &format!(
                    ".shared .align 4 .b8 one[4]; setp.eq.u32 %p1, %r0, {writer}; @%p1 st.shared.u32 [one], 1; bar.sync 0;
                    ld.shared.u32 %r1, [one]; @%p1 st.shared.u32 [one], 2;"
                ),
            );
            device.order = order;
            let found = device.run("k", 1, 32, &[]).unwrap_err();
            assert!(matches!(found, Fault::SharedRace { access: Access::Write, other: Access::Read, .. }), "{found}");
        }
        let found = fault("shared_values_collide", 64, &[], order);
        assert!(matches!(found, Fault::SharedRace { access: Access::Write, other: Access::Write, .. }), "{found}");
    }
}

#[test]
fn who_may_overlap_the_kernel_before_waits_for_it_before_any_access() {
    let run = |overlaps: bool, body: &str| {
        let body = format!("ld.param.u64 %d0, [in]; griddepcontrol.launch_dependents; {body}");
        let mut device = Device::kernel(".param .u64 in", &body);
        device.overlaps = overlaps;
        let input = device.upload_u32(&[0; 64]);
        device.run("k", 1, 64, &[input]).map(|_| device.u32s(input, 1))
    };
    let accesses = [
        "ld.global.u32 %r1, [%d0];",
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.global.u32 [%d0], 0;",
        "red.global.add.u32 [%d0], 0;",
        ".shared .align 4 .b8 s[256]; mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 4, %r1; cp.async.ca.shared.global [%r1], [%d0], 4;",
    ];
    let wait = "griddepcontrol.wait;";
    for access in accesses {
        assert_eq!(run(true, &format!("{wait} {access}")), Ok(vec![0]));
        assert_eq!(run(false, access), Ok(vec![0]));
        let early = run(true, access).unwrap_err();
        assert!(matches!(early, Fault::TooEarly { .. }), "{early}");
        // Each thread waits for itself.
        let one = run(true, &format!("setp.ne.u32 %p2, %r0, 0; @%p2 {wait} {access}")).unwrap_err();
        assert!(matches!(one, Fault::TooEarly { .. }), "{one}");
    }
}

#[test]
fn float_atomics_depend_on_the_order() {
    let sums: Vec<u32> = ORDERS
        .into_iter()
        .map(|order| {
            let mut device = Device::new(MUTANTS);
            device.order = order;
            let x = device.upload_f32(&(0..256).map(|index| 1.0 / (index as f32 + 1.0)).collect::<Vec<_>>());
            let out = device.upload_f32(&[0.0]);
            device.run("float_atomics", 4, 64, &[x, out]).unwrap();
            device.u32s(out, 1)[0]
        })
        .collect();
    assert_ne!(sums[0], sums[1]);
}

#[test]
fn traps_and_unknown_instructions_name_their_place() {
    let found = fault("trap_on_odd", 64, &[], Order::Forward);
    let Fault::Trap { ref site } = found else { panic!("{found}") };
    assert_eq!(site.0.as_ref().unwrap().thread, [33, 0, 0]);
    let mut device = Device::kernel("", "mov.u32 %r1, 1;\nfrobnicate.b32 %r2, %r1;");
    assert_eq!(device.module.unsupported("k").unwrap(), ["frobnicate.b32 %r2, %r1"]);
    let found = device.run("k", 1, 1, &[]).unwrap_err();
    assert!(
        found.to_string().starts_with("unsupported instruction: frobnicate.b32 %r2, %r1; kernel k, line 13"),
        "{found}"
    );
    // Modifiers are not passed over.
    let device =
        Device::kernel("", "mov.u32 %r1, 1; add.cc.u32 %r2, %r1, %r1; ld.global.L2::cache_hint.u32 %r1, [%d0], %d1;");
    assert_eq!(device.module.unsupported("k").unwrap().len(), 2);
}

#[test]
fn what_is_not_modelled_is_named_when_a_lane_comes_to_it() {
    let instructions = [
        "call.uni f, (%r1)",
        "cp.async.wait_group 0",
        "ld.u32 %r1, [%d0]",
        "ld.local.u32 %r1, [%d0]",
        "add.rm.f32 %f1, %f2, %f3",
        "cvt.rzi.s16.f32 %h1, %f1",
        "redux.sync.add.u32 %r1, %r0, -1",
        "mov.u32 %r1, %laneid",
    ];
    for instruction in instructions {
        let body = format!("setp.eq.u32 %p1, %r0, 1; @!%p1 bra END; {instruction}; END:");
        let mut device = Device::kernel("", &body);
        device.run("k", 1, 1, &[]).unwrap_or_else(|fault| panic!("no lane comes to it: {fault}"));
        let found = device.run("k", 1, 2, &[]).unwrap_err().to_string();
        assert!(found.starts_with(&format!("unsupported instruction: {instruction}; kernel k, line ")), "{found}");
    }
    for declaration in [".local .align 4 .b8 depot[4]", "WAYS: .branchtargets A, B"] {
        let found = Device::kernel("", &format!("{declaration};")).run("k", 1, 1, &[]).unwrap_err();
        let named = declaration.trim_start_matches("WAYS: ");
        assert_eq!(found, Fault::BadModule { text: named.to_owned() });
    }
}

#[test]
fn registers_without_a_value_are_seen() {
    let mut device =
        Device::kernel(".param .u64 out", "ld.param.u64 %d1, [out]; add.u32 %r2, %r1, 1; st.global.u32 [%d1], %r2;");
    let out = device.space(4);
    let found = device.run("k", 1, 1, &[out]).unwrap_err();
    assert!(matches!(&found, Fault::UninitialisedRegister { register, .. } if register == "%r1"), "{found}");
}

#[test]
fn memory_knows_freed_and_foreign_addresses() {
    let mut device = Device::new(MUTANTS);
    let x = device.upload_f32(&[1.0; 64]);
    let out = device.space(256);
    device.memory.free(x).unwrap();
    let found = device.run("float_atomics", 1, 64, &[x, out]).unwrap_err();
    assert!(matches!(found, Fault::UseAfterFree { .. }), "{found}");
    assert_eq!(device.memory.free(x), Err(Fault::InvalidFree { address: x }));
    let next = device.space(256);
    assert!(next >= out + 256 + 65536, "addresses are not reused: {next:#x} after {out:#x}");
    assert_eq!(next % 256, 0);
    let found = device.run("float_atomics", 1, 64, &[x + 8, 0]).unwrap_err();
    assert!(matches!(found, Fault::UseAfterFree { .. }), "{found}");
    let found = device.run("float_atomics", 1, 64, &[0, out]).unwrap_err();
    assert!(matches!(found, Fault::OutOfBounds { address: 0, .. }), "{found}");
}

#[test]
fn copies_carry_what_was_never_written() {
    let mut memory = Memory::new(1 << 20);
    let (from, to) = (memory.alloc(300).unwrap(), memory.alloc(300).unwrap());
    memory.set(from, 7, 300).unwrap();
    memory.set(to, 1, 300).unwrap();
    let half = memory.alloc(300).unwrap();
    memory.write(half + 100, &[3; 50]).unwrap();
    memory.copy(to, half, 300).unwrap();
    let mut bytes = [0; 50];
    memory.read(to + 100, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 50]);
    assert!(matches!(memory.read(to + 101, &mut bytes), Err(Fault::UninitialisedRead { .. })));
    assert!(matches!(memory.read(to + 50, &mut bytes), Err(Fault::UninitialisedRead { .. })));
    assert!(matches!(memory.copy(to, from, 301), Err(Fault::OutOfBounds { .. })));
    assert!(matches!(memory.alloc(1 << 20), Err(Fault::OutOfMemory { .. })));
    assert_eq!((memory.used(), memory.live().len()), (900, 3));
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let mut device = Device::new(&ptx(".param .u64 out", ""));
    for (grid, block, params) in [(0, 32, 1), (1, 0, 1), (1, 1025, 1), (1, 32, 2)] {
        let found = device.run("k", grid, block, &vec![0; params]).unwrap_err();
        assert!(matches!(found, Fault::BadLaunch { .. }), "{found}");
    }
    device.dynamic_shared = 228 * 1024;
    assert!(matches!(device.run("k", 1, 32, &[0]), Err(Fault::BadLaunch { .. })));
    assert!(matches!(device.run("absent", 1, 32, &[0]), Err(Fault::BadLaunch { .. })));
}

#[test]
fn a_failed_assert_stops_the_kernel_and_one_that_holds_does_not() {
    // As nvcc compiles `assert(x <= 30)`; the strings are addresses that nothing reads.
    let body = "ld.param.u64 %d1, [out]; ld.param.u64 %d2, [most]; cvt.u64.u32 %d3, %r0; setp.le.u64 %p1, %d3, %d2;
        @%p1 bra $holds;
        cvta.global.u64 %d4, %d1;
        {
        .param .b64 param0;
        st.param.b64 [param0+0], %d4;
        .param .b32 param1;
        st.param.b32 [param1+0], 63;
        call.uni
        __assertfail,
        (
        param0,
        param1
        );
        }
        $holds:
        mul.wide.u32 %d5, %r0, 4; add.u64 %d1, %d1, %d5; st.global.u32 [%d1], %r0;";
    for order in ORDERS {
        let mut device = Device::kernel(".param .u64 out, .param .u64 most", body);
        device.order = order;
        let out = device.space(128);
        device.run("k", 1, 32, &[out, 31]).unwrap();
        assert_eq!(device.u32s(out, 32), (0..32).collect::<Vec<_>>());
        let found = device.run("k", 1, 32, &[out, 30]).unwrap_err();
        assert!(matches!(found, Fault::Trap { .. }), "{found}");
        assert!(found.to_string().contains("__assertfail"), "{found}");
    }
}

#[test]
fn other_calls_and_what_they_return_are_unsupported() {
    for call in ["call.uni (value), other, (param0)", "ld.param.b32 %r2, [value+0]", "call.uni other, (param0)"] {
        let body = format!(
            "{{ .param .b64 param0; st.param.b64 [param0+0], %d0; .param .b32 value; {call}; }} add.u32 %r1, %r0, 1;"
        );
        let found = Device::kernel(".param .u64 out", &format!("ld.param.u64 %d0, [out]; {body}"));
        let mut device = found;
        let found = device.run("k", 1, 1, &[0]).unwrap_err();
        assert!(found.to_string().contains("unsupported instruction"), "{found}");
    }
}
