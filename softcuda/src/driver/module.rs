//! Modules, kernels and their attributes.

use super::border::{Need, call, calls};
use super::code::Code;
use super::handle::Handle;
use super::image::{Function, LoadedImage, read_image};
use super::pointer::{Host, Out};
use super::state::State;
use crate::device::{current_sm, driver_version, newest_ptx};
use crate::exec::LoadedModule;
use crate::ptx::Module;
use std::ffi::{CString, c_int};
use std::sync::Arc;

impl State {
    fn load(&mut self, out: Out<Handle>, image: Host) -> Result<(), Code> {
        self.refuse_unsafe("loading a module")?;
        out.set(0)?;
        let contents = match read_image(image) {
            Ok(contents) => contents,
            Err((code, None)) => return Err(code),
            Err((code, Some(why))) => return Err(self.refuse(code, why)),
        };
        let module = match Module::parse(&contents.ptx) {
            Ok(module) => module,
            Err(fault) => return Err(self.refuse(Code::InvalidPtx, fault.to_string())),
        };
        let newest = newest_ptx(driver_version());
        if module.version > newest {
            let ((major, minor), (most, least)) = (module.version, newest);
            let why = format!("PTX of version {major}.{minor}: this driver understands {most}.{least} at most");
            return Err(self.refuse(Code::UnsupportedPtxVersion, why));
        }
        let module = match LoadedModule::load(module, &mut self.memory) {
            Ok(module) => Arc::new(module),
            Err(fault) => return Err(self.refuse(Code::OutOfMemory, fault.to_string())),
        };
        let handle = self.new_handle();
        self.images.insert(handle, LoadedImage { module, registers: contents.registers });
        out.set(handle)
    }
}

calls! {
    /// Of PTX only: a fat binary may hold a NUL, where the text that is read here ends.
    Context: fn cuModuleLoad(state, module: Out<Handle>, path: Host) {
        let path = path.text()?;
        let contents = std::fs::read(&path).map_err(|_| state.refuse(Code::FileNotFound, format!("no file {path}")))?;
        let text = CString::new(contents)
            .map_err(|_| state.refuse(Code::NotSupported, format!("{path} is not PTX")))?;
        state.load(module, Host::of(&text))
    }

    Context: fn cuModuleLoadData(state, module: Out<Handle>, image: Host) {
        state.load(module, image)
    }

    /// The options steer a compiler that is not there.
    Context: fn cuModuleLoadDataEx(
        state, module: Out<Handle>, image: Host, _options: u32, _keys: Host, _values: Host,
    ) {
        state.load(module, image)
    }

    Context: fn cuModuleLoadFatBinary(state, module: Out<Handle>, image: Host) {
        state.load(module, image)
    }

    Context: fn cuModuleUnload(state, module: Handle) {
        state.refuse_unsafe("unloading a module")?;
        if !state.images.contains_key(&module) {
            return Err(Code::InvalidHandle);
        }
        state.run_all()?;
        state.functions.retain(|_, function| function.image != module);
        let image = state.images.remove(&module).expect("looked up above");
        state.keep_operations(&image);
        image.module.unload(&mut state.memory).map_err(|fault| state.stop_for("unloading a module", &fault))
    }

    Context: fn cuModuleGetFunction(state, function: Out<Handle>, module: Handle, name: Host) {
        let (image, name) = (state.images.get(&module).ok_or(Code::InvalidHandle)?, name.text()?);
        if image.module.module().kernel(&name).is_none() {
            return Err(state.refuse(Code::NotFound, format!("no kernel {name} in the module")));
        }
        let same = |(_, function): &(&Handle, &Function)| function.image == module && function.name == name;
        if let Some((&known, _)) = state.functions.iter().find(same) {
            return function.set(known);
        }
        let handle = state.new_handle();
        state.functions.insert(handle, Function::new(module, name));
        function.set(handle)
    }

    Context: fn cuModuleGetGlobal_v2(state, address: Out<u64>, bytes: Out<usize>, module: Handle, name: Host) {
        let (image, name) = (state.images.get(&module).ok_or(Code::InvalidHandle)?, name.text()?);
        let Some((at, size)) = image.module.global(&name) else {
            return Err(state.refuse(Code::NotFound, format!("no global {name} in the module")));
        };
        // Either may be left out.
        let _ = address.set(at);
        let _ = bytes.set(size as usize);
        Ok(())
    }

    Context: fn cuFuncGetAttribute(state, value: Out<c_int>, attribute: u32, function: Handle) {
        let footprint = state.footprint(function)?;
        let (found, image, _) = state.function(function)?;
        let number = match attribute {
            0 => footprint.max_threads,
            1 => footprint.static_shared,
            2 => 0, // constant memory of the kernel's own
            3 => 0, // local memory
            4 => footprint.registers,
            5 => image.module.module().target,
            6 => current_sm().capability,
            7 => 0, // cache mode
            8 => found.max_dynamic_shared,
            9 => return value.set(found.carveout),
            _ => return Err(Code::InvalidValue),
        };
        value.set(number as c_int)
    }

    Context: fn cuFuncSetAttribute(state, function: Handle, attribute: u32, value: c_int) {
        let most = state.footprint(function)?.most_dynamic_shared();
        let found = state.functions.get_mut(&function).ok_or(Code::InvalidHandle)?;
        match (attribute, u32::try_from(value)) {
            (8, Ok(bytes)) if bytes <= most => found.max_dynamic_shared = bytes,
            (9, _) if (-1..=100).contains(&value) => found.carveout = value,
            _ => return Err(state.refuse(Code::InvalidValue, format!("function attribute {attribute} set to {value}"))),
        }
        Ok(())
    }
}
