//! ALA loss (Adaptive Logit Adjustment, Zhao et al., AAAI 2022) and the long-tail losses it is
//! compared with: loss **and** gradient with respect to the logits, from one call.
//!
//! The target's logit gets a margin, the product of a *quantity factor* (rare classes get more) and
//! a *difficulty factor* (instances whose target cosine is low get more):
//!
//! ```text
//! z_y = s (x_y - DF QF_y)    DF = (1 - x_y)/2    QF_y = 1 / log2(n_y/n_min + 1)
//! z_j = s x_j  (j != y)      L = -log softmax(z)_y
//! ```
//!
//! ```
//! use ala_loss::{ClassCounts, Loss, Objective};
//!
//! let counts = ClassCounts::new([500, 50, 5])?; // training samples of each class
//! let loss = Loss::builder(Objective::ala(), &counts).scale(30.0).build()?;
//! let cosines = [0.8f32, 0.1, -0.3, 0.2, 0.4, 0.1]; // [N = 2, C = 3], not yet scaled
//! let outcome = loss.evaluate(&cosines, &[0, 2])?;
//! println!("{} {:?}", outcome.loss, outcome.gradient);
//! # Ok::<(), ala_loss::Error>(())
//! ```
//!
//! **The margin losses take cosines that are not yet scaled**: the loss multiplies by `s` itself.
//! Scaling in the model too is the most common mistake with such losses; [`Input::PreScaled`] is
//! for logits that are `s cos`.
//!
//! With the feature `cuda` the same loss runs on NVIDIA GPUs: see the module `cuda`.
//!
//! What happens at the edges (bad labels, NaN, infinities, ignored rows) is in the README's table
//! and holds for every objective and element type. Results do not depend on the number of threads,
//! to the bit.

mod call;
mod counts;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod element;
mod error;
mod groups;
mod loss;
pub mod metrics;
mod objective;
mod reduction;
pub mod reference;
mod schedule;
mod shape;
mod shard;
mod table;

pub use call::{Divisor, Lambda, NO_CLASS, Options, Outcome, Outputs, Summary, Upstream};
pub use counts::{ClassCounts, ZeroCounts};
pub use cpu::{CpuElement, CpuInstance};
#[doc(hidden)]
pub use element::LabelSlice;
pub use element::{Element, Label, Real};
pub use error::Error;
pub use groups::{Group, GroupThresholds};
pub use loss::{Input, Loss, LossBuilder};
pub use objective::{Ala, DifficultyGradient, Objective, QuantityLog};
pub use reduction::Reduction;
pub use schedule::DeferredReweighting;
pub use shard::LossShard;
pub use table::{Affine, NonTarget, RowTable, Target};
