//! A step in a CUDA graph. A program of its own: while a stream is captured, others of its context
//! must not be waited for, made or destroyed.
#![cfg(feature = "cuda")]

#[path = "cuda_loss/cases.rs"]
#[expect(dead_code, reason = "what the tests of values need beside")]
mod cases;

use ala_loss::{Lambda, Objective, Options, Reduction, Upstream};
use ala_loss_candle::{CandleLoss, StepOptions};
use candle_core::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{DType, Device, Tensor};

use cases::{
    CLASSES, LABELS, Outcome, ROWS, assert_close, counted, device, numbers, values, variable,
};

/// A step, forward and backward, captured once and replayed on what the variables and each row's
/// lambda are by then. The upstream gradient is and is not the one that the gradient was made for.
#[test]
fn a_step_can_be_captured_into_a_graph() -> Outcome {
    let device = device();
    let Device::Cuda(cuda) = &device else {
        unreachable!("it was made as one")
    };
    let stream = cuda.cuda_stream();
    // Events that cudarc records on its slices cannot be waited for inside a capture.
    // SAFETY: everything below uses this device's one stream.
    unsafe { cuda.disable_event_tracking() };
    let loss = counted(Objective::ala(), Reduction::Mean);
    let salts = [70, 71, 72];
    for factor in [1.0, -3.0] {
        let op = CandleLoss::new(loss.clone());
        let shape = (ROWS, CLASSES);
        let logits = variable(&values(ROWS * CLASSES, 73), shape, DType::F32, &device)?;
        let labels = Tensor::new(&LABELS, &device)?;
        let second = LABELS.map(|label| (label + 3) % CLASSES as i64);
        let of_second = Tensor::new(&second, &device)?;
        let each = Tensor::zeros(ROWS, DType::F32, &device)?;
        let mixed = StepOptions::new().mixed_with(&of_second, Lambda::PerRow(&each));
        let step = || -> candle_core::Result<(Tensor, Tensor)> {
            let value = (op.forward_with(&logits, &labels, &mixed)? * factor)?;
            let gradients = value.backward()?;
            Ok((value, gradients.get(&logits).expect("a gradient").clone()))
        };
        // Binds, loads and allocates.
        step()?;
        op.check(&device)?;

        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let captured = step();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags)?.expect("a graph");
        let (value, gradient) = captured?;
        for salt in salts {
            let next = variable(&values(ROWS * CLASSES, salt), shape, DType::F32, &device)?;
            logits.set(&next)?;
            let lambda: Vec<f64> = (0..ROWS)
                .map(|row| ((row + salt as usize) % 5) as f64 / 4.0)
                .collect();
            each.slice_set(
                &Tensor::new(&lambda[..], &device)?.to_dtype(DType::F32)?,
                0,
                0,
            )?;
            graph.launch()?;
            let options = Options::new()
                .upstream(Upstream::Scalar(factor))
                .mixed_with(&second, Lambda::PerRow(&lambda));
            let expected = loss.evaluate_with(&numbers(&logits)?, &LABELS, &options)?;
            assert_close(&numbers(&value)?, &[factor * expected.loss], 2e-6);
            assert_close(&numbers(&gradient)?, &expected.gradient, 4e-6);
        }
        // A label out of range is told though nobody has polled.
        let mut some = LABELS;
        some[5] = 99;
        labels.slice_set(&Tensor::new(&some, &device)?, 0, 0)?;
        graph.launch()?;
        let told = op
            .check(&device)
            .expect_err("a label out of range")
            .to_string();
        assert!(told.contains("row 5 has label 99"), "{told}");
        assert!(numbers(&value)?[0].is_nan());
    }
    Ok(())
}
