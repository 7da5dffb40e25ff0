//! How an instruction takes part in the memory order, as its name says.
use super::opcode::Opcode;
use crate::exec::code::{Op, Scope, Semantics};

fn scope(op: &Opcode) -> Scope {
    if op.has("cta") { Scope::Block } else { Scope::Device }
}

pub(super) fn semantics(op: &Opcode) -> Semantics {
    let atomic = op.base == "atom" || op.base == "red";
    let (volatile, both) = (op.has("volatile"), op.has("acq_rel"));
    Semantics {
        strong: atomic || volatile || both || op.has("relaxed") || op.has("acquire") || op.has("release"),
        volatile,
        acquire: both || op.has("acquire"),
        release: both || op.has("release"),
        atomic,
        read_only: op.has("nc"),
        scope: scope(op),
    }
}

/// A fence is sequentially consistent where it says so, and by its older name always.
pub(super) fn fence(op: &Opcode) -> Option<Op> {
    let among_proxies = op.flags.iter().any(|flag| flag.starts_with("proxy"));
    match op.base {
        // All accesses here go the same way.
        "fence" if among_proxies => Some(Op::Nothing),
        "fence" if op.only("sc acq_rel cta cluster gpu sys") => Some(Op::Fence { scope: scope(op), sc: op.has("sc") }),
        "membar" if op.only("cta gl sys") => Some(Op::Fence { scope: scope(op), sc: true }),
        _ => None,
    }
}
