//! Ours beside the peers.

use ala_loss_gpu::record::{Kind, Line, Peer};

use super::{of_kind, place};

/// The families of operations that are compared, by name and by what ours is called.
pub(crate) const FAMILIES: [(&str, &str); 2] = [("ALA", "ours ALA"), ("CE", "ours CE")];
const OURS: &str = "ours ";

/// All operations on one batch.
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    peers: Vec<&'a Peer>,
}

/// A peer against ours of the same family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duel<'a> {
    pub(crate) peer: &'a Peer,
    /// Microseconds of the peer and of ours, by one method.
    pub(crate) us: [f64; 2],
    /// The peer's time over ours: more than 1 where ours is ahead.
    pub(crate) ahead: f64,
}

/// By kind, type and classes.
pub(crate) fn cases(lines: &[Line]) -> Vec<Case<'_>> {
    let mut peers: Vec<&Peer> = of_kind!(lines, Peer).collect();
    let key = |peer: &Peer| {
        (
            peer.batch == Kind::Small,
            place(&peer.dtype),
            peer.c,
            peer.n,
        )
    };
    peers.sort_by_key(|peer| key(peer));
    let cases = peers.chunk_by(|a, b| key(a) == key(b));
    cases
        .map(|peers| Case {
            peers: peers.to_vec(),
        })
        .collect()
}

/// The names of a family's operations, in the order in which they ran.
pub(crate) fn names<'a>(lines: &'a [Line], family: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for peer in of_kind!(lines, Peer).filter(|peer| peer.family == family) {
        if !names.contains(&peer.op.as_str()) {
            names.push(&peer.op);
        }
    }
    names
}

/// Between two events.
pub(crate) fn device(peer: &Peer) -> Option<f64> {
    let timed = peer.device_us.filter(|_| peer.status == "ok");
    timed.map(|us| us.median)
}

/// Both times by one method: of small batches in graphs, where both have one.
fn both(a: &Peer, b: &Peer) -> Option<[f64; 2]> {
    let small = a.batch == Kind::Small;
    match (a.graph_us.filter(|_| small), b.graph_us.filter(|_| small)) {
        (Some(a), Some(b)) => Some([a.median, b.median]),
        _ => Some([device(a)?, device(b)?]),
    }
}

impl<'a> Case<'a> {
    pub(crate) fn batch(&self) -> Kind {
        self.peers[0].batch
    }

    pub(crate) fn dtype(&self) -> &'a str {
        &self.peers[0].dtype
    }

    pub(crate) fn rows(&self) -> usize {
        self.peers[0].n
    }

    pub(crate) fn classes(&self) -> usize {
        self.peers[0].c
    }

    /// The operation of that name.
    pub(crate) fn op(&self, name: &str) -> Option<&'a Peer> {
        self.peers.iter().rfind(|peer| peer.op == name).copied()
    }

    /// All of a family.
    pub(crate) fn family(&self, family: &str) -> impl Iterator<Item = &'a Peer> {
        self.peers
            .iter()
            .filter(move |peer| peer.family == family)
            .copied()
    }

    /// Its rate in per cent of the copy kernel's, or of another's where that one did not run.
    pub(crate) fn percent_of_copy(&self, peer: &Peer) -> Option<f64> {
        let rate = |peer: &Peer| Some(peer.bytes as f64 / device(peer)?);
        // The copy kernel runs first.
        let copy = self.family("copy").find_map(rate)?;
        Some(100.0 * rate(peer)? / copy)
    }

    /// Ours against every peer that ran.
    pub(crate) fn duels(&self) -> Vec<Duel<'a>> {
        let ours = FAMILIES
            .into_iter()
            .filter_map(|(family, name)| Some((family, self.op(name)?)));
        let duels = ours.flat_map(|(family, ours)| {
            let others = self
                .family(family)
                .filter(|peer| !peer.op.starts_with(OURS));
            others.filter_map(move |peer| {
                device(ours)?;
                device(peer)?;
                let us = both(peer, ours)?;
                Some(Duel {
                    peer,
                    us,
                    ahead: us[0] / us[1],
                })
            })
        });
        duels.collect()
    }

    /// Against the peer that is the furthest ahead, or the least behind.
    pub(crate) fn hardest(&self) -> Option<Duel<'a>> {
        let duels = self.duels().into_iter();
        duels.min_by(|a, b| a.ahead.total_cmp(&b.ahead))
    }

    /// Ours that have no time, though a peer has.
    pub(crate) fn ours_without_time(&self) -> Vec<&'a Peer> {
        let ours = FAMILIES.into_iter().filter_map(|(family, name)| {
            let timed = self.family(family).any(|peer| device(peer).is_some());
            self.op(name).filter(|ours| timed && device(ours).is_none())
        });
        ours.collect()
    }
}

