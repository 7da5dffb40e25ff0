//! Steps over several devices, over NCCL (feature `nccl`): a loss cut over class shards with its
//! exchange, and what data-parallel processes add up.
//!
//! Each of these is a few calls that a program can make itself, with a communicator of its own or
//! with anything else that moves device memory. All of it runs on the communicator's stream, waits
//! for nothing and allocates nothing, so that it can be captured into a CUDA graph.
//!
//! Needs the NCCL library where it runs, under the name `libnccl.so` (a runtime package may have
//! `libnccl.so.2` alone: make a link). cudarc, which loads it at its first call, panics without.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use cudarc::nccl::result::{NcclError, NcclStatus};
use cudarc::nccl::safe::{Comm, ReduceOp};

use super::bound::CudaLoss;
use super::call::{Options, Outputs};
use super::element::{CudaElement, CudaLabel};
use super::error::{CudaError, driver};
use super::shard::CudaShard;
use super::workspace::Workspace;
use crate::error::Error;
use crate::shape::check_length;

/// The records of a step's rows: a shard's own, and those of all shards. Made by
/// [`CudaShard::exchange`].
#[derive(Debug)]
pub struct Exchange {
    own: CudaSlice<f32>,
    gathered: CudaSlice<f32>,
}

impl CudaShard {
    /// Allocates what the shards of `comm` exchange in steps of up to `rows` rows with such
    /// options: `(1 + S) N R` numbers for `S` shards and `R` of [`record_len`](Self::record_len).
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn exchange(
        &self,
        comm: &Comm,
        rows: usize,
        options: &Options<'_>,
    ) -> Result<Exchange, Error> {
        let len = rows.saturating_mul(self.record_len(options)).max(1);
        let stream = comm.stream();
        let alloc = |len| {
            stream
                .alloc_zeros(len)
                .map_err(driver("allocating for the records"))
        };
        Ok(Exchange {
            own: alloc(len)?,
            gathered: alloc(len.saturating_mul(comm.world_size()))?,
        })
    }

    /// A whole step, on the stream of `comm`: [`partial`](Self::partial), an all-gather of the
    /// records, [`finish`](Self::finish). Every rank of `comm` has one shard and calls it, with the
    /// same labels and options.
    ///
    /// # Errors
    /// Those of both halves, [`Error::Length`] where the exchange is too short, and
    /// [`CudaError::Nccl`]. What the second half refuses is found when the first has been enqueued.
    ///
    /// ```no_run
    /// use ala_loss::Loss;
    /// use ala_loss::cuda::{Options, Outputs};
    /// use cudarc::driver::CudaSlice;
    /// use cudarc::nccl::safe::{Comm, Id};
    ///
    /// fn rank(
    ///     (rank, ranks): (usize, usize),
    ///     id: Id,
    ///     loss: &Loss,
    ///     logits: &CudaSlice<f32>, // [N, K] of this rank's classes
    ///     labels: &CudaSlice<i64>, // [N] of all classes
    /// ) -> Result<f64, Box<dyn std::error::Error>> {
    ///     let context = ala_loss::cuda::context(rank)?;
    ///     let stream = context.new_stream()?;
    ///     let comm = Comm::from_rank(stream.clone(), rank, ranks, id);
    ///     let comm = comm.map_err(|error| format!("{error:?}"))?;
    ///     let classes = loss.classes() / ranks;
    ///     let shard = loss.shard(rank * classes..(rank + 1) * classes)?.bind(&context)?;
    ///     let options = Options::new();
    ///     let mut exchange = shard.exchange(&comm, labels.len(), &options)?;
    ///     let mut workspace = shard.workspace(&stream, labels.len())?;
    ///     let mut gradient = stream.alloc_zeros::<f32>(logits.len())?;
    ///     let outputs = Outputs::new().gradient(&mut gradient);
    ///     shard.step(&comm, logits, labels, &options, &mut exchange, outputs, &mut workspace)?;
    ///     Ok(workspace.read(&stream)?.loss) // the same on every rank
    /// }
    /// ```
    #[expect(
        clippy::too_many_arguments,
        reason = "those of both halves, and the exchange"
    )]
    pub fn step<T: CudaElement, L: CudaLabel>(
        &self,
        comm: &Comm,
        logits: &impl DevicePtr<T>,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        exchange: &mut Exchange,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let stream = &comm.stream();
        let gathered = self.gather(comm, (logits, labels, options), exchange)?;
        let gathered = &exchange.gathered.slice(..gathered);
        self.finish(
            stream, logits, labels, options, gathered, outputs, workspace,
        )
    }

    /// [`step`](Self::step), the gradient written **over the logits**.
    ///
    /// # Errors
    /// As [`step`](Self::step), and [`Error::GradientBufferInPlace`] where `outputs` has a gradient
    /// buffer.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of both halves, and the exchange"
    )]
    pub fn step_in_place<T: CudaElement, L: CudaLabel>(
        &self,
        comm: &Comm,
        logits: &mut (impl DevicePtr<T> + DevicePtrMut<T>),
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        exchange: &mut Exchange,
        outputs: Outputs<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let stream = &comm.stream();
        let gathered = self.gather(comm, (&*logits, labels, options), exchange)?;
        let gathered = &exchange.gathered.slice(..gathered);
        self.finish_in_place(
            stream, logits, labels, options, gathered, outputs, workspace,
        )
    }

    /// The first half and the all-gather. How many numbers are gathered.
    fn gather<T: CudaElement, L: CudaLabel>(
        &self,
        comm: &Comm,
        (logits, labels, options): (&impl DevicePtr<T>, &impl DevicePtr<L>, &Options<'_>),
        exchange: &mut Exchange,
    ) -> Result<usize, Error> {
        let len = labels.len().saturating_mul(self.record_len(options));
        let all = len.saturating_mul(comm.world_size());
        for (name, expected, got) in [
            ("the exchange's records", len, exchange.own.len()),
            (
                "the exchange's gathered records",
                all,
                exchange.gathered.len(),
            ),
        ] {
            if got < expected {
                check_length(name, Some(got), expected)?;
            }
        }
        let mut own = exchange.own.slice_mut(..len);
        self.partial(&comm.stream(), logits, labels, options, &mut own)?;
        let mut gathered = exchange.gathered.slice_mut(..all);
        done("ncclAllGather", comm.all_gather(&own, &mut gathered))?;
        Ok(all)
    }
}

