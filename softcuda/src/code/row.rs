//! Rows of registers, and functions on them.

/// One register of the 32 lanes of a warp. Values of fewer than 64 bits are zero-extended.
pub(crate) type Row = [u64; 32];
/// Computes `dst` from `src` in the lanes of a mask.
pub(crate) type WarpFn = fn(rows: &mut [Row], dst: u32, src: &[u32; 4], mask: u32);
/// The lanes in which `a < b`, `a == b`, and neither is defined.
pub(crate) type CompareFn = fn(rows: &[Row], a: u32, b: u32) -> [u32; 3];
/// The old value and the operand of an atomic operation to the new value.
pub(crate) type AtomicFn = fn(u64, u64) -> u64;
