//! The border that every call passes: the one lock, and what a call needs before it may do
//! anything.

use super::code::Code;
use super::handle::Handle;
use super::state::State;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

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

/// The border: counts the call by its name, checks what it needs, runs it and gives its result
/// code.
pub fn call(name: &'static str, need: Need, body: impl FnOnce(&mut State) -> Result<(), Code>) -> Code {
    let answer = with_state(|state| {
        *state.calls.entry(name).or_default() += 1;
        admit(state, need)?;
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

/// Whether a call that needs so much may do anything.
fn admit(state: &State, need: Need) -> Result<(), Code> {
    if need != Need::Nothing && !state.initialised {
        return Err(Code::NotInitialized);
    }
    if need == Need::Context {
        match &state.context {
            _ if current() == 0 => return Err(Code::InvalidContext),
            Some(context) if context.handle == current() => {}
            _ => return Err(Code::ContextIsDestroyed),
        }
        if let Some(code) = state.fault {
            return Err(code);
        }
    }
    Ok(())
}
