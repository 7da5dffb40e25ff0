//! A module on the device: its variables have addresses, and its kernels are decoded when they are
//! first needed.
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;

use crate::code::decode;
use crate::code::operation::{Code, Op};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ptx::Module;

/// A module whose variables have their addresses.
#[derive(Debug)]
pub struct LoadedModule {
    module: Module,
    globals: HashMap<String, (u64, u64)>,
    code: HashMap<String, OnceLock<Result<Code, Fault>>>,
}

impl LoadedModule {
    /// Allocates and initialises the module's variables.
    pub fn load(module: Module, memory: &mut Memory) -> Result<Self, Fault> {
        let mut globals = HashMap::new();
        for global in &module.globals {
            let address = memory.alloc(global.size.max(1) as u64)?;
            memory.set(address, 0, global.size as u64)?;
            memory.write(address, &global.init)?;
            globals.insert(global.name.clone(), (address, global.size as u64));
        }
        let code = module.kernels().iter().map(|kernel| (kernel.name.clone(), OnceLock::new())).collect();
        Ok(Self { module, globals, code })
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Address and size of a variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Frees the module's variables.
    pub fn unload(&self, memory: &mut Memory) -> Result<(), Fault> {
        self.globals.values().try_for_each(|&(address, _)| memory.free(address))
    }

    /// The instructions of a kernel that a launch would stop at, if it came to them.
    pub fn unsupported(&self, kernel: &str) -> Result<Vec<String>, Fault> {
        let unknown = self.code(kernel)?.instructions.iter().filter(|found| matches!(found.op, Op::Unsupported));
        Ok(unknown.map(|found| self.text(&found.text)).collect())
    }

    /// How often warps executed each operation, by its name with all modifiers
    /// (`ld.global.nc.v4.f32`).
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let decoded = self.code.values().filter_map(|code| code.get()?.as_ref().ok());
        for instruction in decoded.flat_map(|code| &code.instructions).filter(|found| found.executed() > 0) {
            let text = self.module.text(&instruction.text);
            // Without the guard; what ends a kernel that falls off its end has no text.
            let mut words = text.split(|c: char| c.is_whitespace() || c == '{').filter(|word| !word.is_empty());
            if let Some(name) = words.find(|word| !word.starts_with('@')) {
                *counts.entry(name.to_owned()).or_default() += instruction.executed();
            }
        }
        counts
    }

    pub(super) fn code(&self, kernel: &str) -> Result<&Code, Fault> {
        let missing = || Fault::BadLaunch { text: format!("no kernel {kernel}") };
        let decoded = self.code.get(kernel).ok_or_else(missing)?.get_or_init(|| {
            let addresses = self.globals.iter().map(|(name, place)| (name.clone(), place.0)).collect();
            decode::decode(&self.module, self.module.kernel(kernel).ok_or_else(missing)?, &addresses)
        });
        decoded.as_ref().map_err(Clone::clone)
    }

    /// An instruction's text on one line.
    pub(super) fn text(&self, span: &Range<usize>) -> String {
        self.module.text(span).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
