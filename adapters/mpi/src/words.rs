//! One all-gather of a few words of each rank, where no step is timed by it.

use mpi::traits::CommunicatorCollectives;

/// The words of all ranks, in rank order.
pub(crate) fn all_gather<const W: usize>(
    communicator: &impl CommunicatorCollectives,
    own: [u64; W],
) -> Vec<[u64; W]> {
    let ranks = usize::try_from(communicator.size()).unwrap_or(1);
    let mut all = vec![0; ranks * W];
    communicator.all_gather_into(&own[..], &mut all[..]);
    all.as_chunks().0.to_vec()
}
