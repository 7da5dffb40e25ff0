//! Lanes of a vector as arrays. Loops over them are what the compiler turns into instructions.

/// The lanes that `lane` makes.
#[inline(always)]
pub(super) fn lanes<R: Copy + Default, const L: usize>(lane: impl Fn(usize) -> R) -> [R; L] {
    let mut all = [R::default(); L];
    for (i, one) in all.iter_mut().enumerate() {
        *one = lane(i);
    }
    all
}

/// The `L` elements from `at`.
#[inline(always)]
pub(super) fn load<T: Copy, const L: usize>(from: &[T], at: usize) -> [T; L] {
    *from[at..].first_chunk().expect("a whole vector")
}
