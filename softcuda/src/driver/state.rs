//! Everything the driver knows, behind one lock, and the border every call passes.

use super::capture::{Capture, Graph};
use super::code::Code;
use super::module::{Function, LoadedImage};
use super::queue::{Event, KernelLaunch, Queue};
use crate::counters::Counters;
use crate::exec::{Order, RESIDENT_BLOCKS};
use crate::fault::Fault;
use crate::memory::Memory;
use std::alloc::Layout;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// An opaque handle as the caller holds it. Handles are never addresses of ours, so a wrong one is only not found.
pub type Handle = usize;

/// The only device.
pub const DEVICE: i32 = 0;
/// Device memory, in bytes; host memory is taken only for what is allocated.
pub const CAPACITY: u64 = 16 << 30;

/// One device allocation of the caller's.
pub struct Block {
    /// From `cuMemAllocAsync`.
    pub pooled: bool,
    /// A free is in a queue.
    pub freed: bool,
}

/// The primary context.
pub struct Context {
    pub handle: Handle,
    pub retained: u32,
}

/// The driver's state.
pub struct State {
    pub initialised: bool,
    pub context: Option<Context>,
    pub memory: Memory,
    pub blocks: BTreeMap<u64, Block>,
    /// Page-locked host memory by address.
    pub pinned: BTreeMap<usize, Layout>,
    pub queues: BTreeMap<Handle, Queue>,
    pub events: BTreeMap<Handle, Event>,
    pub captures: BTreeMap<Handle, Capture>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub executables: BTreeMap<Handle, Graph>,
    pub images: BTreeMap<Handle, LoadedImage>,
    pub functions: BTreeMap<Handle, Function>,
    pub order: Order,
    /// Blocks that the device holds at a time.
    pub resident: usize,
    pub races: bool,
    /// Whether asynchronous copies to pageable host memory are done when their call returns.
    pub prompt_downloads: bool,
    pub counters: Counters,
    /// The launch that ran last.
    pub last_launch: Option<Arc<KernelLaunch>>,
    /// The fault that stopped the device, for as long as nobody resets it.
    pub fault: Option<Code>,
    /// The text of the last fault or refusal.
    pub message: String,
    pub calls: BTreeMap<&'static str, u64>,
    /// Allocations that a destroyed context took with it.
    pub leaked: u64,
    /// Copies to pageable host memory whose stream was destroyed before anything waited for them.
    pub lost_copies: u64,
    next_handle: Handle,
}

/// What a call needs before it may do anything.
#[derive(Clone, Copy, PartialEq)]
pub enum Need {
    Nothing,
    /// `cuInit`.
    Init,
    /// A current context that no fault has stopped.
    Context,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// The context current to this thread, 0 for none.
pub fn current() -> Handle {
    CURRENT.get()
}

/// Makes a context current to this thread.
pub fn make_current(context: Handle) {
    CURRENT.set(context);
}

/// Runs `body` on the state; no panic leaves it.
pub fn with_state<R>(body: impl FnOnce(&mut State) -> R) -> Option<R> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let state = state.get_or_insert_with(State::new);
    catch_unwind(AssertUnwindSafe(|| body(state)))
        .inspect_err(|panic| {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no text".into());
            state.stop(Code::Unknown, format!("softcuda itself panicked: {text}"));
        })
        .ok()
}

/// The border: counts the call by its name, checks what it needs, runs it and gives its result code.
pub fn call(name: &'static str, need: Need, body: impl FnOnce(&mut State) -> Result<(), Code>) -> Code {
    let answer = with_state(|state| {
        *state.calls.entry(name).or_default() += 1;
        state.admit(need)?;
        body(state)
    });
    match answer {
        Some(Ok(())) => Code::Success,
        Some(Err(code)) => code,
        None => Code::Unknown,
    }
}

/// Declares driver calls: what each needs, its C name, the state, its arguments and what it does.
macro_rules! calls {
    ($($(#[$doc:meta])* $need:ident: fn $name:ident($state:pat $(, $arg:ident: $ty:ty)* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($arg: $ty),*) -> Code {
            call(stringify!($name), Need::$need, |$state| $body)
        }
    )*};
}
pub(super) use calls;

