//! What a backend has to compute.

use std::convert::Infallible;

use ala_loss::{Divisor, Loss};
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType};

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

/// What the rows of a batch are held against. The tensors' shapes were checked before.
#[derive(Clone, Debug, ExtensionType)]
pub struct Targets<B: Backend> {
    pub(crate) labels: IntTensor<B>,
    #[extension_type]
    pub(crate) mixed: Mixed<B>,
    #[extension_type]
    pub(crate) row_weights: RowWeights<B>,
    pub(crate) divisor: Divisor,
}

/// Second labels, and how much is the first ones'. burn's macro takes no `Option` of a tensor.
#[derive(Clone, Debug, ExtensionType)]
pub enum Mixed<B: Backend> {
    No,
    Scalar {
        labels: IntTensor<B>,
        lambda: f64,
    },
    PerRow {
        labels: IntTensor<B>,
        lambda: FloatTensor<B>,
    },
}

/// A weight for each row, where it has one.
#[derive(Clone, Debug, ExtensionType)]
pub enum RowWeights<B: Backend> {
    No,
    Each(FloatTensor<B>),
}

impl<B: Backend> Targets<B> {
    /// The same with other tensors.
    pub(crate) fn map<T: Backend>(
        self,
        int: impl Fn(IntTensor<B>) -> IntTensor<T>,
        float: impl Fn(FloatTensor<B>) -> FloatTensor<T>,
    ) -> Targets<T> {
        let int = |labels| Ok::<_, Infallible>(int(labels));
        let Ok(targets) = self.try_map(int, |numbers| Ok(float(numbers)));
        targets
    }

    /// The same with other tensors, if each of them can be had.
    pub(crate) fn try_map<T: Backend, E>(
        self,
        int: impl Fn(IntTensor<B>) -> Result<IntTensor<T>, E>,
        float: impl Fn(FloatTensor<B>) -> Result<FloatTensor<T>, E>,
    ) -> Result<Targets<T>, E> {
        Ok(Targets {
            labels: int(self.labels)?,
            mixed: match self.mixed {
                Mixed::No => Mixed::No,
                Mixed::Scalar { labels, lambda } => Mixed::Scalar {
                    labels: int(labels)?,
                    lambda,
                },
                Mixed::PerRow { labels, lambda } => Mixed::PerRow {
                    labels: int(labels)?,
                    lambda: float(lambda)?,
                },
            },
            row_weights: match self.row_weights {
                RowWeights::No => RowWeights::No,
                RowWeights::Each(weights) => RowWeights::Each(float(weights)?),
            },
            divisor: self.divisor,
        })
    }
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

/// A backend on which the loss runs.
pub trait Steps: Backend {
    /// The loss, with the gradient where it will be asked for.
    fn step(
        logits: &FloatTensor<Self>,
        targets: &Targets<Self>,
        call: &Call,
        with_gradient: bool,
    ) -> Result<Step<Self>, Error>;

    /// The gradient for an upstream one: `kept` where that is what it was made for.
    fn gradient(
        logits: &FloatTensor<Self>,
        targets: &Targets<Self>,
        call: &Call,
        kept: Option<FloatTensor<Self>>,
        upstream: &FloatTensor<Self>,
    ) -> Result<FloatTensor<Self>, Error>;

    /// What a mean divides by.
    fn divisor(targets: &Targets<Self>, loss: &Loss) -> Result<f64, Error>;
}