impl CudaLoss {
    /// What a mean over the rows of all ranks divides by, in `divisor`, on the stream of `comm`:
    /// [`divisor`](Self::divisor) of each, added up. With
    /// [`Divisor::Given`](crate::Divisor::Given) of it the ranks' losses and gradients are parts of
    /// one mean: they are then added up, not averaged.
    ///
    /// # Errors
    /// As [`divisor`](Self::divisor), and [`CudaError::Nccl`].
    ///
    /// ```no_run
    /// use ala_loss::cuda::{CudaLoss, Divisor, Options, Outputs, Workspace};
    /// use cudarc::driver::CudaSlice;
    /// use cudarc::nccl::safe::Comm;
    ///
    /// fn step(
    ///     loss: &CudaLoss,
    ///     comm: &Comm,
    ///     (logits, labels): (&CudaSlice<f32>, &CudaSlice<i64>), // this rank's rows
    ///     divisor: &mut CudaSlice<f32>,
    ///     gradient: &mut CudaSlice<f32>,
    ///     workspace: &mut Workspace,
    /// ) -> Result<(), ala_loss::Error> {
    ///     loss.divisor_of_all(comm, labels, &Options::new(), divisor, workspace)?;
    ///     let options = Options::new().divisor(Divisor::Given(divisor));
    ///     let outputs = Outputs::new().gradient(gradient);
    ///     loss.launch(&comm.stream(), logits, labels, &options, outputs, workspace)
    /// }
    /// ```
    pub fn divisor_of_all<L: CudaLabel>(
        &self,
        comm: &Comm,
        labels: &impl DevicePtr<L>,
        options: &Options<'_>,
        divisor: &mut impl DevicePtrMut<f32>,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let stream: &Arc<CudaStream> = &comm.stream();
        self.divisor(stream, labels, options, divisor, workspace)?;
        let reduced = comm.all_reduce_in_place(divisor, &ReduceOp::Sum);
        done("ncclAllReduce", reduced)
    }
}

/// Adds up the running counts of all ranks, [`Outputs::class_counts`], on the stream of `comm`:
/// `own` stay a rank's own, so that steps can go on adding to them.
///
/// # Errors
/// [`Error::Length`] where the two differ, [`CudaError::Nccl`].
pub fn class_counts_of_all(
    comm: &Comm,
    own: &impl DevicePtr<u64>,
    all: &mut impl DevicePtrMut<u64>,
) -> Result<(), Error> {
    check_length("class counts", Some(all.len()), own.len())?;
    done("ncclAllReduce", comm.all_reduce(own, all, &ReduceOp::Sum))
}

fn done(call: &'static str, result: Result<NcclStatus, NcclError>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(CudaError::Nccl {
            call,
            code: error.0 as u32,
        }
        .into()),
    }
}