impl State {
    fn new() -> Self {
        Self {
            initialised: false,
            context: None,
            memory: Memory::new(CAPACITY),
            blocks: BTreeMap::new(),
            pinned: BTreeMap::new(),
            queues: BTreeMap::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            images: BTreeMap::new(),
            functions: BTreeMap::new(),
            order: Order::Forward,
            resident: RESIDENT_BLOCKS,
            races: true,
            prompt_downloads: false,
            counters: Counters::default(),
            last_launch: None,
            fault: None,
            message: String::new(),
            calls: BTreeMap::new(),
            leaked: 0,
            lost_copies: 0,
            next_handle: 0x5c00_0000,
        }
    }

    /// Forgets everything. Handles are not given out twice, so those of before stay invalid. Page-locked memory is not
    /// returned to the host's allocator: a program may still hold slices of it.
    pub fn reset(&mut self) {
        let next_handle = self.next_handle;
        *self = Self { initialised: self.initialised, next_handle, ..Self::new() };
    }

    fn admit(&self, need: Need) -> Result<(), Code> {
        if need != Need::Nothing && !self.initialised {
            return Err(Code::NotInitialized);
        }
        if need == Need::Context {
            match &self.context {
                _ if current() == 0 => return Err(Code::InvalidContext),
                Some(context) if context.handle == current() => {}
                _ => return Err(Code::ContextIsDestroyed),
            }
            if let Some(code) = self.fault {
                return Err(code);
            }
        }
        Ok(())
    }

    /// A handle not given out before.
    pub fn new_handle(&mut self) -> Handle {
        self.next_handle += 0x10;
        self.next_handle
    }

    /// Keeps and prints why a call is refused; the device goes on.
    pub fn refuse(&mut self, code: Code, why: impl Into<String>) -> Code {
        self.message = why.into();
        eprintln!("softcuda: refused: {}", self.message);
        code
    }

    /// Stops the device for good: this and every later call fails until the instrument is reset.
    pub fn stop(&mut self, code: Code, why: String) -> Code {
        eprintln!("softcuda: fault: {why}");
        self.message = why;
        self.fault = Some(code);
        for queue in self.queues.values_mut() {
            queue.clear();
        }
        code
    }

    /// Stops the device for a fault of a piece of work.
    pub fn stop_for(&mut self, work: &str, fault: &Fault) -> Code {
        self.stop(fault_code(fault), format!("{work}: {fault}"))
    }

    /// Whether `bytes` from `address` on lie in one live allocation.
    pub fn covers(&self, address: u64, bytes: u64) -> bool {
        let within = |&(start, size): &(u64, u64)| {
            address.checked_sub(start).is_some_and(|offset| offset <= size && bytes <= size - offset)
        };
        bytes == 0 || self.memory.live().iter().any(within)
    }

    /// Ends the primary context: the work left runs (so that its faults are seen), then all the context owned is gone.
    pub fn destroy_context(&mut self) {
        for stream in self.queues.keys().copied().collect::<Vec<_>>() {
            self.lose_downloads(stream);
        }
        if self.fault.is_none() {
            let _ = self.run_all();
        }
        self.leaked += self.blocks.values().filter(|block| !block.freed).count() as u64;
        let calls = std::mem::take(&mut self.calls);
        let (message, pinned) = (std::mem::take(&mut self.message), std::mem::take(&mut self.pinned));
        let &mut Self {
            next_handle,
            order,
            resident,
            races,
            prompt_downloads,
            counters,
            fault,
            leaked,
            lost_copies,
            ..
        } = self;
        let new =
            Self { initialised: true, next_handle, order, resident, races, prompt_downloads, counters, ..Self::new() };
        *self = Self { calls, message, pinned, fault, leaked, lost_copies, ..new };
    }
}

/// The result code a real device would give for a fault.
fn fault_code(fault: &Fault) -> Code {
    match fault {
        Fault::OutOfBounds { .. } | Fault::UseAfterFree { .. } => Code::IllegalAddress,
        Fault::Misaligned { .. } => Code::MisalignedAddress,
        _ => Code::LaunchFailed,
    }
}
