//! The bounds, and whether they are met.

use ala_loss_gpu::record::Line;

use super::super::figures::bounds::bounds;
use super::super::table::Table;

pub(super) fn section(lines: &[Line]) -> Option<String> {
    let bounds = bounds(lines);
    if bounds.iter().all(|bound| bound.met.is_none()) {
        return None;
    }
    let mut table = Table::new(["bound", "reached", "met"]);
    for bound in bounds {
        let met = match bound.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let reached = bound.reached.unwrap_or_else(|| "not measured".into());
        table.row([bound.what, &reached, met]);
    }
    Some(format!(
        "The worst of all types and sizes counts.\n\n{}",
        table.markdown()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::large;
    use super::*;

    #[test]
    fn met_and_missed_are_told_apart() {
        let mut lines = large("f32", 1000, 10, [10.0, 1.0, 9.0]);
        lines.extend(large("f32", 365, 10, [10.0, 1.0, 7.0]));
        let text = section(&lines).expect("measured");
        assert!(text.contains("90.0 % (f32, C = 1000) | yes"), "{text}");
        assert!(text.contains("70.0 % (f32, C = 365) | **no**"), "{text}");
        assert!(text.contains("not measured | -"), "{text}");
        assert_eq!(section(&[]), None);
    }
}
