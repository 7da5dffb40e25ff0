//! Many-, medium- and few-shot classes.

use crate::error::Error;

/// How frequent a class is in the training set, as long-tail papers report accuracy.
///
/// ```
/// use ala_loss::{ClassCounts, Group, GroupThresholds};
/// let groups = ClassCounts::new([1280, 64, 12, 5])?.groups(GroupThresholds::default());
/// assert_eq!(groups.iter().filter(|&&group| group == Group::Few).count(), 2);
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// More than 100 samples by default.
    Many,
    /// 20 to 100 samples by default.
    Medium,
    /// Fewer than 20 samples by default.
    Few,
}

/// The counts that divide classes into many-, medium- and few-shot.
///
/// The default, more than 100 and fewer than 20, is OpenLT's (Liu et al., CVPR 2019).
///
/// ```
/// use ala_loss::{Error, GroupThresholds};
/// assert_eq!(GroupThresholds::default(), GroupThresholds::new(100, 20)?);
/// let overlap = Error::Thresholds { many_over: 20, few_under: 100 };
/// assert_eq!(GroupThresholds::new(20, 100), Err(overlap));
/// # Ok::<(), ala_loss::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupThresholds {
    many_over: u64,
    few_under: u64,
}

impl Default for GroupThresholds {
    fn default() -> Self {
        Self {
            many_over: 100,
            few_under: 20,
        }
    }
}

impl GroupThresholds {
    /// Many-shot: count `> many_over`; few-shot: count `< few_under`; medium between.
    ///
    /// # Errors
    /// [`Error::Thresholds`] where a count could be both.
    ///
    /// ```
    /// use ala_loss::{Group, GroupThresholds};
    /// let thresholds = GroupThresholds::new(500, 80)?;
    /// assert_eq!(thresholds.group(79), Group::Few);
    /// # Ok::<(), ala_loss::Error>(())
    /// ```
    pub fn new(many_over: u64, few_under: u64) -> Result<Self, Error> {
        if few_under > many_over.saturating_add(1) {
            return Err(Error::Thresholds {
                many_over,
                few_under,
            });
        }
        Ok(Self {
            many_over,
            few_under,
        })
    }

    /// The group of a class with `count` samples.
    ///
    /// ```
    /// use ala_loss::{Group, GroupThresholds};
    /// let groups = [101, 100, 20, 19].map(|count| GroupThresholds::default().group(count));
    /// assert_eq!(groups, [Group::Many, Group::Medium, Group::Medium, Group::Few]);
    /// ```
    pub fn group(&self, count: u64) -> Group {
        if count > self.many_over {
            Group::Many
        } else if count < self.few_under {
            Group::Few
        } else {
            Group::Medium
        }
    }
}