/// Wherever a peer is ahead of ours.
pub(crate) fn ahead_of_ours<'a>(cases: &[Case<'a>]) -> Vec<Duel<'a>> {
    let duels = cases.iter().flat_map(Case::duels);
    duels.filter(|duel| duel.ahead < 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::{about, peer};
    use super::*;
    use ala_loss_gpu::record::Record;

    #[test]
    fn a_peer_that_is_ahead_is_found_and_only_in_its_family() {
        let lines = [
            peer("copy (ours)", 10, Some(8.0)),
            peer("copy (torch)", 10, Some(7.0)),
            peer("ours ALA", 10, Some(10.0)),
            peer("ours CE", 10, Some(9.0)),
            peer("torch eager ALA", 10, Some(50.0)),
            peer("quack CE", 10, Some(8.5)),
            peer("flash-attn CE", 10, None),
            peer("ours CE", 20, Some(9.0)),
            peer("quack CE", 20, Some(9.5)),
        ];
        let cases = cases(&lines);
        assert_eq!(cases.len(), 2);
        let ahead = ahead_of_ours(&cases);
        let [duel] = &ahead[..] else {
            panic!("{ahead:?}")
        };
        assert_eq!((duel.peer.op.as_str(), duel.peer.c), ("quack CE", 10));
        assert!((duel.ahead - 8.5 / 9.0).abs() < 1e-9);
        let ours = cases[0].op("ours CE").expect("ours");
        let of_copy = cases[0].percent_of_copy(ours).expect("a copy");
        assert!(
            (of_copy - 100.0 * 8.0 / 9.0).abs() < 1e-9,
            "of the copy kernel: {of_copy}"
        );
        assert_eq!(cases[1].percent_of_copy(ours), None, "no copy");
        let hardest = cases[1].hardest().expect("a peer");
        assert!(hardest.ahead > 1.0);
    }

    #[test]
    fn small_batches_are_compared_in_graphs_where_both_have_one() {
        let mut lines = [
            peer("ours CE", 10, Some(4.0)),
            peer("quack CE", 10, Some(3.0)),
        ];
        for (line, graph) in lines.iter_mut().zip([2.0, 3.0]) {
            let Record::Peer(peer) = &mut line.record else {
                panic!("a peer")
            };
            peer.batch = Kind::Small;
            peer.graph_us = Some(about(graph));
        }
        assert_eq!(cases(&lines)[0].duels()[0].ahead, 1.5);
        if let Record::Peer(peer) = &mut lines[1].record {
            peer.graph_us = None;
        }
        assert_eq!(cases(&lines)[0].duels()[0].ahead, 0.75);
    }

    #[test]
    fn ours_that_failed_is_not_passed_over() {
        let lines = [peer("ours CE", 10, None), peer("quack CE", 10, Some(3.0))];
        let cases = cases(&lines);
        assert!(cases[0].duels().is_empty());
        assert_eq!(cases[0].ours_without_time().len(), 1);
    }
}
