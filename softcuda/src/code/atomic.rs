//! What atomic operations make of the old value.
use super::lanes::Lane;
use super::row::AtomicFn;
use crate::ptx::Ty;

/// The update of an `atom` or `red`.
pub(super) fn lookup(name: &str, ty: Ty) -> Option<AtomicFn> {
    Some(match (name, ty) {
        ("add", Ty::U32) => |old, b| (old as u32).wrapping_add(b as u32).put(),
        ("add", Ty::U64) => |old, b| old.wrapping_add(b),
        ("add", Ty::F32) => |old, b| (f32::get(old) + f32::get(b)).put(),
        ("min", Ty::U64) => |old, b| old.min(b),
        ("exch", Ty::B32 | Ty::B64) => |_, b| b,
        _ => return None,
    })
}
