//! A cosine classifier trained with tch: on a GPU where PyTorch has one, else on the CPU.
//!
//! docs/trainers.md says how it is built. The CUDA path has been compiled, and not run yet.

use std::error::Error;

use ala_loss::cuda::{self, CudaLoss, RawStep, Workspace};
use ala_loss::{ClassCounts, Loss, Objective, Options, Outputs};
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};

type Failure = Box<dyn Error>;

/// Rows divided by their length.
fn unit(rows: &Tensor) -> Tensor {
    let squares = rows
        .square()
        .sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
    rows / (squares + 1e-12).sqrt()
}

/// What the addresses below are read as.
fn check(tensor: &Tensor, kind: Kind, device: Device) -> Result<(), Failure> {
    if (tensor.kind(), tensor.device()) == (kind, device) && tensor.is_contiguous() {
        return Ok(());
    }
    Err(format!("{tensor:?}: expected contiguous {kind:?} on {device:?}").into())
}

/// Loss and gradient of cosines `[N, C]` and labels `[N]` on the CPU.
fn on_cpu(loss: &Loss, cosines: &Tensor, labels: &Tensor) -> Result<(f64, Tensor), Failure> {
    let cosines = cosines.detach().contiguous();
    check(&cosines, Kind::Float, Device::Cpu)?;
    check(labels, Kind::Int64, Device::Cpu)?;
    let gradient = cosines.empty_like();
    let (elements, rows) = (cosines.numel(), labels.numel());
    // SAFETY: of these types, in this memory, contiguous (checked above), and alive until the end;
    // nobody else has the gradient.
    let (x, y, g) = unsafe {
        (
            std::slice::from_raw_parts(cosines.data_ptr().cast::<f32>(), elements),
            std::slice::from_raw_parts(labels.data_ptr().cast::<i64>(), rows),
            std::slice::from_raw_parts_mut(gradient.data_ptr().cast::<f32>(), elements),
        )
    };
    let summary = loss.evaluate_into(x, y, &Options::new(), Outputs::new().gradient(g))?;
    Ok((summary.loss, gradient))
}

/// The same on a GPU.
struct OnCuda {
    loss: CudaLoss,
    workspace: Workspace,
    device: Device,
}

impl OnCuda {
    fn new(loss: &Loss, ordinal: usize, most_rows: usize) -> Result<Self, Failure> {
        // The device's primary context, which is PyTorch's.
        let loss = loss.bind(&cuda::context(ordinal)?)?;
        let workspace = loss.workspace(&loss.context().default_stream(), most_rows)?;
        let device = Device::Cuda(ordinal);
        Ok(Self {
            loss,
            workspace,
            device,
        })
    }

    /// Loss (on the device) and gradient. Waits for nothing: a bad label of a step is the error of
    /// a later one.
    fn step(&mut self, cosines: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor), Failure> {
        // tch has no streams: its kernels run on the default one, and so must ours.
        let stream = self.loss.context().default_stream();
        self.workspace.poll(&stream)?;
        let cosines = cosines.detach().contiguous();
        check(&cosines, Kind::Float, self.device)?;
        check(labels, Kind::Int64, self.device)?;
        let (rows, classes) = cosines.size2()?;
        if (labels.size1()?, classes as usize) != (rows, self.loss.loss().classes()) {
            return Err(format!("{cosines:?} and {labels:?} do not fit the loss").into());
        }
        let gradient = cosines.empty_like();
        let value = Tensor::empty([], (Kind::Float, self.device));
        let (x, y) = (cosines.data_ptr() as u64, labels.data_ptr() as u64);
        let mut step = RawStep::new(rows as usize, classes as usize, x, y);
        step.gradient = Some(gradient.data_ptr() as u64);
        step.loss = Some(value.data_ptr() as u64);
        // SAFETY: of these types and shapes, on this device, contiguous (checked above). PyTorch
        // gives memory that is free again to later work of this stream alone.
        unsafe {
            self.loss
                .launch_raw::<f32, i64>(stream.cu_stream(), &step, &mut self.workspace)?;
        }
        Ok((value, gradient))
    }
}

