//! Several devices, streams and threads.

use std::thread;

use ala_loss::{Objective, Reduction};
use ala_loss_candle::CandleLoss;
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
