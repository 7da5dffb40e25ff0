//! The step's time beside a copy, an empty kernel and the unfused baseline.

use ala_loss_gpu::clock::Spread;
use ala_loss_gpu::record::{Kind, Line, Op, Time};

use super::{of_kind, place};

/// All that was timed of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch<'a> {
    times: Vec<&'a Time>,
}

/// Classes that rows cannot be aligned with, and the nearest that they can.
const NEIGHBOURS: [[usize; 2]; 2] = [[365, 368], [8142, 8192]];

/// What unaligned rows cost.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Odd<'a> {
    pub(crate) dtype: &'a str,
    /// Classes of the rows that are not aligned, and of those that are.
    pub(crate) classes: [usize; 2],
    /// Time an element that they take more, in per cent.
    pub(crate) percent: f64,
}

/// The batches of a kind, by type and classes.
pub(crate) fn batches(lines: &[Line], kind: Kind) -> Vec<Batch<'_>> {
    let mut times: Vec<&Time> = of_kind!(lines, Time)
        .filter(|time| time.batch == kind)
        .collect();
    times.sort_by_key(|time| (place(&time.dtype), time.c, time.n));
    let same = |a: &&Time, b: &&Time| (&a.dtype, a.c, a.n) == (&b.dtype, b.c, b.n);
    let batches = times.chunk_by(same);
    batches
        .map(|times| Batch {
            times: times.to_vec(),
        })
        .collect()
}

impl<'a> Batch<'a> {
    pub(crate) fn dtype(&self) -> &'a str {
        &self.times[0].dtype
    }

    pub(crate) fn rows(&self) -> usize {
        self.times[0].n
    }

    pub(crate) fn classes(&self) -> usize {
        self.times[0].c
    }

    fn time(&self, op: Op) -> Option<&'a Time> {
        self.times.iter().rfind(|time| time.op == op).copied()
    }

    /// Between two events.
    pub(crate) fn device(&self, op: Op) -> Option<Spread> {
        self.time(op).map(|time| time.device_us)
    }

    /// A step of a graph, by the median.
    pub(crate) fn graph(&self, op: Op) -> Option<f64> {
        Some(self.time(op)?.graph_us?.median)
    }

    /// The call on the host, by the median.
    pub(crate) fn host(&self, op: Op) -> Option<f64> {
        Some(self.time(op)?.host_us?.median)
    }

    /// Bytes a second, in 10^9: of a step the least that it moves, of a copy those that it moves.
    pub(crate) fn gb_s(&self, op: Op) -> Option<f64> {
        let time = self.time(op)?;
        Some(time.bytes as f64 / time.device_us.median / 1e3)
    }

    /// The step's rate, in per cent of the copy kernel's.
    pub(crate) fn percent_of_copy(&self) -> Option<f64> {
        Some(100.0 * self.gb_s(Op::Fused)? / self.gb_s(Op::Copy)?)
    }

    /// The time of a step like it over its own.
    pub(crate) fn over_fused(&self, op: Op) -> Option<f64> {
        Some(self.device(op)?.median / self.device(Op::Fused)?.median)
    }

    /// How many times faster than the unfused baseline the step is, as plain launches.
    pub(crate) fn over_unfused(&self) -> Option<f64> {
        self.over_fused(Op::Unfused)
    }

    /// The step's time in a graph over that of an empty kernel and a copy together.
    pub(crate) fn over_floor(&self) -> Option<f64> {
        Some(self.graph(Op::Fused)? / (self.graph(Op::Empty)? + self.graph(Op::Copy)?))
    }

    fn an_element(&self) -> Option<f64> {
        Some(self.device(Op::Fused)?.median / (self.rows() * self.classes()) as f64)
    }
}

/// What rows that are not aligned cost against their neighbours that are.
pub(crate) fn odd<'a>(large: &[Batch<'a>]) -> Vec<Odd<'a>> {
    let costs = large.iter().flat_map(|batch| {
        let pair = NEIGHBOURS
            .into_iter()
            .find(|[odd, _]| *odd == batch.classes())?;
        let of_type = |other: &&Batch| other.dtype() == batch.dtype();
        let aligned = large
            .iter()
            .filter(of_type)
            .find(|other| other.classes() == pair[1])?;
        Some(Odd {
            dtype: batch.dtype(),
            classes: pair,
            percent: 100.0 * (batch.an_element()? / aligned.an_element()? - 1.0),
        })
    });
    costs.collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;
    use ala_loss_gpu::record::Record;

    #[test]
    fn the_rate_is_of_the_least_bytes_and_against_the_copys_own() {
        let mut lines = samples::large("f32", 100, 1000, [10.0, 25.0, 8.0]);
        // 800 000 bytes in 10 us are 80 GB/s; the copy moves a tenth less in 8 us: 90 GB/s.
        let Record::Time(copy) = &mut lines[2].record else {
            panic!("the copy is last")
        };
        copy.bytes = 720_000;
        let batches = batches(&lines, Kind::Large);
        let [batch] = &batches[..] else {
            panic!("{batches:?}")
        };
        assert_eq!(batch.gb_s(Op::Fused), Some(80.0));
        assert_eq!(batch.gb_s(Op::Copy), Some(90.0));
        let percent = batch.percent_of_copy().expect("all are there");
        assert!((percent - 100.0 * 80.0 / 90.0).abs() < 1e-9, "{percent}");
        assert_eq!(batch.over_unfused(), Some(2.5));
        assert_eq!(batch.over_floor(), None, "no graph");
    }

    #[test]
    fn a_small_batch_is_held_against_an_empty_kernel_and_a_copy() {
        let lines = samples::small("bf16", 256, 1000, [6.0, 1.5, 2.5]);
        assert_eq!(batches(&lines, Kind::Large).len(), 0);
        let batches = batches(&lines, Kind::Small);
        assert_eq!(batches[0].over_floor(), Some(1.5));
        assert_eq!(batches[0].percent_of_copy(), Some(100.0 * 2.5 / 6.0));
    }

    #[test]
    fn odd_rows_are_compared_by_the_element() {
        // 365 000 elements in 730 us are 2 ns each, 736 000 in 1400 us somewhat less.
        let mut lines = samples::large("f32", 365, 1000, [730.0, 1.0, 1.0]);
        lines.extend(samples::large("f32", 368, 2000, [1472.0 / 1.25, 1.0, 1.0]));
        // Of another type, and no neighbour.
        lines.extend(samples::large("bf16", 8192, 10, [1.0, 1.0, 1.0]));
        lines.extend(samples::large("f32", 8142, 10, [1.0, 1.0, 1.0]));
        let batches = batches(&lines, Kind::Large);
        let odd = odd(&batches);
        assert_eq!(odd.len(), 1, "{odd:?}");
        assert_eq!(odd[0].classes, [365, 368]);
        assert!((odd[0].percent - 25.0).abs() < 1e-9, "{odd:?}");
    }
}
