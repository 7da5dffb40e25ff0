//! The same batch over class shards, cut anywhere: it keeps the same rules.

use std::ops::Range;

use ala_loss::{Error, Label, Loss, LossShard, Options, Outcome, Outputs};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::bits::{self, LogitBits};

/// Where the classes are cut.
pub fn cut(input: &mut Unstructured<'_>, classes: usize) -> Result<Vec<Range<usize>>> {
    let mut ends = vec![classes];
    for _ in 0..input.arbitrary::<u8>()? % 4 {
        ends.push(input.int_in_range(1..=classes)?);
    }
    ends.sort_unstable();
    ends.dedup();
    let starts = [0].into_iter().chain(ends.clone());
    let mut cut: Vec<Range<usize>> = starts.zip(ends).map(|(start, end)| start..end).collect();
    // In any order.
    if input.arbitrary()? {
        cut.reverse();
    }
    Ok(cut)
}

/// What all shards come to, put together. The logits are whole ones, with a stride.
pub fn outcome<T: LogitBits, L: Label>(
    loss: &Loss,
    cut: &[Range<usize>],
    logits: &[T],
    labels: &[L],
    options: &Options<'_, T::Real>,
) -> std::result::Result<Outcome<T>, Error> {
    let (rows, classes) = (labels.len(), loss.classes());
    let options = options.hits().predictions();
    let shards: Vec<LossShard> = cut
        .iter()
        .map(|classes| loss.shard(classes.clone()))
        .collect::<std::result::Result<_, _>>()?;
    let len = rows * shards[0].record_len(&options);
    let mut records = vec![77.0; shards.len() * len];
    for (i, shard) in shards.iter().enumerate() {
        let own = &logits[shard.classes().start.min(logits.len())..];
        shard.partial(own, labels, &options, &mut records[i * len..][..len])?;
    }
    let mut all: Option<Outcome<T>> = None;
    let mut gradient = vec![T::from_f64(77.0); rows * classes];
    for shard in &shards {
        let start = shard.classes().start;
        let own = &logits[start.min(logits.len())..];
        let mut here = Outcome {
            loss: 77.0,
            row_losses: vec![ala_loss::Real::from_f64(77.0); rows],
            gradient: vec![],
            counted_rows: 77,
            hits: Some(vec![true; rows]),
            predictions: Some(vec![77; rows]),
        };
        let part = &mut gradient[start.min(rows * classes)..];
        let mut outputs = Outputs::new()
            .gradient_strided(part, classes)
            .row_losses(&mut here.row_losses);
        if let (Some(hits), Some(predictions)) = (&mut here.hits, &mut here.predictions) {
            outputs = outputs.hits(hits).predictions(predictions);
        }
        let summary = shard.finish(own, labels, &options, &records, outputs)?;
        (here.loss, here.counted_rows) = (summary.loss, summary.counted_rows);
        if let Some(all) = &all {
            assert_eq!(all.loss.to_bits(), here.loss.to_bits());
            assert_eq!(bits::all(&all.row_losses), bits::all(&here.row_losses));
            assert_eq!(
                (&all.hits, &all.predictions),
                (&here.hits, &here.predictions)
            );
        }
        all = Some(here);
    }
    let all = all.expect("there is a shard");
    Ok(Outcome { gradient, ..all })
}
