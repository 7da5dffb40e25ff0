//! What the records amount to: pure functions from lines to figures.

pub(crate) mod bounds;
pub(crate) mod counters;
pub(crate) mod outcomes;
pub(crate) mod peers;
pub(crate) mod rates;
pub(crate) mod tiers;
pub(crate) mod times;

/// The stages, in their order.
pub(crate) const STAGES: [&str; 9] = [
    "facts", "parity", "sanitize", "times", "tiers", "candle", "nccl", "peers", "counters",
];
/// Types of logits, in the order of their importance.
pub(crate) const DTYPES: [&str; 3] = ["f32", "bf16", "f16"];

/// Where a type stands among the others.
fn place(dtype: &str) -> usize {
    DTYPES
        .iter()
        .position(|known| *known == dtype)
        .unwrap_or(DTYPES.len())
}

/// The records of one kind among lines.
macro_rules! of_kind {
    ($lines:expr, $kind:ident) => {
        $lines.iter().filter_map(|line| match &line.record {
            ala_loss_gpu::record::Record::$kind(record) => Some(record),
            _ => None,
        })
    };
}
pub(crate) use of_kind;
