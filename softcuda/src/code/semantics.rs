//! How an instruction takes part in the memory order, as its name says.
use super::operation::{Op, Scope, Semantics};
use crate::ptx::Opcode;

fn scope(op: &Opcode) -> Scope {
    if op.has("cta") { Scope::Block } else { Scope::Device }
}

pub(super) fn semantics(op: &Opcode) -> Semantics {
    let atomic = op.base == "atom" || op.base == "red";
    let volatile = op.has("volatile");
    let acquire = op.has("acquire") || op.has("acq_rel");
    let release = op.has("release") || op.has("acq_rel");
    Semantics {
        strong: atomic || volatile || op.has("relaxed") || acquire || release,
        volatile,
        acquire,
        release,
        atomic,
        read_only: op.has("nc"),
        scope: scope(op),
    }
}

/// A fence is sequentially consistent where it says so, and by its older name always.
pub(super) fn fence(op: &Opcode) -> Option<Op> {
    match op.base {
        "fence" if op.only("sc acq_rel cta gpu sys") => Some(Op::Fence { scope: scope(op), sc: op.has("sc") }),
        "membar" if op.only("cta gl sys") => Some(Op::Fence { scope: scope(op), sc: true }),
        _ => None,
    }
}
