//! What the host refuses before it launches anything.

use ala_loss::cuda::{CudaError, Options, Outputs, RawStep, Upstream, Workspace};
use ala_loss::{ClassCounts, Error, Loss, Objective, Reduction, reference};
use cudarc::driver::DevicePtr;

use crate::device::{Device, Step, device};
use crate::problem;

fn three(reduction: Reduction) -> Loss {
    let counts = ClassCounts::new([100, 30, 10]).expect("valid");
    Loss::builder(Objective::ala(), &counts)
        .reduction(reduction)
        .build()
        .expect("valid")
}

fn launches(device: &Device) -> Option<u64> {
    let calls = ["cuLaunchKernel", "cuLaunchCooperativeKernel"];
    let count = |soft: softcuda::client::SoftCuda| calls.map(|call| soft.driver_calls(call));
    device.soft.map(|soft| count(soft).iter().sum())
}

#[test]
fn wrong_shapes_are_errors_and_nothing_is_launched() {
    let device = device();
    let loss = device.bind(&three(Reduction::Mean));
    let stream = &device.stream;
    let mut workspace = loss.workspace(stream, 2).expect("a workspace");
    let x = device.upload(&[0.5f32; 8]);
    let y = device.upload(&[0i64, 1]);
    let y3 = device.upload(&[0i64, 1, 2]);
    let before = launches(&device);

    let shape = loss.launch(
        stream,
        &x,
        &y,
        &Options::new(),
        Outputs::new(),
        &mut workspace,
    );
    let expected = Error::LogitsShape {
        got: 8,
        expected: 6,
        rows: 2,
        classes: 3,
    };
    assert_eq!(shape, Err(expected));
    let stride = loss.launch(
        stream,
        &x,
        &y,
        &Options::new().stride(2),
        Outputs::new(),
        &mut workspace,
    );
    assert!(matches!(
        stride,
        Err(Error::Stride {
            stride: 2,
            classes: 3,
            ..
        })
    ));
    let short = loss.launch(
        stream,
        &x,
        &y,
        &Options::new().stride(6),
        Outputs::new(),
        &mut workspace,
    );
    assert!(matches!(
        short,
        Err(Error::StridedBuffer {
            got: 8,
            expected: 9,
            ..
        })
    ));
    let huge = Options::new().stride(usize::MAX / 2 + 1);
    let huge = loss.launch(stream, &x, &y3, &huge, Outputs::new(), &mut workspace);
    assert!(matches!(huge, Err(Error::ShapeOverflow { .. })));

    let mut small = device.upload(&[77.0f32; 5]);
    let mut one = device.upload(&[77u8]);
    let ok = Options::new().stride(4);
    let gradient = loss.launch(
        stream,
        &x,
        &y,
        &ok,
        Outputs::new().gradient(&mut small),
        &mut workspace,
    );
    assert!(matches!(
        gradient,
        Err(Error::Length {
            name: "gradient",
            got: 5,
            expected: 6
        })
    ));
    let losses = loss.launch(
        stream,
        &x,
        &y,
        &ok,
        Outputs::new().row_losses(&mut small),
        &mut workspace,
    );
    assert!(matches!(
        losses,
        Err(Error::Length {
            name: "row losses",
            got: 5,
            expected: 2
        })
    ));
    let hits = loss.launch(
        stream,
        &x,
        &y,
        &ok,
        Outputs::new().hits(&mut one),
        &mut workspace,
    );
    assert!(matches!(
        hits,
        Err(Error::Length {
            name: "hits",
            got: 1,
            expected: 2
        })
    ));
    let reduced = loss.launch(
        stream,
        &x,
        &y,
        &ok,
        Outputs::new().loss(&mut small),
        &mut workspace,
    );
    assert!(matches!(
        reduced,
        Err(Error::Length {
            name: "loss",
            got: 5,
            expected: 1
        })
    ));
    let each = device.upload(&[1.0f32, 2.0]);
    let upstream = loss.launch(
        stream,
        &x,
        &y,
        &ok.upstream(Upstream::PerRow(&each)),
        Outputs::new(),
        &mut workspace,
    );
    assert_eq!(upstream, Err(Error::UpstreamNeedsNoReduction("Mean")));
    let scalar = loss.launch(
        stream,
        &x,
        &y,
        &ok.upstream(Upstream::Scalar(&each)),
        Outputs::new(),
        &mut workspace,
    );
    assert!(matches!(
        scalar,
        Err(Error::Length {
            name: "upstream gradient",
            got: 2,
            expected: 1
        })
    ));

    let mut few = loss.workspace(stream, 1).expect("a workspace");
    let capacity = loss.launch(stream, &x, &y, &ok, Outputs::new(), &mut few);
    assert_eq!(
        capacity,
        Err(CudaError::WorkspaceTooSmall {
            capacity: 1,
            rows: 2
        }
        .into())
    );
    let mut over = device.upload(&[0.5f32; 6]);
    let mut gradient = device.upload(&[0.0f32; 6]);
    let outputs = Outputs::new().gradient(&mut gradient);
    let both = loss.launch_in_place(
        stream,
        &mut over,
        &y,
        &Options::new(),
        outputs,
        &mut workspace,
    );
    assert_eq!(both, Err(Error::GradientBufferInPlace));
    assert_eq!(launches(&device), before);
    assert_eq!(device.download(&small), [77.0; 5]);
}

