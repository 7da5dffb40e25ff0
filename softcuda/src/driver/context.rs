//! Initialisation, the device and its primary context.

use super::code::{Code, describe};
use super::pointer::{Host, Out};
use super::queue::{LEGACY, PER_THREAD, Queue};
use super::state::{CAPACITY, Context, DEVICE, Handle, Need, call, calls, current, make_current};
use std::ffi::{c_char, c_int};

/// What a block, and an SM, of the device can hold: the figures of an H100, or as far as they differ of the compute capability
/// that `SOFTCUDA_CAPABILITY` names (75, 80, ...).
pub mod limit {
    use crate::occupancy::Sm;
    use std::sync::OnceLock;

    pub const THREADS_PER_BLOCK: u32 = 1024;
    pub const BLOCK: [u32; 3] = [1024, 1024, 64];
    pub const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
    /// Without an opt-in.
    pub const SHARED_PER_BLOCK: u32 = 48 << 10;
    pub const REGISTERS: u32 = 65536;
    pub const WARP: u32 = 32;
    pub const SMS: u32 = 132;

    /// An SM; its compute capability is that of the PTX that runs and of the SASS whose register counts are reported.
    pub fn sm() -> &'static Sm {
        static SM: OnceLock<&'static Sm> = OnceLock::new();
        SM.get_or_init(|| {
            let capability = std::env::var("SOFTCUDA_CAPABILITY").unwrap_or_else(|_| "90".into());
            let known = capability.parse().ok().and_then(Sm::of);
            known.unwrap_or_else(|| {
                panic!("SOFTCUDA_CAPABILITY is {capability}: softcuda knows 75, 80, 86, 89, 90, 100 and 120")
            })
        })
    }

    /// Of a block, with an opt-in.
    pub fn shared_opt_in() -> u32 {
        sm().shared - sm().reserved
    }
}

const DRIVER_VERSION: c_int = 13000;
const NAME: &[u8] = b"softcuda\0";

/// An attribute's value; 0 (not there, not supported) for those not listed.
fn attribute(id: u32) -> u32 {
    match id {
        1 => limit::THREADS_PER_BLOCK,
        2..=4 => limit::BLOCK[id as usize - 2],
        5..=7 => limit::GRID[id as usize - 5],
        8 => limit::SHARED_PER_BLOCK,
        9 => 64 << 10, // constant memory
        10 => limit::WARP,
        12 | 82 => limit::REGISTERS,
        13 => 1_980_000, // clock, kHz
        16 => limit::SMS,
        36 => 2_619_000, // memory clock, kHz
        37 => 5120,      // memory bus, bits
        38 => 50 << 20,  // L2
        39 => limit::sm().warps * limit::WARP,
        75 => limit::sm().capability / 10,
        76 => limit::sm().capability % 10,
        81 => limit::sm().shared,
        97 => limit::shared_opt_in(),
        106 => limit::sm().blocks,
        111 => limit::sm().reserved,
        // Can map host memory, concurrent kernels, unified addressing, stream priorities, memory pools.
        19 | 31 | 41 | 78 | 115 => 1,
        _ => 0,
    }
}

fn known(device: c_int) -> Result<(), Code> {
    if device == DEVICE { Ok(()) } else { Err(Code::InvalidDevice) }
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
        version.set(DRIVER_VERSION)
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

    Init: fn cuDeviceGet(_, device: Out<c_int>, ordinal: c_int) {
        known(ordinal)?;
        device.set(DEVICE)
    }

    Init: fn cuDeviceGetAttribute(_, value: Out<c_int>, id: u32, device: c_int) {
        known(device)?;
        if !(1..=162).contains(&id) {
            return Err(Code::InvalidValue);
        }
        value.set(attribute(id) as c_int)
    }

    Init: fn cuDeviceGetName(_, name: Host, length: c_int, device: c_int) {
        known(device)?;
        let length = usize::try_from(length).map_err(|_| Code::InvalidValue)?;
        name.write(&NAME[..length.min(NAME.len())])
    }

    Init: fn cuDeviceGetUuid_v2(_, uuid: Out<[u8; 16]>, device: c_int) {
        known(device)?;
        uuid.set(*b"softcuda-device0")
    }

    Init: fn cuDeviceTotalMem_v2(_, bytes: Out<usize>, device: c_int) {
        known(device)?;
        bytes.set(CAPACITY as usize)
    }

    Init: fn cuDevicePrimaryCtxRetain(state, context: Out<Handle>, device: c_int) {
        known(device)?;
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

    Init: fn cuDevicePrimaryCtxRelease_v2(state, device: c_int) {
        known(device)?;
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

    Context: fn cuCtxGetDevice(_, device: Out<c_int>) {
        device.set(DEVICE)
    }

    Context: fn cuCtxSynchronize(state) {
        state.refuse_any_capture("synchronising the context")?;
        state.run_all()
    }
}
