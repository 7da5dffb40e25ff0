//! What both halves know of the shard.

use crate::call::Options;
use crate::shard::{LossShard, RecordLayout};

/// The same.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Share {
    pub(super) first_class: usize,
    pub(super) classes: usize,
    pub(super) reference_slope: f64,
    pub(in crate::cpu) layout: RecordLayout,
}

impl Share {
    pub(in crate::cpu) fn new<R>(shard: &LossShard, options: &Options<'_, R>) -> Self {
        Self {
            first_class: shard.classes().start,
            classes: shard.part().classes(),
            reference_slope: shard.reference_slope(),
            layout: shard.layout(options),
        }
    }

    /// A class among these, where it is one of them.
    pub(super) fn place(&self, class: usize) -> Option<usize> {
        let place = class.wrapping_sub(self.first_class);
        (place < self.classes).then_some(place)
    }
}
