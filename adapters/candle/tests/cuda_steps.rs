//! What a step costs in calls of the driver, which are counted in software only. A program of its
//! own, whose tests take turns: calls are counted for the whole process.
#![cfg(feature = "cuda")]

#[path = "cuda_loss/cases.rs"]
#[expect(dead_code, reason = "what the tests of values need beside")]
mod cases;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ala_loss::{Lambda, Objective, Reduction};
use ala_loss_candle::{CandleLoss, CosineLoss, StepOptions};
use candle_core::{DType, Device, Tensor, Var};

use cases::{CLASSES, LABELS, Outcome, ROWS, counted, device, loss, soft, values, variable};

/// What waits. Not cuEventSynchronize: what an earlier step told is read behind an event that is
/// known to have passed.
const WAITS: [&str; 8] = [
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuModuleLoadData",
];

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call with what it costs: driver calls by name.
fn calls<const N: usize>(
    names: [&str; N],
    step: impl FnOnce() -> Outcome,
) -> Result<[u64; N], Box<dyn std::error::Error>> {
    let soft = soft().expect("asked by who knows that it is there");
    let before = names.map(|name| soft.driver_calls(name));
    step()?;
    let after = names.map(|name| soft.driver_calls(name));
    Ok(std::array::from_fn(|i| after[i] - before[i]))
}

fn cosine_variables(device: &Device) -> candle_core::Result<(Var, Var)> {
    Ok((
        variable(&values(ROWS * 3, 31), (ROWS, 3), DType::F32, device)?,
        variable(&values(CLASSES * 3, 32), (CLASSES, 3), DType::F32, device)?,
    ))
}

#[test]
fn nothing_waits_in_a_step() -> Outcome {
    if soft().is_none() {
        return Ok(());
    }
    let _turn = turn();
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let ones = Tensor::ones(ROWS, DType::F32, &device)?;
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::None] {
        let op = CandleLoss::new(counted(Objective::ala(), reduction));
        let cosine = CosineLoss::new(counted(Objective::ala(), reduction)).rows_at_once(4);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let logits = variable(&values(ROWS * CLASSES, 30), (ROWS, CLASSES), dtype, &device)?;
            let (features, weight) = cosine_variables(&device)?;
            let mixed = StepOptions::new()
                .mixed_with(&labels, Lambda::PerRow(&ones))
                .row_weights(&ones);
            let step = || -> Outcome {
                for options in [StepOptions::new(), mixed] {
                    let value = op.forward_rows_with(&logits, &labels, &options)?.loss;
                    (value * 3.0)?.sum_all()?.backward()?;
                    let value = cosine.forward_rows_with(&features, &weight, &labels, &options)?;
                    value.loss.sum_all()?.backward()?;
                }
                Ok(())
            };
            // Binds, loads and allocates.
            step()?;
            step()?;
            assert_eq!(
                calls(WAITS, step)?,
                [0; WAITS.len()],
                "{reduction:?} {dtype:?}"
            );
        }
        op.check(&device)?;
        cosine.check(&device)?;
    }
    Ok(())
}

