//! Texts that no compiler gives: each is refused by a fault, and none takes more memory or stack
//! than it says.
#![allow(clippy::unwrap_used)] // a test may panic

mod device;

use softcuda::exec::LoadedModule;
use softcuda::fault::Fault;
use softcuda::memory::Memory;
use softcuda::ptx::Module;

const MEMORY: u64 = 1 << 20;

fn module(text: &str) -> Result<Module, Fault> {
    Module::parse(&format!(".target sm_90\n{text}"))
}

/// What is said of a kernel `k` with this body.
fn decoded(body: &str) -> Result<Vec<String>, Fault> {
    let module = Module::parse(&device::ptx("", body))?;
    LoadedModule::load(module, &mut Memory::new(MEMORY))?.unsupported("k")
}

fn assert_bad<T: std::fmt::Debug>(result: Result<T, Fault>, text: &str) {
    assert!(matches!(result, Err(Fault::BadModule { .. })), "{text}: {result:?}");
}

#[test]
fn an_alignment_is_a_power_of_two_that_allocations_have() {
    for align in ["0", "3", "512", "4294967296", "18446744073709551615", "x"] {
        let variable = format!(".align {align} .b8 x[4];");
        assert_bad(module(&format!(".global {variable}")), &variable);
        assert_bad(module(&format!(".shared {variable}")), &variable);
        assert_bad(module(&format!(".entry k(.param .align {align} .b8 x[4]) {{ }}")), &variable);
        assert_bad(decoded(&format!(".reg .b32 %a; .shared {variable}")), &variable);
    }
    assert_eq!(module(".global .align 256 .b8 x[4];").unwrap().globals[0].align, 256);
}

#[test]
fn sizes_that_no_number_or_no_device_holds_are_refused() {
    for extent in ["[18446744073709551615]", "[4294967296][4294967296]", "[-1]", "[1099511627777]"] {
        assert_bad(module(&format!(".global .b8 x{extent};")), extent);
        assert_bad(module(&format!(".shared .b8 x{extent};")), extent);
        assert_bad(module(&format!(".entry k(.param .b8 x{extent}) {{ }}")), extent);
    }
    assert_bad(module(".global .b64 x[2305843009213693952];"), "eight times 2^61");
    // Of a sum and in one, in 32 bits too.
    for shared in [".shared .b8 x[4294967296];", ".shared .b8 x[16000000];\n.shared .b8 y[16000000];"] {
        assert_bad(decoded(shared), shared);
        assert_bad(decoded(&format!(".reg .b32 %a; {}", shared.replace('\n', " "))), shared);
    }
    assert_bad(module(".entry k(.param .b8 x[32765]) { }"), "more than all parameters may take");
    assert_eq!(module(".entry k(.param .b8 x[32764]) { }").unwrap().kernels()[0].param_bytes, 32_764);
}

#[test]
fn a_variable_takes_no_memory_before_it_is_loaded() {
    let module = module(".global .b8 x[1099511627776] = {1, 2};").unwrap();
    assert_eq!(module.globals[0].init, [1, 2]);
    let loaded = LoadedModule::load(module, &mut Memory::new(MEMORY));
    assert!(matches!(loaded, Err(Fault::OutOfMemory { .. })), "{loaded:?}");
}

#[test]
fn what_an_initialiser_leaves_out_is_zero() {
    let mut memory = Memory::new(MEMORY);
    let module = LoadedModule::load(module(".global .u16 x[4] = {1, 2};").unwrap(), &mut memory).unwrap();
    let mut bytes = [7; 8];
    memory.read(module.global("x").unwrap().0, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 0, 2, 0, 0, 0, 0, 0]);
    assert_bad(self::module(".global .u16 x[1] = {1, 2};"), "two numbers for one");
}

#[test]
fn registers_without_number_are_refused() {
    let most = [".reg .b32 %q<4294967295>;", ".reg .pred %q<4294967295>;"];
    for registers in most {
        assert_bad(decoded(registers), registers);
        assert_bad(decoded(&registers.replace("4294967295", "65536")), registers);
    }
    assert!(decoded(".reg .b32 %q<4294967296>;").is_err());
    assert_eq!(decoded(".reg .b32 %q<60000>; mov.u32 %q59999, 1;"), Ok(vec![]));
}

#[test]
fn a_limit_of_more_threads_than_can_be_counted_is_no_limit() {
    let module = module(".entry k() .maxntid 65536, 65536, 2 { }").unwrap();
    assert_eq!(module.kernels()[0].max_threads, Some(u32::MAX));
}

/// A shift by all of a register's bits would be one by none.
#[test]
fn a_vector_has_two_or_four_parts() {
    for unknown in ["mov.b64 %d1, {%d2}", "mov.b64 {%d1}, %d2", "mov.b64 {%h1, %h2, %h3}, %d2"] {
        assert_eq!(decoded(&format!("{unknown};")), Ok(vec![unknown.to_owned()]));
    }
}

#[test]
fn a_kernel_of_many_branches_needs_no_stack() {
    let mut body = String::new();
    for block in 0..100_000 {
        body += &format!("L{block}: setp.eq.u32 %p1, %r0, {block}; @%p1 bra L{block};\n");
    }
    assert_eq!(decoded(&body), Ok(vec![]));
}
