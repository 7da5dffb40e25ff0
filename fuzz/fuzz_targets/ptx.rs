//! The PTX parser and decoder on any text: a fault, or kernels that fit a device.

#![no_main]

use libfuzzer_sys::fuzz_target;
use softcuda::exec::LoadedModule;
use softcuda::memory::Memory;
use softcuda::ptx::Module;

/// Of the device that the module's variables are loaded to.
const MEMORY: u64 = 1 << 16;

fuzz_target!(|text: &str| {
    let Ok(module) = Module::parse(text) else {
        return;
    };
    for kernel in module.kernels() {
        let mut end = 0;
        for param in &kernel.params {
            assert!(
                param.offset >= end && param.offset % param.align == 0,
                "{kernel:?}"
            );
            end = param.offset + param.size;
        }
        assert_eq!(end, kernel.param_bytes);
    }
    let names: Vec<String> = module
        .kernels()
        .iter()
        .map(|kernel| kernel.name.clone())
        .collect();
    let mut memory = Memory::new(MEMORY);
    let Ok(module) = LoadedModule::load(module, &mut memory) else {
        return;
    };
    for name in names {
        // Decodes the kernel.
        let _ = module.unsupported(&name);
    }
    assert!(memory.used() <= MEMORY);
});
