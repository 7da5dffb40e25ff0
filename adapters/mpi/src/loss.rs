//! The loss over ranks, and its steps.

use std::ops::Range;

use ala_loss::{
    CpuElement, Label, Loss, LossShard, NO_CLASS, Options, Outcome, Outputs, Real, Summary,
};
use mpi::traits::Communicator;

use crate::agreement;
use crate::error::Error;
use crate::exchange::Exchange;
use crate::given::{Asked, labels_digest, options_digest};
use crate::header::Header;

/// A loss whose classes are cut over the ranks of a communicator: rank 0 has the first of them,
/// rank 1 those behind, and so on.
///
/// Each rank holds the logits `[N, K]` of its own `K` classes and all labels `[N]`. A step is the
/// first half on each rank, **one all-gather** of 3 to 10 numbers a row and rank, and the second
/// half; all ranks have the same loss, to the bit, and the gradient of their own classes.
///
/// All ranks make every call together, with the same labels and options but for the stride: what
/// differs is an error on all of them, with the outputs untouched. What the calls take and give is
/// that of [`ala_loss::Loss`].
///
/// **It must be dropped before MPI is finalised**, on all ranks: declare it behind the `Universe`.
///
/// ```no_run
/// use ala_loss::{ClassCounts, Loss, Objective};
/// use ala_loss_mpi::MpiLoss;
/// let universe = mpi::initialize().expect("MPI was not initialised before");
/// let counts = ClassCounts::new([500, 50, 20, 5])?;
/// let loss = Loss::new(Objective::ala(), &counts)?;
/// let mut loss = MpiLoss::even(&loss, &universe.world())?;
/// let cosines = vec![0.25f32; 2 * loss.shard().classes().len()]; // [N = 2, K]
/// let outcome = loss.evaluate(&cosines, &[0, 3])?;
/// println!("{} {:?}", outcome.loss, outcome.gradient);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MpiLoss {
    shard: LossShard,
    exchange: Exchange,
}

