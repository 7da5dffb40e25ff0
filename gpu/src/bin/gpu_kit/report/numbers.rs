//! How numbers are written.

use ala_loss_gpu::clock::Spread;

/// Microseconds, with three digits at least.
pub(crate) fn us(us: f64) -> String {
    match us {
        ..10.0 => format!("{us:.2}"),
        ..1000.0 => format!("{us:.1}"),
        _ => format!("{us:.0}"),
    }
}

/// From the tenth to the ninetieth percentile.
pub(crate) fn spread(spread: Spread) -> String {
    format!("{}..{}", us(spread.p10), us(spread.p90))
}

/// Per cent.
pub(crate) fn percent(percent: f64) -> String {
    format!("{percent:.1} %")
}

/// So many times something.
pub(crate) fn times(factor: f64) -> String {
    match factor {
        ..10.0 => format!("{factor:.2} x"),
        _ => format!("{factor:.1} x"),
    }
}

/// A dash where there is none.
pub(crate) fn or_dash(value: Option<f64>, write: fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), write)
}
