//! What a backend has to compute.

use ala_loss::Loss;
use burn::backend::Backend;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};

use crate::error::Error;

#[cfg(feature = "cuda")]
pub(crate) use crate::cuda::Bound;

/// What CUDA steps share, where there are none.
#[cfg(not(feature = "cuda"))]
#[derive(Clone, Debug, Default)]
pub struct Bound {}

/// A loss, and what a call wants of it.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) loss: Loss,
    /// The upstream gradient that the gradient is made for.
    pub(crate) loss_scale: f64,
    /// Whether each row's loss and hit are wanted.
    pub(crate) rows: bool,
    /// What the module's steps on CUDA devices share.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "there are no such steps")
    )]
    pub(crate) bound: Bound,
}

/// What a forward pass makes.
pub struct Step<B: Backend> {
    /// `[1]` where it is reduced, else `[N]`.
    pub(crate) loss: FloatTensor<B>,
    /// `[N]`, or `[0]` where it is not wanted.
    pub(crate) row_losses: FloatTensor<B>,
    /// `[N]`, or `[0]` where it is not wanted.
    pub(crate) hits: BoolTensor<B>,
    /// `[N, C]`, for an upstream gradient of the loss scale; of a reduced loss, where it is wanted.
    pub(crate) gradient: Option<FloatTensor<B>>,
}

/// A backend on which the loss runs. The tensors' shapes were checked before.
pub trait Steps: Backend {
    /// The loss, with the gradient where it will be asked for.
    fn step(
        logits: &FloatTensor<Self>,
        labels: &IntTensor<Self>,
        call: &Call,
        with_gradient: bool,
    ) -> Result<Step<Self>, Error>;

    /// The gradient for an upstream one: `kept` where that is what it was made for.
    fn gradient(
        logits: &FloatTensor<Self>,
        labels: &IntTensor<Self>,
        call: &Call,
        kept: Option<FloatTensor<Self>>,
        upstream: &FloatTensor<Self>,
    ) -> Result<FloatTensor<Self>, Error>;
}
