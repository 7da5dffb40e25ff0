use std::mem::MaybeUninit;

/// Elements for the exponentials of a row, on the stack and not cleared beyond what is asked for.
pub(crate) struct Scratch<R, const N: usize>([MaybeUninit<R>; N]);

impl<R: Copy + Default, const N: usize> Scratch<R, N> {
    pub(crate) fn new() -> Self {
        Self([MaybeUninit::uninit(); N])
    }

    /// The first `n` elements, zeroed.
    pub(crate) fn zeroed(&mut self, n: usize) -> &mut [R] {
        let first = &mut self.0[..n];
        first.fill(MaybeUninit::new(R::default()));
        // SAFETY: all of `first` has just been written, and `MaybeUninit<R>` is laid out as `R`.
        unsafe { &mut *(std::ptr::from_mut(first) as *mut [R]) }
    }
}
