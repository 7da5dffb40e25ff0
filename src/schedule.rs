//! Losses that change during training.

use crate::error::Error;
use crate::loss::Loss;

/// Deferred re-weighting (DRW; Cao et al., NeurIPS 2019): class weights that switch on from a given
/// epoch.
///
/// ```
/// use ala_loss::{ClassCounts, DeferredReweighting, Loss, Objective};
/// let counts = ClassCounts::new([500, 5])?;
/// let ldam = Loss::builder(Objective::Ldam { max_margin: 0.5 }, &counts).build()?;
/// let weights = counts.class_balanced_weights(0.9999)?;
/// let schedule = DeferredReweighting::new(ldam, &weights, 160)?;
/// assert_eq!(schedule.at(159).table().targets()[1].weight, 1.0);
/// assert_eq!(schedule.at(160).table().targets()[1].weight, weights[1]);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeferredReweighting {
    before: Loss,
    after: Loss,
    from_epoch: usize,
}

impl DeferredReweighting {
    /// `loss` as it is before `from_epoch` (counted from 0), and with `weights`, `[C]`, from then
    /// on.
    ///
    /// # Errors
    /// As [`Loss::with_class_weights`].
    ///
    /// ```
    /// use ala_loss::{ClassCounts, DeferredReweighting, Error, Loss, Objective};
    /// let counts = ClassCounts::new([500, 5])?;
    /// let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let short = DeferredReweighting::new(loss, &[1.0], 160).unwrap_err();
    /// assert_eq!(short, Error::Length { name: "class weights", got: 1, expected: 2 });
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(loss: Loss, weights: &[f64], from_epoch: usize) -> Result<Self, Error> {
        let after = loss.with_class_weights(weights)?;
        Ok(Self {
            before: loss,
            after,
            from_epoch,
        })
    }

    /// The loss to use in `epoch`.
    ///
    /// ```
    /// # use ala_loss::{ClassCounts, DeferredReweighting, Loss, Objective};
    /// # let counts = ClassCounts::new([500, 50, 5])?;
    /// # let loss = Loss::builder(Objective::ala(), &counts).build()?;
    /// let schedule = DeferredReweighting::new(loss, &[1.0, 2.0, 4.0], 2)?;
    /// let rarest = |epoch| schedule.at(epoch).table().targets()[2].weight;
    /// assert_eq!([0, 1, 2, 3].map(rarest), [1.0, 1.0, 4.0, 4.0]);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn at(&self, epoch: usize) -> &Loss {
        if epoch < self.from_epoch {
            &self.before
        } else {
            &self.after
        }
    }
}
