//! Workspaces that are misused, and devices that hold fewer blocks than a row is shared by.

use ala_loss::cuda::{CudaError, CudaLoss, Options, Outputs, Workspace};
use ala_loss::{Error, Loss, Objective, Reduction, Summary, reference};
use cudarc::driver::{DevicePtr, DevicePtrMut, result};

use crate::device::{Device, Step, device};
use crate::problem::{self, assert_within, gradient_bound, loss_bound, slope};

/// Where in a workspace its counts are, by `kernels/abi.h`.
const BLOCKS_DONE: u64 = 48;
const TICKETS: u64 = 52;

/// Rows that several blocks share.
const SHARED: usize = 60_000;

fn loss(classes: usize) -> Loss {
    let mut rng = fastrand::Rng::with_seed(98);
    Loss::builder(Objective::ala(), &problem::counts(&mut rng, classes))
        .reduction(Reduction::Sum)
        .build()
        .expect("valid")
}

fn batch(rows: usize, classes: usize) -> (Vec<f32>, Vec<i64>, f64) {
    let mut rng = fastrand::Rng::with_seed(99);
    let logits = problem::logits::<f32>(&mut rng, rows * classes, 1.0);
    let labels = problem::labels(&mut rng, rows, classes);
    let loss = loss(classes);
    let row = |(row, &y): (&[f32], &i64)| {
        reference::row(loss.table(), &problem::widen(row), y as usize).loss
    };
    let sum = logits.chunks(classes).zip(&labels).map(row).sum();
    (logits, labels, sum)
}

/// Lets launches disturb one another, which they do by races.
struct Disturbed<'a>(&'a Device);

impl<'a> Disturbed<'a> {
    fn on(device: &'a Device) -> Self {
        if let Some(soft) = device.soft {
            soft.set_races(false);
        }
        Self(device)
    }
}

impl Drop for Disturbed<'_> {
    fn drop(&mut self) {
        if let Some(soft) = self.0.soft {
            soft.set_races(true);
        }
    }
}

/// Sets a count of the workspace's state, as a launch under way or one that died would have left
/// it.
fn set(device: &Device, address: u64, count: u32) {
    device.stream.synchronize().expect("the stream ends");
    // SAFETY: the address is within a workspace that lives, and nothing is under way.
    unsafe { result::memcpy_htod_sync(address, &[count]) }.expect("a copy to the device");
}

/// Its address, from the memory that it is made in.
fn workspace(device: &Device, bound: &CudaLoss, rows: usize) -> (Workspace, u64) {
    let mut memory = device.upload(&vec![0u8; Workspace::bytes(rows)]);
    let address = memory.device_ptr_mut(&device.stream).0;
    let workspace = bound.workspace_in(&device.stream, memory);
    (workspace.expect("large enough"), address)
}

#[test]
fn a_workspace_that_is_not_at_rest_says_so() {
    let device = device();
    let _races = Disturbed::on(&device);
    // A block a row; a grid of one block, whose count alone tells; blocks that share a row and take
    // tickets.
    for (rows, classes, place) in [
        (50, 300, BLOCKS_DONE),
        (1, 3, BLOCKS_DONE),
        (2, SHARED, TICKETS),
    ] {
        let bound = device.bind(&loss(classes));
        let (logits, labels, right) = batch(rows, classes);
        let (x, y) = (device.upload(&logits), device.upload(&labels));
        let (mut workspace, address) = workspace(&device, &bound, rows);
        let run = |workspace: &mut Workspace| -> Result<Summary, Error> {
            bound.launch(
                &device.stream,
                &x,
                &y,
                &Options::new(),
                Outputs::new(),
                workspace,
            )?;
            workspace.read(&device.stream)
        };
        let what = || format!("C = {classes}, at {place}");
        let check = |summary: Result<Summary, Error>| {
            let got = summary.expect("no bad label").loss;
            assert_within(got, right, loss_bound(right), &what);
        };
        check(run(&mut workspace));
        check(run(&mut workspace));
        // Another launch's block came first.
        set(&device, address + place, 1);
        let misused = Err(CudaError::Workspace.into());
        let disturbed = run(&mut workspace);
        if device.soft.is_none() && disturbed.is_ok() {
            // On a GPU the block that took itself for the last may come when all others have left
            // their totals.
            check(disturbed);
            workspace.reset(&device.stream).expect("resets");
            continue;
        }
        assert_eq!(disturbed, misused, "{}", what());
        // It stays so until it is reset.
        assert_eq!(workspace.read(&device.stream), misused, "{}", what());
        workspace.reset(&device.stream).expect("resets");
        check(run(&mut workspace));
        check(run(&mut workspace));
    }
}

