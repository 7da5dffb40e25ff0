//! What callers hold by a handle.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Objects by handle. Handles are never addresses, so a wrong one is only not found.
#[derive(Debug)]
pub(crate) struct Table<T>(Mutex<(usize, BTreeMap<usize, T>)>);

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((0, BTreeMap::new())))
    }

    /// Keeps an object; gives its handle.
    pub(crate) fn insert(&self, object: T) -> usize {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.0 += 0x10;
        let handle = table.0;
        table.1.insert(handle, object);
        handle
    }

    pub(crate) fn remove(&self, handle: usize) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&handle)
    }

    /// Runs `body` on an object, if there is one of that handle.
    pub(crate) fn with<R>(&self, handle: usize, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.get_mut(&handle).map(body)
    }
}
