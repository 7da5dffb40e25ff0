//! The loss as an operation of burn's, and its backward pass.

use ala_loss::Loss;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, ExtensionType, Flex, backend_extension};

use crate::error::Error;
use crate::step::{Call, Step, Steps, Targets};

/// An operation returns tensors, never a `Result`: so this does.
#[derive(ExtensionType)]
pub enum Answer<B: Backend> {
    /// As in [`Step`].
    Rows {
        loss: FloatTensor<B>,
        row_losses: FloatTensor<B>,
        hits: BoolTensor<B>,
    },
    Refused(Error),
}

/// The operations, on the backends that are named here.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait LossOps: Backend {
    /// Loss, row losses and hits of `[N, C]` logits.
    fn ala_loss(
        logits: FloatTensor<Self>,
        #[extension_type] targets: Targets<Self>,
        call: Call,
    ) -> Answer<Self>;

    /// What a mean divides by.
    fn ala_divisor(#[extension_type] targets: Targets<Self>, loss: Loss) -> Result<f64, Error>;
}

impl LossOps for Flex {
    fn ala_loss(logits: FloatTensor<Self>, targets: Targets<Self>, call: Call) -> Answer<Self> {
        untracked(&logits, &targets, &call)
    }

    fn ala_divisor(targets: Targets<Self>, loss: Loss) -> Result<f64, Error> {
        Self::divisor(&targets, &loss)
    }
}

// burn's `Cube` is one of these two, as its feature `fusion` is off or on in a build.
#[cfg(feature = "cuda")]
impl LossOps for burn_cubecl::CubeBackend {
    fn ala_loss(logits: FloatTensor<Self>, targets: Targets<Self>, call: Call) -> Answer<Self> {
        untracked(&logits, &targets, &call)
    }

    fn ala_divisor(targets: Targets<Self>, loss: Loss) -> Result<f64, Error> {
        Self::divisor(&targets, &loss)
    }
}

#[cfg(feature = "cuda")]
impl<B: burn_fusion::FusionBackend + Steps> LossOps for burn_fusion::Fusion<B> {
    fn ala_loss(logits: FloatTensor<Self>, targets: Targets<Self>, call: Call) -> Answer<Self> {
        untracked(&logits, &targets, &call)
    }

    fn ala_divisor(targets: Targets<Self>, loss: Loss) -> Result<f64, Error> {
        Self::divisor(&targets, &loss)
    }
}

/// Of tensors that no graph knows.
fn untracked<B: Steps>(logits: &FloatTensor<B>, targets: &Targets<B>, call: &Call) -> Answer<B> {
    match B::step(logits, targets, call, false) {
        Ok(step) => Answer::Rows {
            loss: step.loss,
            row_losses: step.row_losses,
            hits: step.hits,
        },
        Err(error) => Answer::Refused(error),
    }
}

impl<B: Steps, C: CheckpointStrategy> LossOps for Autodiff<B, C> {
    fn ala_loss(logits: FloatTensor<Self>, targets: Targets<Self>, call: Call) -> Answer<Self> {
        let targets = untracked_targets(targets);
        let (logits, node) = logits.into_parts();
        let prepared = LossBackward.prepare::<C>([node]).compute_bound().stateful();
        let tracked = matches!(prepared, OpsKind::Tracked(_));
        let Step {
            loss,
            row_losses,
            hits,
            gradient,
        } = match B::step(&logits, &targets, &call, tracked) {
            Ok(step) => step,
            Err(error) => return Answer::Refused(error),
        };
        let loss = match prepared {
            OpsKind::Tracked(prepared) => {
                let kept = Kept {
                    logits,
                    targets,
                    gradient,
                    call,
                };
                prepared.finish(kept, loss)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(loss),
        };
        Answer::Rows {
            loss,
            row_losses: Self::from_inner(row_losses),
            hits,
        }
    }

    fn ala_divisor(targets: Targets<Self>, loss: Loss) -> Result<f64, Error> {
        B::divisor(&untracked_targets(targets), &loss)
    }
}

/// Nothing is differentiated with respect to them.
fn untracked_targets<B: Backend, C: CheckpointStrategy>(
    targets: Targets<Autodiff<B, C>>,
) -> Targets<B> {
    targets.map(|labels| labels, <Autodiff<B, C> as AutodiffBackend>::inner)
}

/// What the backward pass needs. Tensors are shared, not copied.
#[derive(Clone, Debug)]
struct Kept<B: Backend> {
    logits: FloatTensor<B>,
    targets: Targets<B>,
    gradient: Option<FloatTensor<B>>,
    call: Call,
}

#[derive(Debug)]
struct LossBackward;

impl<B: Steps> Backward<B, 1> for LossBackward {
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<B>(&ops.node);
        let Kept {
            logits,
            targets,
            gradient,
            call,
        } = ops.state;
        let [Some(node)] = ops.parents else { return };
        let id: NodeId = node.id;
        match B::gradient(&logits, &targets, &call, gradient, &upstream) {
            Ok(gradient) => grads.register::<B>(id, gradient),
            // The forward pass took the same logits and targets; burn's backward has no `Result`.
            Err(error) => panic!("{error}"),
        }
    }
}
