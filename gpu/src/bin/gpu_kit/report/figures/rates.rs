//! Lines of a chart: per cent of the copy kernel's rate by classes, of ours and of each peer.

use ala_loss_gpu::record::{Kind, Line};

use super::peers::{self, FAMILIES};
use super::times;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Whose, without the family.
    pub(crate) whose: String,
    /// `ALA` or `CE`.
    pub(crate) family: &'static str,
    /// Classes and per cent.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Those of a type. Ours are from the same run as the peers', where there are peers.
pub(crate) fn rates(lines: &[Line], dtype: &str) -> Vec<Rates> {
    let cases = peers::cases(lines);
    let cases: Vec<_> = cases
        .into_iter()
        .filter(|case| case.batch() == Kind::Large && case.dtype() == dtype)
        .collect();
    let mut all = Vec::new();
    for (family, _) in FAMILIES {
        let names = peers::names(lines, family);
        // Variants of a peer ("X CE fused" of "X CE") share its line.
        let variant = |name: &str, of: &str| {
            name.strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let heads = names.iter().filter(|name| {
            let others = names.iter().filter(|other| other != name);
            others.into_iter().all(|other| !variant(name, other))
        });
        for head in heads {
            let best = |case: &peers::Case| {
                let variants = case.family(family).filter(|peer| variant(&peer.op, head));
                let rates = variants.filter_map(|peer| case.percent_of_copy(peer));
                let best = rates.max_by(f64::total_cmp)?;
                Some((case.classes() as f64, best))
            };
            all.push(Rates {
                whose: head.trim_end_matches(family).trim().to_owned(),
                family,
                points: cases.iter().filter_map(best).collect(),
            });
        }
    }
    all.retain(|rates| !rates.points.is_empty());
    if all.is_empty() {
        all.extend(of_times(lines, dtype));
    }
    all
}

fn of_times(lines: &[Line], dtype: &str) -> Option<Rates> {
    let large = times::batches(lines, Kind::Large);
    let large = large.iter().filter(|batch| batch.dtype() == dtype);
    let points: Vec<_> = large
        .filter_map(|batch| Some((batch.classes() as f64, batch.percent_of_copy()?)))
        .collect();
    (!points.is_empty()).then(|| Rates {
        whose: "ours".into(),
        family: "ALA",
        points,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::{large, peer};
    use super::*;

    #[test]
    fn a_peers_variants_share_its_line_and_the_best_counts() {
        let lines = [
            peer("copy (ours)", 10, Some(8.0)),
            peer("ours CE", 10, Some(10.0)),
            peer("quack CE", 10, Some(20.0)),
            peer("quack CE fused in place", 10, Some(16.0)),
            peer("torch CE", 10, None),
        ];
        let rates = rates(&lines, "f32");
        let names: Vec<_> = rates
            .iter()
            .map(|rates| (rates.whose.as_str(), rates.points[0].1))
            .collect();
        assert_eq!(names, [("ours", 80.0), ("quack", 50.0)]);
    }

    #[test]
    fn without_peers_there_is_ours() {
        let lines = large("f32", 1000, 10, [10.0, 1.0, 9.0]);
        let all = rates(&lines, "f32");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].points, [(1000.0, 90.0)]);
        assert!(rates(&lines, "bf16").is_empty());
    }
}
