//! Each thread's own room for the exponentials of a row.

use std::cell::RefCell;
use std::thread::LocalKey;

/// The bytes of a line of the cache.
pub(super) const LINE: usize = 64;

/// A thread's buffer in one precision.
pub(super) type RowBuffer<R> = LocalKey<RefCell<Vec<R>>>;

thread_local! {
    pub(super) static SINGLE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    pub(super) static DOUBLE: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// Hands out `len` numbers, which hold anything and begin a line of the cache. They are allocated
/// when a thread first asks for so many; `None`, without a call, where there is no memory for them.
pub(super) fn with<R: Copy + Default, A>(
    buffer: &'static RowBuffer<R>,
    len: usize,
    call: impl FnOnce(&mut [R]) -> A,
) -> Option<A> {
    let most = len + LINE / size_of::<R>();
    let call = |buffer: &RefCell<Vec<R>>| {
        let mut buffer = buffer.try_borrow_mut().ok()?;
        let had = buffer.len();
        buffer.try_reserve_exact(most.saturating_sub(had)).ok()?;
        buffer.resize(had.max(most), R::default());
        let start = buffer.as_ptr().align_offset(LINE).min(most - len);
        Some(call(&mut buffer[start..][..len]))
    };
    buffer.try_with(call).ok().flatten()
}