#[test]
fn a_workspace_in_the_caller_s_memory() {
    let device = device();
    let loss = device.bind(&three(Reduction::Mean));
    let memory = device.upload(&vec![0u8; Workspace::bytes(5)]);
    let workspace = loss
        .workspace_in(&device.stream, memory)
        .expect("large enough");
    assert_eq!(workspace.capacity(), 5);
    let tiny = device.upload(&[0u8; 8]);
    assert!(matches!(
        loss.workspace_in(&device.stream, tiny),
        Err(Error::Length {
            name: "workspace",
            got: 8,
            ..
        })
    ));
}

#[test]
fn raw_addresses_give_the_same_and_are_checked() {
    let device = device();
    let stream = &device.stream;
    let loss = device.bind(&three(Reduction::None));
    let mut workspace = loss.workspace(stream, 2).expect("a workspace");
    let x = device.upload(&[0.8f32, 0.1, -0.3, 0.2, 0.4, 0.1]);
    let y = device.upload(&[0i32, 2]);
    let upstream = device.upload(&[2.0f32, -1.0]);
    let gradient = device.upload(&[77.0f32; 6]);
    let mut expected = device.upload(&[77.0f32; 6]);
    let outputs = Outputs::new().gradient(&mut expected);
    loss.launch(
        stream,
        &x,
        &y,
        &Options::new().upstream(Upstream::PerRow(&upstream)),
        outputs,
        &mut workspace,
    )
    .expect("launches");

    let (logits, _guard) = x.device_ptr(stream);
    let (labels, _guard) = y.device_ptr(stream);
    let (out, _guard) = gradient.device_ptr(stream);
    let (each, _guard) = upstream.device_ptr(stream);
    let step = RawStep {
        gradient: Some(out),
        upstream: Upstream::PerRow(each),
        ..RawStep::new(2, 3, logits, labels)
    };
    // SAFETY: the slices above outlive the download below, which waits.
    unsafe { loss.launch_raw::<f32, i32>(stream.cu_stream(), &step, &mut workspace) }
        .expect("launches");
    let summary = workspace.read(stream).expect("no bad label");
    assert_eq!(summary.counted_rows, 2);
    assert_eq!(device.download(&gradient), device.download(&expected));

    let refused = |step: RawStep, workspace: &mut Workspace| {
        // SAFETY: refused before anything is launched.
        unsafe { loss.launch_raw::<f32, i32>(stream.cu_stream(), &step, workspace) }
    };
    let misaligned = refused(
        RawStep {
            logits: logits + 2,
            ..step
        },
        &mut workspace,
    );
    assert!(matches!(
        misaligned,
        Err(Error::Cuda(CudaError::Address {
            buffer: "logits",
            alignment: 4,
            ..
        }))
    ));
    // It is written without rows too.
    let loss_address = refused(
        RawStep {
            rows: 0,
            loss: Some(out + 2),
            ..step
        },
        &mut workspace,
    );
    assert!(matches!(
        loss_address,
        Err(Error::Cuda(CudaError::Address {
            buffer: "loss",
            alignment: 4,
            ..
        }))
    ));
    let null = refused(RawStep { labels: 0, ..step }, &mut workspace);
    assert!(matches!(
        null,
        Err(Error::Cuda(CudaError::Address {
            buffer: "labels",
            address: 0,
            ..
        }))
    ));
    let stride = refused(
        RawStep {
            gradient_stride: 2,
            ..step
        },
        &mut workspace,
    );
    assert!(matches!(
        stride,
        Err(Error::Stride {
            name: "gradient",
            stride: 2,
            classes: 3
        })
    ));
    let rows = refused(RawStep { rows: 3, ..step }, &mut workspace);
    assert!(matches!(
        rows,
        Err(Error::Cuda(CudaError::WorkspaceTooSmall { .. }))
    ));
}

