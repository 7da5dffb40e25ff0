//! The bounds that the crate set itself on a GPU, and what was reached.

use ala_loss_gpu::record::{Kind, Line};

use super::super::numbers::{percent, times};
use super::peers;
use super::times::{Batch, batches, odd};

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bound {
    /// What must be.
    pub(crate) what: &'static str,
    /// The worst of all types and sizes, and where it was; nothing where it was not measured.
    pub(crate) reached: Option<String>,
    /// Whether that is enough.
    pub(crate) met: Option<bool>,
}

/// Rows and classes of the small batch that has a bound.
const SMALL: (usize, usize) = (256, 1000);

/// All of them.
pub(crate) fn bounds(lines: &[Line]) -> Vec<Bound> {
    let large = batches(lines, Kind::Large);
    let rate = |what, least: f64, of: fn(usize) -> bool| {
        let those = large.iter().filter(|batch| of(batch.classes()));
        let rates = those.filter_map(|batch| Some((batch.percent_of_copy()?, place(batch))));
        bound(
            what,
            rates.min_by(|a, b| a.0.total_cmp(&b.0)),
            percent,
            |rate| rate >= least,
        )
    };
    let odd = odd(&large).into_iter();
    let odd = odd.map(|odd| {
        (
            odd.percent,
            format!(
                "{}, {} against {}",
                odd.dtype, odd.classes[0], odd.classes[1]
            ),
        )
    });
    let small = batches(lines, Kind::Small);
    let small = small
        .iter()
        .filter(|batch| (batch.rows(), batch.classes()) == SMALL);
    let small = small.filter_map(|batch| Some((batch.over_floor()?, batch.dtype().to_owned())));
    vec![
        rate(
            "C >= 1000: at least 90 % of the copy kernel's rate",
            90.0,
            |c| c >= 1000,
        ),
        rate("C = 365: at least 80 % of it", 80.0, |c| c == 365),
        rate("C = 100: at least 80 % of it", 80.0, |c| c == 100),
        bound(
            "unaligned rows: at most 3 % more time an element than aligned ones",
            odd.max_by(|a, b| a.0.total_cmp(&b.0)),
            percent,
            |cost| cost <= 3.0,
        ),
        bound(
            "256 x 1000 in a graph: at most 1.3 x (an empty kernel + the copy)",
            small.max_by(|a, b| a.0.total_cmp(&b.0)),
            times,
            |over| over <= 1.3,
        ),
        against_peers(lines),
    ]
}

fn place(batch: &Batch) -> String {
    format!("{}, C = {}", batch.dtype(), batch.classes())
}

fn bound(
    what: &'static str,
    worst: Option<(f64, String)>,
    write: fn(f64) -> String,
    enough: impl Fn(f64) -> bool,
) -> Bound {
    Bound {
        what,
        met: worst.as_ref().map(|(value, _)| enough(*value)),
        reached: worst.map(|(value, place)| format!("{} ({place})", write(value))),
    }
}

fn against_peers(lines: &[Line]) -> Bound {
    let cases = peers::cases(lines);
    let duels: Vec<_> = cases
        .iter()
        .filter(|case| case.batch() == Kind::Large)
        .flat_map(peers::Case::duels)
        .collect();
    let worst = duels.iter().min_by(|a, b| a.ahead.total_cmp(&b.ahead));
    let where_it_was = |duel: &&peers::Duel| {
        let peer = duel.peer;
        (
            duel.ahead,
            format!("{}, {}, C = {}", peer.op, peer.dtype, peer.c),
        )
    };
    let what = "large batches: the peer's time over ours more than 1 for every peer and C";
    bound(what, worst.as_ref().map(where_it_was), times, |ahead| {
        ahead > 1.0
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::{large, peer, small};
    use super::*;

    fn met(lines: &[Line]) -> Vec<Option<bool>> {
        bounds(lines).iter().map(|bound| bound.met).collect()
    }

    /// At every bound, exactly or by a little.
    fn at_the_bounds() -> Vec<Line> {
        let mut lines = large("f32", 1000, 10, [10.0, 1.0, 9.0]);
        lines.extend(large("bf16", 262_144, 10, [10.0, 1.0, 9.5]));
        lines.extend(large("f32", 365, 368, [10.0, 1.0, 8.0]));
        lines.extend(large("f32", 368, 365, [9.8, 1.0, 8.0]));
        lines.extend(large("f16", 100, 10, [10.0, 1.0, 8.0]));
        lines.extend(small("f32", 256, 1000, [5.2, 1.0, 3.0]));
        lines.extend([
            peer("ours CE", 10, Some(9.0)),
            peer("quack CE", 10, Some(9.1)),
        ]);
        lines
    }

    #[test]
    fn bounds_are_met_and_missed_by_the_worst_of_all() {
        assert_eq!(met(&at_the_bounds()), [Some(true); 6]);
        let missed: [Vec<Line>; 6] = [
            large("f16", 32_000, 10, [10.0, 1.0, 8.9]),
            large("bf16", 365, 368, [10.0, 1.0, 7.9]),
            large("bf16", 100, 10, [10.0, 1.0, 7.9]),
            [
                large("f16", 8142, 8192, [1.04, 1.0, 1.0]),
                large("f16", 8192, 8142, [1.0; 3]),
            ]
            .concat(),
            small("bf16", 256, 1000, [5.3, 1.0, 3.0]),
            vec![
                peer("ours ALA", 10, Some(9.0)),
                peer("torch ALA", 10, Some(8.9)),
            ],
        ];
        for (index, worse) in missed.into_iter().enumerate() {
            let lines = [at_the_bounds(), worse].concat();
            let expected: Vec<_> = (0..6).map(|at| Some(at != index)).collect();
            assert_eq!(met(&lines), expected, "bound {index}");
        }
    }

    #[test]
    fn the_worst_is_named_and_what_was_not_measured_is_neither_met_nor_missed() {
        let lines = large("f32", 1000, 10, [10.0, 1.0, 9.0]);
        let bounds = bounds(&lines);
        assert_eq!(bounds[0].reached.as_deref(), Some("90.0 % (f32, C = 1000)"));
        assert!(
            bounds[1..]
                .iter()
                .all(|bound| bound.met.is_none() && bound.reached.is_none())
        );
        // Another small batch has no bound.
        assert_eq!(met(&small("f32", 512, 8142, [50.0, 1.0, 3.0])), [None; 6]);
    }
}
