//! Several devices, streams and threads; graphs.

use std::thread;

use ala_loss::{Objective, Reduction};
use ala_loss_candle::CandleLoss;
use candle_core::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{DType, Device, Tensor};

use crate::cases::{
    CLASSES, LABELS, Outcome, ROWS, assert_close, counted, device, expected, gradient_of, numbers,
    soft, values, variable,
};

/// Steps of two models enqueued in turns, on a stream each, with one loss.
#[test]
fn two_models_on_two_streams() -> Outcome {
    let devices = [device(), device()];
    let loss = counted(Objective::ala(), Reduction::Mean);
    let op = CandleLoss::new(loss.clone());
    let mut totals = Vec::new();
    for step in 0..3 {
        for (model, device) in devices.iter().enumerate() {
            let salt = 40 + 10 * model as u64 + step;
            let logits = variable(
                &values(ROWS * CLASSES, salt),
                (ROWS, CLASSES),
                DType::F32,
                device,
            )?;
            let labels = Tensor::new(&LABELS, device)?;
            totals.push(((op.forward(&logits, &labels)? * 2.0)?, logits));
        }
    }
    for (total, logits) in &totals {
        let expected = expected(&loss, &numbers(logits)?, &LABELS, &[2.0]);
        assert_close(&numbers(total)?, &[2.0 * expected.loss], 2e-6);
        assert_close(&gradient_of(total, logits)?, &expected.gradient, 4e-6);
    }
    for device in &devices {
        op.check(device)?;
    }
    Ok(())
}

/// candle's default stream is each thread's own: steps of two threads may overlap.
#[test]
fn threads_share_a_loss() -> Outcome {
    soft();
    let device = Device::new_cuda(0)?;
    let loss = counted(Objective::ala(), Reduction::Mean);
    let op = CandleLoss::new(loss.clone());
    let of_thread = |salt: u64| -> candle_core::Result<()> {
        for step in 0..4 {
            let start = values(ROWS * CLASSES, 60 + 10 * salt + step);
            let logits = variable(&start, (ROWS, CLASSES), DType::F32, &device)?;
            let labels = Tensor::new(&LABELS, &device)?;
            let value = op.forward(&logits, &labels)?;
            let expected = expected(&loss, &numbers(&logits)?, &LABELS, &[1.0]);
            assert_close(&gradient_of(&value, &logits)?, &expected.gradient, 4e-6);
            assert_close(&numbers(&value)?, &[expected.loss], 2e-6);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|salt| scope.spawn(move || of_thread(salt)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect::<candle_core::Result<Vec<()>>>()
    })?;
    op.check(&device)?;
    Ok(())
}

/// A step, forward and backward, captured once and replayed on what the variables hold by then. The
/// upstream gradient is and is not the one that the gradient was made for.
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
        let step = || -> candle_core::Result<(Tensor, Tensor)> {
            let value = (op.forward(&logits, &labels)? * factor)?;
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
            graph.launch()?;
            let expected = expected(&loss, &numbers(&logits)?, &LABELS, &[factor]);
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