/// The totals of another launch are told from a block's own, though the counts come out right.
#[test]
fn totals_of_another_launch_are_found() {
    let device = device();
    let _races = Disturbed::on(&device);
    let (rows, classes) = (50, 300);
    let bound = device.bind(&loss(classes));
    let (logits, labels, right) = batch(rows, classes);
    let (x, y) = (device.upload(&logits), device.upload(&labels));
    let (mut workspace, address) = workspace(&device, &bound, rows);
    let launch = |workspace: &mut Workspace| {
        bound.launch(
            &device.stream,
            &x,
            &y,
            &Options::new(),
            Outputs::new(),
            workspace,
        )
    };
    launch(&mut workspace).expect("launches");
    workspace.read(&device.stream).expect("no bad label");
    // One of the other launch's blocks is counted in place of this one's last, which ends when all
    // is settled.
    set(&device, address + BLOCKS_DONE, 1);
    launch(&mut workspace).expect("launches");
    set(&device, address + BLOCKS_DONE, 0);
    match workspace.read(&device.stream) {
        // As above.
        Ok(summary) if device.soft.is_none() => {
            assert_within(summary.loss, right, loss_bound(right), &|| {
                "on a GPU".into()
            });
        }
        read => assert_eq!(read, Err(CudaError::Workspace.into())),
    }
}

/// One poll a step tells of earlier ones, and nothing waits for the device.
#[test]
fn a_poll_tells_of_earlier_steps_without_waiting() {
    let device = device();
    let (rows, classes) = (50, 300);
    let bound = device.bind(&loss(classes));
    let (logits, labels, right) = batch(rows, classes);
    let x = device.upload(&logits);
    let y = device.upload(&labels);
    let mut bad = labels.clone();
    (bad[7], bad[9]) = (-3, 300);
    let bad = device.upload(&bad);
    let mut workspace = bound.workspace(&device.stream, rows).expect("fits");
    let launch = |labels, workspace: &mut Workspace| {
        let (options, outputs) = (Options::new(), Outputs::new());
        bound
            .launch(&device.stream, &x, labels, &options, outputs, workspace)
            .expect("launches");
    };
    let poll = |workspace: &mut Workspace| {
        // A GPU may not be there yet; software runs when it is asked.
        loop {
            match workspace.poll(&device.stream) {
                Ok(None) => {}
                told => return told.map(|told| told.expect("not none")),
            }
        }
    };
    let check = |told: Result<Summary, Error>| {
        let told = told.expect("no bad label");
        assert_eq!(told.counted_rows, rows);
        assert_within(told.loss, right, loss_bound(right), &|| "polled".into());
    };
    let label = Error::Label {
        row: 7,
        label: -3,
        classes,
    };
    let waits = |device: &Device| {
        let calls = ["cuStreamSynchronize", "cuCtxSynchronize"];
        device
            .soft
            .map(|soft| calls.map(|call| soft.driver_calls(call)))
    };

    launch(&y, &mut workspace);
    let before = waits(&device);
    // What it asks for now it tells when it is asked again.
    assert_eq!(workspace.poll(&device.stream), Ok(None));
    launch(&bad, &mut workspace);
    launch(&y, &mut workspace);
    check(poll(&mut workspace));
    // The bad label is not the last step's, and is told once.
    launch(&y, &mut workspace);
    assert_eq!(poll(&mut workspace), Err(label.clone()));
    launch(&y, &mut workspace);
    check(poll(&mut workspace));
    check(poll(&mut workspace));
    assert_eq!(waits(&device), before, "a poll has waited");

    // Whoever reads needs no poll's answer any more, and what a poll told is not read again.
    launch(&bad, &mut workspace);
    poll(&mut workspace).expect("of an earlier step");
    assert_eq!(workspace.read(&device.stream), Err(label.clone()));
    launch(&y, &mut workspace);
    assert_eq!(workspace.poll(&device.stream), Ok(None));
    check(poll(&mut workspace));
    launch(&bad, &mut workspace);
    check(poll(&mut workspace));
    assert_eq!(poll(&mut workspace), Err(label));
    launch(&y, &mut workspace);
    check(workspace.read(&device.stream));
}

