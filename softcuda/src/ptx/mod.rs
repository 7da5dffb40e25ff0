//! PTX text as a module: its variables and kernels. Bodies are decoded when a kernel is first
//! launched.

mod module;
mod opcode;
mod statement;
mod ty;
mod variable;

pub use module::{Kernel, Module, Param};
pub(crate) use opcode::Opcode;
pub(crate) use statement::{Kind, Statement};
pub(crate) use ty::Ty;
pub use variable::Global;
pub(crate) use variable::Variable;