/// Sums of weights and their reciprocals are f32 there; what they cannot hold is named.
#[test]
fn weights_that_f32_cannot_hold_are_refused() {
    let device = device();
    for (weight, held) in [
        (1e-21, false),
        (1e-20, true),
        (0.0, true),
        (1e20, true),
        (1e21, false),
    ] {
        let weighted = three(Reduction::Mean)
            .with_class_weights(&[1.0, weight, 1.0])
            .expect("held on the CPU");
        let bound = weighted.bind(&device.context).map(drop);
        let refused = matches!(
            bound,
            Err(Error::Parameter { name: "class weight on CUDA", value, .. }) if value == weight
        );
        assert_eq!((bound.is_ok(), refused), (held, !held), "{weight}");
    }
    // Where all have the same weight, a mean does not see it, as far as it is held.
    for weight in [1e-20, 1.0, 1e20] {
        let weighted = three(Reduction::Mean)
            .with_class_weights(&[weight; 3])
            .expect("held on the CPU");
        let step = Step::contiguous(vec![0.5f32, 0.25, -0.5, 0.1, 0.2, 0.3], vec![0i64, 2], 3);
        let got = device.run(&device.bind(&weighted), &step);
        let got = got.summary.expect("no bad label").loss;
        let wide = problem::widen(&step.logits);
        let right: f64 = (0..2)
            .map(|row| {
                let y = step.labels[row] as usize;
                reference::row(weighted.table(), &wide[3 * row..][..3], y).loss / weight
            })
            .sum::<f64>()
            / 2.0;
        problem::assert_within(got, right, problem::loss_bound(right), &|| {
            format!("{weight}")
        });
    }
}

#[test]
fn a_bound_loss_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ala_loss::cuda::CudaLoss>();
    let device = device();
    let loss = device.bind(&three(Reduction::Sum));
    let x = device.upload(&[0.5f32; 3]);
    let y = device.upload(&[1u8]);
    let losses: Vec<f64> = std::thread::scope(|scope| {
        let run = || {
            let stream = device.context.new_stream().expect("a stream");
            let mut workspace = loss.workspace(&stream, 1).expect("a workspace");
            loss.launch(
                &stream,
                &x,
                &y,
                &Options::new(),
                Outputs::new(),
                &mut workspace,
            )
            .expect("launches");
            workspace.read(&stream).expect("no bad label").loss
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert!(losses.iter().all(|&loss| loss == losses[0] && loss > 0.0));
}
