//! What measurements stand beside: launch shapes of one's own give the same step, and the copy
//! kernel copies.

use std::collections::BTreeSet;

use ala_loss::cuda::instruments::{Instruments, LaunchShape, TIERS};
use ala_loss::cuda::{CudaElement, CudaError, Options, Outputs};
use ala_loss::{CpuElement, Error, Loss, Objective};
use cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
use half::bf16;

use crate::device::{Device, Step, device};
use crate::parity::assert_bound;
use crate::problem;

/// Every shape that is offered solves the batch, within the bounds of any step.
#[test]
fn every_launch_shape_gives_the_step() {
    fn check<T: CudaElement + CpuElement + DeviceRepr + Default>(
        device: &Device,
        objective: Objective,
        rows: usize,
        classes: usize,
    ) -> BTreeSet<&'static str> {
        let mut rng = fastrand::Rng::with_seed(80);
        let loss = Loss::builder(objective, &problem::counts(&mut rng, classes))
            .build()
            .expect("valid");
        let mut bound = device.bind(&loss);
        let step = Step::contiguous(
            problem::logits::<T>(&mut rng, rows * classes, 1.0),
            problem::labels(&mut rng, rows, classes),
            classes,
        );
        let own = bound.launch_shape::<T>(rows).expect("a tier takes it");
        let shapes = bound.launch_shapes::<T>(rows).expect("kernels load");
        let tiers: BTreeSet<_> = shapes.iter().map(|shape| shape.tier).collect();
        assert!(tiers.contains(own.tier), "{own:?}");
        for shape in shapes {
            bound.set_launch_shape(Some(shape));
            assert_bound(device, &bound, &step);
            if let Some(soft) = device.soft {
                let launch = soft.last_launch().expect("a launch");
                let name = format!("ala_{}_", shape.tier);
                assert!(launch.kernel.starts_with(&name), "{shape:?}: {launch:?}");
                assert_eq!(launch.block[0], shape.threads, "{shape:?}: {launch:?}");
            }
        }
        tiers
    }
    let device = device();
    let adjustment = Objective::LogitAdjustment { tau: 1.0 };
    let taken = [
        check::<f32>(&device, Objective::ala(), 700, 10),
        check::<bf16>(&device, Objective::ala(), 9, 1000),
        check::<f32>(&device, adjustment, 40, 16),
        check::<f32>(&device, Objective::ala(), 2, 40_000),
    ];
    // Each tier takes any smaller row, so all are among them.
    let all: BTreeSet<_> = TIERS.iter().map(|tier| tier.name).collect();
    assert_eq!(taken.into_iter().flatten().collect::<BTreeSet<_>>(), all);
}

/// What a kernel cannot take is refused, not launched.
#[test]
fn a_launch_shape_that_does_not_fit_is_refused() {
    let device = device();
    let mut rng = fastrand::Rng::with_seed(81);
    let classes = 100;
    let loss = Loss::builder(Objective::ala(), &problem::counts(&mut rng, classes))
        .build()
        .expect("valid");
    let mut bound = device.bind(&loss);
    let own = bound.launch_shape::<f32>(8).expect("a tier takes it");
    let logits = device.upload(&problem::logits::<f32>(&mut rng, 8 * classes, 1.0));
    let labels = device.upload(&problem::labels(&mut rng, 8, classes));
    let mut workspace = bound.workspace(&device.stream, 8).expect("a workspace");
    let staged = LaunchShape {
        tier: "staged",
        threads: 512,
        blocks_per_multiprocessor: 2,
        parts: 1,
    };
    for shape in [
        LaunchShape {
            tier: "packed",
            ..own
        },
        LaunchShape {
            tier: "row9x9",
            ..own
        },
        LaunchShape { threads: 0, ..own },
        LaunchShape {
            threads: 100,
            ..own
        },
        LaunchShape {
            threads: 2 * own.threads.max(128),
            ..own
        },
        LaunchShape {
            blocks_per_multiprocessor: 0,
            ..own
        },
        LaunchShape { parts: 0, ..own },
        LaunchShape { parts: 2, ..own },
        LaunchShape {
            threads: 512,
            ..staged
        },
        LaunchShape { parts: 0, ..staged },
        LaunchShape {
            parts: 34,
            ..staged
        },
    ] {
        bound.set_launch_shape(Some(shape));
        let launched = bound.launch(
            &device.stream,
            &logits,
            &labels,
            &Options::new(),
            Outputs::new(),
            &mut workspace,
        );
        let refused = matches!(
            launched,
            Err(Error::Cuda(CudaError::LaunchShape { tier, .. })) if tier == shape.tier
        );
        assert!(refused, "{shape:?}: {launched:?}");
    }
    // The crate's own choice again.
    bound.set_launch_shape(None);
    let outputs = Outputs::new();
    bound
        .launch(
            &device.stream,
            &logits,
            &labels,
            &Options::new(),
            outputs,
            &mut workspace,
        )
        .expect("launches");
    assert!(workspace.read(&device.stream).is_ok());
}

/// Both copy kernels, over whole and ragged blocks; nothing behind the copy is written.
#[test]
fn the_copy_kernel_copies() {
    const BEYOND: usize = 64;
    let device = device();
    let instruments = Instruments::load(&device.context).expect("it loads");
    let stream = &device.stream;
    // The last is more than the device holds threads, four vectors each.
    for vectors in [1, 255, 256, 1000, 4 * 132 * 2048 + 3] {
        let bytes = 16 * vectors;
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
        let from = device.upload(&content);
        let mut to = device.upload(&vec![77u8; bytes + BEYOND]);
        {
            let (source, _reads) = from.device_ptr(stream);
            let (destination, _writes) = to.device_ptr_mut(stream);
            // SAFETY: two buffers of at least so many bytes, kept by their guards.
            unsafe { instruments.copy(stream.cu_stream(), source, destination, bytes as u64) }
                .expect("launches");
        }
        let copied = device.download(&to);
        assert!(copied[..bytes] == content[..], "{vectors} vectors");
        assert_eq!(copied[bytes..], [77u8; BEYOND], "{vectors} vectors");
    }
    let from = device.upload(&[0u8; 64]);
    let mut to = device.upload(&[0u8; 64]);
    let (source, _reads) = from.device_ptr(stream);
    let (destination, _writes) = to.device_ptr_mut(stream);
    for (source, destination, bytes) in [
        (source + 4, destination, 32),
        (source, destination + 8, 32),
        (0, destination, 32),
        (source, destination, 20),
    ] {
        // SAFETY: it is refused.
        let copied = unsafe { instruments.copy(stream.cu_stream(), source, destination, bytes) };
        assert!(copied.is_err(), "{source:#x} {destination:#x} {bytes}");
    }
    instruments.empty(stream).expect("launches");
    instruments.read(stream, &from).expect("launches");
    stream.synchronize().expect("both run");
}
