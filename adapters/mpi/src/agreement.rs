//! What ranks must have alike before their first step.

use std::ops::Range;

use ala_loss::{Affine, Loss, LossShard, NonTarget};
use mpi::traits::CommunicatorCollectives;

use crate::digest::Digest;
use crate::error::Error;
use crate::failure::{self, Failure};
use crate::words::all_gather;

const WORDS: usize = 4 + failure::WORDS;

/// What a rank says of its loss.
struct Claim {
    classes: usize,
    digest: u64,
    own: Range<usize>,
    error: Option<Error>,
}

/// The shard of this rank, where the ranks' classes are one behind the other, all of them, and
/// their losses are the same. One all-gather.
pub(crate) fn shard(
    loss: &Loss,
    own: Range<usize>,
    communicator: &impl CommunicatorCollectives,
) -> Result<LossShard, Error> {
    let shard = loss.shard(own.clone());
    let failure = match &shard {
        Ok(_) => failure::NONE,
        Err(error) => failure::pack(&Failure::Loss(error.clone())),
    };
    let mut words = [0; WORDS];
    words[0] = loss.classes() as u64;
    words[1] = digest(loss);
    words[2] = own.start as u64;
    words[3] = own.end as u64;
    words[4..].copy_from_slice(&failure);
    let claims = all_gather(communicator, words);
    check(
        claims
            .iter()
            .enumerate()
            .map(|(rank, words)| read(rank, words)),
    )?;
    Ok(shard?)
}

fn read(rank: usize, words: &[u64; WORDS]) -> Claim {
    let [classes, digest, start, end, ..] = *words;
    let size = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
    let mut failure = failure::NONE;
    failure.copy_from_slice(&words[4..]);
    Claim {
        classes: size(classes),
        digest,
        own: size(start)..size(end),
        error: failure::unpack(rank, &failure),
    }
}

fn check(claims: impl Iterator<Item = Claim>) -> Result<(), Error> {
    let claims: Vec<Claim> = claims.collect();
    let Some(first) = claims.first() else {
        return Ok(());
    };
    for (rank, claim) in claims.iter().enumerate() {
        if let Some(error) = &claim.error {
            return Err(error.clone());
        }
        if claim.classes != first.classes {
            return Err(Error::Differ {
                what: "classes",
                rank,
                got: claim.classes,
                expected: first.classes,
            });
        }
        if claim.digest != first.digest {
            return Err(Error::Unlike {
                what: "objective, class counts and settings",
                rank,
            });
        }
    }
    let mut covered = 0;
    for (rank, Claim { own, .. }) in claims.iter().enumerate() {
        if own.start != covered {
            return Err(Error::FirstClass {
                rank,
                start: own.start,
                end: own.end,
                expected: covered,
            });
        }
        covered = own.end;
    }
    match covered == first.classes {
        true => Ok(()),
        false => Err(Error::LastClass {
            end: covered,
            classes: first.classes,
        }),
    }
}

/// Of all that a loss is made of, for all of its classes.
fn digest(loss: &Loss) -> u64 {
    let mut digest = Digest::new();
    let table = loss.table();
    digest.shown(&(
        loss.reduction(),
        loss.ignore_label(),
        loss.label_smoothing(),
    ));
    digest.shown(&table.focal_gamma());
    let map = |digest: &mut Digest, map: &Affine| {
        digest.number(map.slope);
        digest.number(map.bias);
    };
    match table.non_target() {
        NonTarget::Uniform { slope } => digest.number(*slope),
        NonTarget::PerClass(maps) => maps.iter().for_each(|own| map(&mut digest, own)),
    }
    for target in table.targets() {
        let numbers = [
            target.slope,
            target.bias,
            target.gradient_slope,
            target.weight,
        ];
        numbers.iter().for_each(|&number| digest.number(number));
    }
    digest.value()
}