/// One launch forward and one backward, which the device ends at once where the gradient is the one
/// that was kept; two each where a mean counts first.
#[test]
fn a_step_is_two_launches() -> Outcome {
    if soft().is_none() {
        return Ok(());
    }
    let _turn = turn();
    let device = device();
    let labels = Tensor::new(&LABELS, &device)?;
    let logits = variable(
        &values(ROWS * CLASSES, 33),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    for (loss, launches) in [
        (loss(Objective::ala(), Reduction::Mean), 1),
        (loss(Objective::ala(), Reduction::Sum), 1),
        (counted(Objective::ala(), Reduction::Mean), 2),
    ] {
        let op = CandleLoss::new(loss);
        op.forward(&logits, &labels)?.backward()?;
        let counted = calls(["cuLaunchKernel"], || {
            op.forward(&logits, &labels)?;
            Ok(())
        })?;
        assert_eq!(counted, [launches]);
        // candle's own: the loss's ones, the logits' zeros and their sum with the gradient.
        let value = op.forward(&logits, &labels)?;
        let own = calls(["cuLaunchKernel"], || {
            let value = logits.sum_all()?;
            value.backward()?;
            Ok(())
        })?;
        let with = calls(["cuLaunchKernel"], || {
            value.backward()?;
            Ok(())
        })?;
        assert!(with[0] <= launches + own[0], "{with:?}, {own:?}");
    }
    Ok(())
}

/// Kernels are loaded once a device, tables uploaded once an op: clones share them.
#[test]
fn a_loss_is_bound_once_a_device() -> Outcome {
    if soft().is_none() {
        return Ok(());
    }
    let _turn = turn();
    let device = device();
    let op = CandleLoss::new(loss(Objective::ala(), Reduction::Mean));
    let logits = variable(
        &values(ROWS * CLASSES, 34),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    // A variable would be copied.
    let logits = logits.affine(1.0, 0.0)?;
    let labels = Tensor::new(&LABELS, &device)?;
    op.forward(&logits, &labels)?;
    op.forward(&logits, &labels)?;
    let names = ["cuMemAllocAsync", "cuCtxSynchronize", "cuStreamSynchronize"];
    let counted = calls(names, || {
        op.clone().forward(&logits, &labels)?;
        Ok(())
    })?;
    // Gradient and loss.
    assert_eq!(counted, [2, 0, 0]);
    Ok(())
}

/// Where the gradient is the one that was kept the backward pass reads no logits, writes nothing.
#[test]
fn a_backward_pass_has_nothing_to_do_where_its_gradient_is_kept() -> Outcome {
    let Some(soft) = soft() else { return Ok(()) };
    let _turn = turn();
    let device = device();
    let (rows, classes) = (ROWS, CLASSES);
    let labels = Tensor::new(&LABELS, &device)?;
    let logits = variable(
        &values(rows * classes, 35),
        (rows, classes),
        DType::F32,
        &device,
    )?;
    // Not a variable, which is copied; its own gradient is that of the sum.
    let logits = logits.affine(1.0, 0.0)?;
    let read_by = |factor: f64, told: f64| -> Result<u64, Box<dyn std::error::Error>> {
        let op = CandleLoss::new(loss(Objective::ala(), Reduction::Mean)).loss_scale(told)?;
        let total = (op.forward(&logits, &labels)? * factor)?;
        device.synchronize()?;
        soft.take_counters();
        total.backward()?;
        device.synchronize()?;
        Ok(soft.take_counters().lane_instructions)
    };
    for told in [1.0, 4.0] {
        let (kept, anew) = (read_by(told, told)?, read_by(3.0, told)?);
        // The step costs more than 10 operations an element.
        let least = 10 * (rows * classes) as u64;
        assert!(kept + least < anew, "{kept} operations, {anew} anew");
    }
    Ok(())
}

/// Each of them has a workspace, since candle's default stream is each thread's own.
#[test]
fn steps_of_two_threads_share_no_workspace() -> Outcome {
    if soft().is_none() {
        return Ok(());
    }
    let _turn = turn();
    let device = Device::new_cuda(0)?;
    let op = CandleLoss::new(loss(Objective::ala(), Reduction::Mean));
    let logits = variable(
        &values(ROWS * CLASSES, 36),
        (ROWS, CLASSES),
        DType::F32,
        &device,
    )?;
    let labels = Tensor::new(&LABELS, &device)?;
    op.forward(&logits, &labels)?;
    op.check(&device)?;
    let counted = std::thread::scope(|scope| {
        let allocations = || -> Result<[u64; 1], String> {
            calls(["cuMemAllocAsync"], || {
                op.forward(&logits, &labels)?;
                Ok(())
            })
            .map_err(|error| error.to_string())
        };
        let thread = scope.spawn(move || Ok::<_, String>([allocations()?, allocations()?]));
        thread.join().expect("no panic")
    })?;
    assert_eq!(counted[0][0], counted[1][0] + 1);
    Ok(())
}
