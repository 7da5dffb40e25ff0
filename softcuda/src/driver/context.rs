//! Initialisation, the device and its primary context.

use super::border::{Need, call, calls, current, make_current};
use super::code::{Code, describe};
use super::handle::{DEVICE, Handle, LEGACY, PER_THREAD};
use super::pointer::{Host, Out};
use super::queue::Queue;
use super::state::{Context, State};
use crate::device;
use std::ffi::{c_char, c_int};

/// An attribute's value; 0 (not there, not supported) for those not listed.
fn attribute(id: u32) -> u32 {
    let sm = device::current_sm();
    match id {
        1 => device::THREADS_PER_BLOCK,
        2..=4 => device::BLOCK[id as usize - 2],
        5..=7 => device::GRID[id as usize - 5],
        8 => device::SHARED_PER_BLOCK,
        9 => device::CONSTANT,
        10 => device::WARP,
        12 | 82 => device::REGISTERS,
        13 => device::CLOCK,
        16 => device::SM_COUNT,
        36 => device::MEMORY_CLOCK,
        37 => device::MEMORY_BUS,
        38 => device::L2,
        39 => sm.warps * device::WARP,
        75 => sm.capability / 10,
        76 => sm.capability % 10,
        81 => sm.shared,
        97 => sm.shared_opt_in(),
        106 => sm.blocks,
        111 => sm.reserved,
        // Can map host memory, concurrent kernels, unified addressing, stream priorities, memory
        // pools.
        19 | 31 | 41 | 78 | 115 => 1,
        _ => 0,
    }
}

fn known(ordinal: c_int) -> Result<(), Code> {
    if ordinal == DEVICE { Ok(()) } else { Err(Code::InvalidDevice) }
}

impl State {
    /// Ends the primary context: the work left runs (so that its faults are seen), then all the
    /// context owned is gone.
    fn destroy_context(&mut self) {
        for stream in self.queues.keys().copied().collect::<Vec<_>>() {
            self.lose_downloads(stream);
        }
        if self.fault.is_none() {
            let _ = self.run_all();
        }
        self.forget_context();
    }
}

calls! {
    Nothing: fn cuInit(state, flags: u32) {
        if flags != 0 {
            return Err(Code::InvalidValue);
        }
        state.initialised = true;
        Ok(())
    }

    Nothing: fn cuDriverGetVersion(_, version: Out<c_int>) {
        let (major, minor) = device::driver_version();
        version.set((1000 * major + 10 * minor) as c_int)
    }

    /// Of functions for NVIDIA's own libraries: NVRTC asks for some, and does without.
    Nothing: fn cuGetExportTable(_, table: Out<usize>, _id: Host) {
        table.set(0)?;
        Err(Code::NotSupported)
    }

    Nothing: fn cuGetErrorName(_, code: u32, name: Out<*const c_char>) {
        let known = describe(code);
        name.set(known.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        known.map(drop).ok_or(Code::InvalidValue)
    }

    Nothing: fn cuGetErrorString(_, code: u32, text: Out<*const c_char>) {
        let known = describe(code);
        text.set(known.map_or(std::ptr::null(), |(_, text)| text.as_ptr()))?;
        known.map(drop).ok_or(Code::InvalidValue)
    }

    Init: fn cuDeviceGetCount(_, count: Out<c_int>) {
        count.set(1)
    }

    Init: fn cuDeviceGet(_, place: Out<c_int>, ordinal: c_int) {
        known(ordinal)?;
        place.set(DEVICE)
    }

    Init: fn cuDeviceGetAttribute(_, value: Out<c_int>, id: u32, ordinal: c_int) {
        known(ordinal)?;
        if !(1..=162).contains(&id) {
            return Err(Code::InvalidValue);
        }
        value.set(attribute(id) as c_int)
    }

    Init: fn cuDeviceGetName(_, name: Host, length: c_int, ordinal: c_int) {
        known(ordinal)?;
        let length = usize::try_from(length).map_err(|_| Code::InvalidValue)?;
        name.write(&device::NAME[..length.min(device::NAME.len())])
    }

    Init: fn cuDeviceGetPCIBusId(_, id: Host, length: c_int, ordinal: c_int) {
        known(ordinal)?;
        const ID: &[u8] = b"0000:00:1f.7\0";
        if usize::try_from(length).is_ok_and(|length| length >= ID.len()) { id.write(ID) } else { Err(Code::InvalidValue) }
    }

    Init: fn cuDeviceGetUuid_v2(_, uuid: Out<[u8; 16]>, ordinal: c_int) {
        known(ordinal)?;
        uuid.set(*b"softcuda-device0")
    }

    Init: fn cuDeviceTotalMem_v2(_, bytes: Out<usize>, ordinal: c_int) {
        known(ordinal)?;
        bytes.set(device::CAPACITY as usize)
    }

    Init: fn cuDevicePrimaryCtxRetain(state, context: Out<Handle>, ordinal: c_int) {
        known(ordinal)?;
        if state.context.is_none() {
            let handle = state.new_handle();
            state.context = Some(Context { handle, retained: 0 });
            for stream in [LEGACY, PER_THREAD] {
                state.queues.insert(stream, Queue::new(true));
            }
        }
        let primary = state.context.as_mut().expect("made above");
        context.set(primary.handle)?;
        primary.retained += 1;
        Ok(())
    }

    Init: fn cuDevicePrimaryCtxRelease_v2(state, ordinal: c_int) {
        known(ordinal)?;
        let context = state.context.as_mut().ok_or(Code::InvalidContext)?;
        context.retained -= 1;
        if context.retained == 0 {
            state.destroy_context();
        }
        Ok(())
    }

    Init: fn cuCtxGetCurrent(_, context: Out<Handle>) {
        context.set(current())
    }

    Init: fn cuCtxSetCurrent(state, context: Handle) {
        let primary = state.context.as_ref().map_or(0, |primary| primary.handle);
        if context != 0 && context != primary {
            return Err(Code::InvalidContext);
        }
        make_current(context);
        Ok(())
    }

    /// Of a context that a program created, and there is no call for that here.
    Init: fn cuCtxDestroy_v2(state, _context: Handle) {
        Err(state.refuse(Code::InvalidContext, "the primary context is released, not destroyed"))
    }

    Context: fn cuCtxGetDevice(_, place: Out<c_int>) {
        place.set(DEVICE)
    }

    Context: fn cuCtxSynchronize(state) {
        state.refuse_any_capture("synchronising the context")?;
        state.run_all()
    }
}