impl MpiLoss {
    /// The loss with `classes` on this rank. They must begin where those of the rank before end, at
    /// 0 on rank 0, and end at `C` on the last.
    ///
    /// A collective call: all ranks of the communicator make it. Messages go through a duplicate of
    /// the communicator, so that they never meet the caller's. `loss`, which all ranks must have
    /// built alike, may be dropped afterwards.
    ///
    /// # Errors
    /// On all ranks the same: [`Error::Rank`] where [`Loss::shard`] fails on one (an empty range, a
    /// loss with label smoothing), [`Error::Differ`] or [`Error::Unlike`] where losses are not the
    /// same, [`Error::FirstClass`] or [`Error::LastClass`] where classes are nobody's or two
    /// ranks'.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_mpi::MpiLoss;
    /// # use mpi::traits::Communicator;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let world = universe.world();
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 20, 5])?)?;
    /// let classes = [0..1, 1..4][world.rank() as usize].clone(); // of two ranks
    /// let loss = MpiLoss::new(&loss, classes, &world)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        loss: &Loss,
        classes: Range<usize>,
        communicator: &impl Communicator,
    ) -> Result<Self, Error> {
        let exchange = Exchange::new(communicator.duplicate());
        let shard = agreement::shard(loss, classes, exchange.communicator())?;
        Ok(Self { shard, exchange })
    }

    /// The loss with the classes cut evenly: rank `r` of `S` has `r C / S .. (r + 1) C / S`, both
    /// rounded down.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Rank`] where there are more ranks than classes.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 20, 5])?)?;
    /// let loss = MpiLoss::even(&loss, &universe.world())?; // 2 classes on each of two ranks
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn even(loss: &Loss, communicator: &impl Communicator) -> Result<Self, Error> {
        // Neither is negative.
        let [rank, ranks] = [communicator.rank(), communicator.size()].map(i32::unsigned_abs);
        // No more than the number of classes.
        let begin =
            |rank: u32| (loss.classes() as u128 * u128::from(rank) / u128::from(ranks)) as usize;
        Self::new(loss, begin(rank)..begin(rank + 1), communicator)
    }

    /// The part of the loss that is this rank's: its classes, and the two halves of a step.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50, 20, 5])?)?;
    /// let loss = MpiLoss::even(&loss, &universe.world())?;
    /// println!("classes {:?}", loss.shard().classes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shard(&self) -> &LossShard {
        &self.shard
    }

    /// The all-gathers so far: one a step, and one more where a step needs longer messages than all
    /// before it, as the first one does.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// for _ in 0..10 {
    ///     loss.evaluate(&[0.5f32], &[1])?;
    /// }
    /// assert_eq!(loss.gathers(), 11);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn gathers(&self) -> u64 {
        self.exchange.gathers()
    }

    /// Loss, and the gradient of this rank's classes, owned: `[N, K]` logits, `N` labels.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into), on all ranks.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let outcome = loss.evaluate(&[0.5f32, 0.1], &[1, 0])?; // [N = 2, K = 1]
    /// assert_eq!((outcome.row_losses.len(), outcome.gradient.len()), (2, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate<T: CpuElement, L: Label>(
        &mut self,
        logits: &[T],
        labels: &[L],
    ) -> Result<Outcome<T>, Error> {
        self.evaluate_with(logits, labels, &Options::new())
    }

    /// [`evaluate`](Self::evaluate) with what [`Options`] has.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into), on all ranks.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let outcome = loss.evaluate_with(&[0.5f32], &[1], &Options::new().predictions())?;
    /// println!("{:?}", outcome.predictions); // of all classes, the same on both
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate_with<T: CpuElement, L: Label>(
        &mut self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
    ) -> Result<Outcome<T>, Error> {
        self.tell(logits, labels, options);
        self.exchange.gather();
        let records = self.exchange.records()?;
        // All is checked, so that nothing is allocated for a wrong shape.
        let rows = labels.len();
        let mut gradient = vec![T::ZERO; rows * self.shard.classes().len()];
        let mut row_losses = vec![T::Real::from_f64(0.0); rows];
        let asked = Asked::of(options);
        let mut hits = asked.hits.then(|| vec![false; rows]);
        let mut predictions = asked.predictions.then(|| vec![NO_CLASS; rows]);
        let mut outputs = Outputs::new()
            .gradient(&mut gradient)
            .row_losses(&mut row_losses);
        if let Some(hits) = &mut hits {
            outputs = outputs.hits(hits);
        }
        if let Some(predictions) = &mut predictions {
            outputs = outputs.predictions(predictions);
        }
        let summary = self
            .shard
            .finish(logits, labels, options, records, outputs)?;
        Ok(Outcome {
            loss: summary.loss,
            row_losses,
            gradient,
            counted_rows: summary.counted_rows,
            hits,
            predictions,
        })
    }

    /// Loss, and the gradient of this rank's classes, into the caller's buffers. `logits` are
    /// `[N, K]` for its `K` classes, contiguous or with the options' stride, `labels` `[N]` of all
    /// classes. Allocates nothing once messages are long enough (see [`gathers`](Self::gathers)).
    ///
    /// Labels and options are the same on all ranks, but for the stride; logits and outputs are
    /// each rank's own. Hits and predictions must be asked for in the options as well.
    ///
    /// # Errors
    /// On all ranks the same, with all outputs untouched: [`Error::Rank`] with what
    /// [`LossShard::partial`] says on one (a bad label, wrong logits), [`Error::Differ`] or
    /// [`Error::Unlike`] where ranks were given different labels or options, [`Error::TooLong`],
    /// [`Error::Memory`].
    ///
    /// On this rank alone [`Error::Own`] with what [`LossShard::finish`] says of the outputs, most
    /// often a wrong length. It comes after the exchange: the others have their result, and nobody
    /// waits. What it says of the options all ranks get.
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let mut gradient = [0.0f32; 1];
    /// let outputs = Outputs::new().gradient(&mut gradient);
    /// let summary = loss.evaluate_into(&[0.5], &[1], &Options::new(), outputs)?;
    /// println!("{}", summary.loss);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate_into<T: CpuElement, L: Label>(
        &mut self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        self.tell(logits, labels, options);
        self.exchange.gather();
        let records = self.exchange.records()?;
        let finished = self.shard.finish(logits, labels, options, records, outputs);
        Ok(finished?)
    }

    /// [`evaluate_into`](Self::evaluate_into), the gradient written **over the logits**. Elements
    /// between rows are left as they are.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into). Where `outputs` has a gradient buffer,
    /// [`Error::Own`] with [`ala_loss::Error::GradientBufferInPlace`].
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let mut logits = [0.5f32];
    /// loss.evaluate_in_place(&mut logits, &[1], &Options::new(), Outputs::new())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate_in_place<T: CpuElement, L: Label>(
        &mut self,
        logits: &mut [T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
    ) -> Result<Summary, Error> {
        self.tell(logits, labels, options);
        self.exchange.gather();
        let records = self.exchange.records()?;
        let finished = self
            .shard
            .finish_in_place(logits, labels, options, records, outputs);
        Ok(finished?)
    }

    /// [`evaluate_into`](Self::evaluate_into) with `work` done while the ranks exchange: the same
    /// result, to the bit, and what `work` gave. It is done once in any case, also where the step
    /// is an error.
    ///
    /// How much of the exchange goes on beside the work is up to the MPI library: many move data
    /// only inside of calls to MPI, unless they were built or set up with a progress thread. Then
    /// most of it is left for the end of the work, which costs no more than without.
    ///
    /// # Errors
    /// As [`evaluate_into`](Self::evaluate_into).
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// # fn next_batch() {}
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let (options, outputs) = (Options::new(), Outputs::new());
    /// let (step, batch) =
    ///     loss.evaluate_into_while(&[0.5f32], &[1], &options, outputs, || next_batch());
    /// println!("{}", step?.loss);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate_into_while<T: CpuElement, L: Label, W>(
        &mut self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
        work: impl FnOnce() -> W,
    ) -> (Result<Summary, Error>, W) {
        self.tell(logits, labels, options);
        let done = self.exchange.gather_while(work);
        let step = self.exchange.records().and_then(|records| {
            let finished = self.shard.finish(logits, labels, options, records, outputs);
            Ok(finished?)
        });
        (step, done)
    }

    /// [`evaluate_into_while`](Self::evaluate_into_while), the gradient written **over the
    /// logits**.
    ///
    /// # Errors
    /// As [`evaluate_in_place`](Self::evaluate_in_place).
    ///
    /// ```no_run
    /// # use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
    /// # use ala_loss_mpi::MpiLoss;
    /// # let universe = mpi::initialize().expect("MPI was not initialised before");
    /// # let loss = Loss::new(Objective::ala(), &ClassCounts::new([500, 50])?)?;
    /// # fn next_batch() {}
    /// let mut loss = MpiLoss::even(&loss, &universe.world())?; // on two ranks
    /// let (mut logits, options, outputs) = ([0.5f32], Options::new(), Outputs::new());
    /// let (step, batch) =
    ///     loss.evaluate_in_place_while(&mut logits, &[1], &options, outputs, || next_batch());
    /// println!("{}", step?.loss);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evaluate_in_place_while<T: CpuElement, L: Label, W>(
        &mut self,
        logits: &mut [T],
        labels: &[L],
        options: &Options<'_, T::Real>,
        outputs: Outputs<'_, T>,
        work: impl FnOnce() -> W,
    ) -> (Result<Summary, Error>, W) {
        self.tell(logits, labels, options);
        let done = self.exchange.gather_while(work);
        let step = self.exchange.records().and_then(|records| {
            let shard = &self.shard;
            let finished = shard.finish_in_place(logits, labels, options, records, outputs);
            Ok(finished?)
        });
        (step, done)
    }

    /// Writes this rank's message: its records, or what went wrong.
    fn tell<T: CpuElement, L: Label>(
        &mut self,
        logits: &[T],
        labels: &[L],
        options: &Options<'_, T::Real>,
    ) {
        let header = Header {
            rows: labels.len(),
            record_len: self.shard.record_len(options),
            labels: labels_digest(labels),
            options: options_digest(options),
        };
        let told = self
            .exchange
            .room(header.need())
            .and_then(|records| Ok(self.shard.partial(logits, labels, options, records)?));
        self.exchange.write_header(&header, told.as_ref().err());
    }
}