#[test]
fn a_workspace_must_be_aligned() {
    let device = device();
    let bound = device.bind(&loss(3));
    let memory = device.upload(&vec![0u8; Workspace::bytes(5) + 8]);
    let (address, length) = (memory.device_ptr(&device.stream).0, memory.len());
    // SAFETY: within the allocation above; refused, so that nothing is written there.
    let shifted = unsafe {
        device
            .stream
            .upgrade_device_ptr::<u8>(address + 8, length - 8)
    };
    let refused = bound.workspace_in(&device.stream, shifted);
    assert!(
        matches!(
            refused,
            Err(Error::Cuda(CudaError::Address {
                buffer: "workspace",
                alignment: 16,
                ..
            }))
        ),
        "{refused:?}"
    );
    // The driver refused to free what is no allocation's beginning; that error is not the next
    // call's.
    assert!(device.context.check_err().is_err());
}

/// Fewer blocks than a row is shared by, as in a partition of a device: nobody waits for a block
/// that never runs.
#[test]
fn a_device_that_holds_few_blocks_still_ends() {
    let device = device();
    let Some(soft) = device.soft else {
        eprintln!("a device is made smaller in software only");
        return;
    };
    // Rows that fit into one block's shared memory, and rows that do not.
    for (classes, tier) in [(25_000, "staged"), (262_144, "streamed")] {
        let loss = loss(classes);
        let bound = device.bind(&loss);
        let (logits, labels, _) = batch(2, classes);
        let step = Step::contiguous(logits, labels, classes);
        for few in [None, Some(3)] {
            if let Some(few) = few {
                soft.set_resident_blocks(few);
            }
            let got = device.run(&bound, &step);
            soft.set_resident_blocks(softcuda::device::RESIDENT_BLOCKS as u32);
            let launch = soft.last_launch().expect("a launch");
            let (wanted, shared) = match few {
                None => ("staged", true),
                Some(_) => (tier, false),
            };
            assert!(launch.kernel.contains(wanted), "{few:?} {launch:?}");
            assert_eq!(launch.grid[0] > 2, shared, "{few:?} {launch:?}");
            let bound = slope(loss.table());
            for (row, &y) in step.labels.iter().enumerate() {
                let x = &step.logits[row * classes..][..classes];
                let exact = reference::row(loss.table(), &problem::widen(x), y as usize);
                let what = || format!("{few:?} C = {classes}");
                let loss = f64::from(got.row_losses[row]);
                assert_within(loss, exact.loss, loss_bound(exact.loss), &what);
                let gradient = &got.gradient[row * classes..][..classes];
                for (got, exact) in gradient.iter().zip(&exact.gradient) {
                    let bound = gradient_bound::<f32>(*exact, bound);
                    assert_within(f64::from(*got), *exact, bound, &what);
                }
            }
        }
    }
}
