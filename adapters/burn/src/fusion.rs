//! The loss where burn fuses operations: its tensors may still be computations to come.
//!
//! A lazy operation could not tell of a label that is out of range. So the step does not join
//! them: what its tensors wait for is run first, then the step on the tensors beneath, at once.

use ala_loss::Loss;
use burn::backend::ir::InitOperationIr;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{DType, Shape, TensorMetadata};
use burn_fusion::custom::{OperationIr, OperationOutput, StreamId};
use burn_fusion::{Client, Fusion, FusionBackend, FusionTensor, NoOp};

use crate::error::Error;
use crate::step::{Call, Step, Steps, Targets};

impl<B: FusionBackend + Steps> Steps for Fusion<B> {
    fn step(
        logits: &FloatTensor<Self>,
        targets: &Targets<Self>,
        call: &Call,
        with_gradient: bool,
    ) -> Result<Step<Self>, Error> {
        let client = &logits.client;
        let plain = B::step(&float::<B>(logits), &resolved(targets), call, with_gradient)?;
        Ok(Step {
            loss: lazy_float::<B>(client, plain.loss),
            row_losses: lazy_float::<B>(client, plain.row_losses),
            hits: lazy_bool::<B>(client, plain.hits),
            gradient: plain
                .gradient
                .map(|gradient| lazy_float::<B>(client, gradient)),
        })
    }

    fn gradient(
        logits: &FloatTensor<Self>,
        targets: &Targets<Self>,
        call: &Call,
        kept: Option<FloatTensor<Self>>,
        upstream: &FloatTensor<Self>,
    ) -> Result<FloatTensor<Self>, Error> {
        let client = &logits.client;
        let gradient = B::gradient(
            &float::<B>(logits),
            &resolved(targets),
            call,
            // Taken out of the lazy tensor, so that its memory can be written to again.
            kept.map(|kept| client.resolve_tensor_float::<B>(kept)),
            &float::<B>(upstream),
        )?;
        Ok(lazy_float::<B>(client, gradient))
    }

    fn divisor(targets: &Targets<Self>, loss: &Loss) -> Result<f64, Error> {
        B::divisor(&resolved(targets), loss)
    }
}

fn resolved<B: FusionBackend>(targets: &Targets<Fusion<B>>) -> Targets<B> {
    let int = |tensor| int::<B>(&tensor);
    let float = |tensor| float::<B>(&tensor);
    targets.clone().map(int, float)
}

fn float<B: FusionBackend>(tensor: &FloatTensor<Fusion<B>>) -> FloatTensor<B> {
    tensor.client.resolve_tensor_float::<B>(tensor.clone())
}

fn int<B: FusionBackend>(tensor: &IntTensor<Fusion<B>>) -> IntTensor<B> {
    tensor.client.resolve_tensor_int::<B>(tensor.clone())
}

fn lazy_float<B: FusionBackend>(
    client: &Client<B::FusionRuntime>,
    tensor: FloatTensor<B>,
) -> FloatTensor<Fusion<B>> {
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    lazy::<B>(client, shape, dtype, B::float_tensor_handle(tensor))
}

fn lazy_bool<B: FusionBackend>(
    client: &Client<B::FusionRuntime>,
    tensor: BoolTensor<B>,
) -> BoolTensor<Fusion<B>> {
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    lazy::<B>(client, shape, dtype, B::bool_tensor_handle(tensor))
}

/// A tensor that is there, as burn makes one of data.
fn lazy<B: FusionBackend>(
    client: &Client<B::FusionRuntime>,
    shape: Shape,
    dtype: DType,
    handle: B::Handle,
) -> FusionTensor<B::FusionRuntime> {
    let made = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    client
        .register(
            StreamId::current(),
            OperationIr::Init(made),
            NoOp::<B>::new(),
        )
        .output()
}