fn main() -> Result<(), Failure> {
    let device = Device::cuda_if_available();
    let counts = ClassCounts::new([500, 50, 5])?; // training samples of each class
    let loss = Loss::builder(Objective::ala(), &counts)
        .scale(30.0)
        .build()?;
    let mut on_cuda = match device {
        Device::Cuda(ordinal) => Some(OnCuda::new(&loss, ordinal, 8)?),
        _ => None,
    };

    let variables = nn::VarStore::new(device);
    let root = variables.root();
    let network = nn::linear(&root / "network", 16, 32, Default::default());
    // One row a class, no bias.
    let classes = root.randn_standard("classes", &[3, 32]);
    let mut optimizer = nn::Adam::default().build(&variables, 2e-3)?;

    let samples = Tensor::randn([8, 16], (Kind::Float, device)); // of your data
    let labels = Tensor::from_slice(&[0i64, 0, 1, 0, 2, 0, 1, 0]).to_device(device);
    for step in 0..300 {
        let features = network.forward(&samples).relu();
        let cosines = unit(&features).matmul(&unit(&classes).tr()); // not scaled
        let (value, gradient) = match &mut on_cuda {
            Some(loss) => loss.step(&cosines, &labels)?,
            None => {
                let (value, gradient) = on_cpu(&loss, &cosines, &labels)?;
                (Tensor::from(value), gradient)
            }
        };
        // Its derivative is the gradient: backward begins at the cosines.
        optimizer.backward_step(&(&cosines * gradient).sum(Kind::Float));
        if step % 100 == 99 {
            println!("{step}: {:.4}", value.double_value(&[])); // waits for a GPU
        }
    }
    if let Some(loss) = &mut on_cuda {
        // The last steps' labels.
        let stream = loss.loss.context().default_stream();
        loss.workspace.read(&stream)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula of the paper as PyTorch's autograd differentiates it, in f64, the difficulty
    /// factor detached.
    #[test]
    fn the_gradient_is_autograd_s() -> Result<(), Failure> {
        tch::manual_seed(7);
        let (rows, classes, scale) = (64i64, 10i64, 30.0);
        let counts: Vec<u64> = (0..classes).map(|c| 500 >> c | 1).collect();
        let smallest = *counts.iter().min().expect("there are classes") as f64;
        let quantity: Vec<f64> = counts
            .iter()
            .map(|&n| 1.0 / (n as f64 / smallest + 1.0).log2())
            .collect();
        let features =
            Tensor::randn([rows, 16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight =
            Tensor::randn([classes, 16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let labels = Tensor::randint(classes, [rows], (Kind::Int64, Device::Cpu));

        let cosines = unit(&features).matmul(&unit(&weight).tr());
        let x = cosines.to_kind(Kind::Double);
        let x_y = x.gather(1, &labels.unsqueeze(1), false);
        let difficulty = (1.0 - x_y.detach()) / 2.0;
        let margin: Tensor = difficulty * Tensor::from_slice(&quantity).take(&labels).unsqueeze(1);
        let z = x.scatter_add(1, &labels.unsqueeze(1), &-margin) * scale;
        let expected = z.cross_entropy_for_logits(&labels);
        let of_expected =
            Tensor::run_backward(&[&expected], &[&cosines, &features, &weight], true, false);

        let loss = Loss::builder(Objective::ala(), &ClassCounts::new(counts)?)
            .scale(scale)
            .build()?;
        let (value, gradient) = on_cpu(&loss, &cosines, &labels)?;
        let surrogate = (&cosines * &gradient).sum(Kind::Float);
        let ours =
            Tensor::run_backward(&[&surrogate], &[&cosines, &features, &weight], false, false);

        assert!((value - expected.double_value(&[])).abs() < 2e-6 * value);
        for (ours, autograd) in ours.iter().zip(&of_expected) {
            let largest = autograd.abs().max().double_value(&[]);
            let error = (ours - autograd).abs().max().double_value(&[]);
            assert!(
                largest > 1e-3 && error < 2e-6 * largest,
                "{error} of {largest}"
            );
        }
        Ok(())
    }

    #[test]
    fn other_types_are_errors() -> Result<(), Failure> {
        let loss = Loss::new(Objective::ala(), &ClassCounts::new([9, 3])?)?;
        let cosines = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[1i64]);
        assert!(on_cpu(&loss, &cosines, &labels).is_ok());
        assert!(on_cpu(&loss, &cosines.to_kind(Kind::Double), &labels).is_err());
        assert!(on_cpu(&loss, &cosines, &labels.to_kind(Kind::Int)).is_err());
        assert!(on_cpu(&loss, &cosines, &Tensor::from_slice(&[2i64])).is_err());
        Ok(())
    }
}
