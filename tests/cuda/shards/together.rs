//! Steps of a loss that is cut over shards, all on one device: what an all-gather moves is written
//! where it would leave it.

use std::ops::Range;

use ala_loss::cuda::{CudaElement, CudaShard, Divisor, Lambda, Options, Outputs, Upstream};
use ala_loss::{CpuElement, Error, Loss, Summary};
use cudarc::driver::{CudaSlice, DeviceRepr};

use crate::device::Device;
use crate::problem::shards::{columns, shards_of};
use crate::problem::widen;

/// A step: everything but the loss and its shards.
#[derive(Clone)]
pub struct Step<T> {
    /// `[N, C]` of all classes.
    pub x: Vec<T>,
    pub labels: Vec<i64>,
    /// Second labels, and the first ones' shares.
    pub mixed: Option<(Vec<i64>, Vec<f32>)>,
    pub row_weights: Option<Vec<f32>>,
    /// One number, or one a row.
    pub upstream: Option<Vec<f32>>,
    pub gradient_scale: f32,
    pub divisor: Divisor<f32>,
    /// Whether hits, predictions and running counts are asked for.
    pub top1: bool,
    pub in_place: bool,
    /// Elements before the first row of a shard, and between its rows.
    pub offset: usize,
    pub gap: usize,
}

impl<T> Step<T> {
    pub fn new(x: Vec<T>, labels: Vec<i64>) -> Self {
        Self {
            x,
            labels,
            mixed: None,
            row_weights: None,
            upstream: None,
            gradient_scale: 1.0,
            divisor: Divisor::Weights,
            top1: false,
            in_place: false,
            offset: 0,
            gap: 0,
        }
    }
}

/// What all shards left behind, put together. Class counts began at 5.
#[derive(Debug, Clone)]
pub struct Got<T> {
    pub summary: Result<Summary, Error>,
    pub row_losses: Vec<f32>,
    /// `[N, C]`
    pub gradient: Vec<T>,
    pub hits: Vec<u8>,
    pub predictions: Vec<u32>,
    pub class_counts: Vec<u64>,
}

/// The shards of a loss, bound.
pub fn bind(device: &Device, loss: &Loss, cut: &[Range<usize>]) -> Vec<CudaShard> {
    let bind = |shard: &ala_loss::LossShard| shard.bind(&device.context).expect("it binds");
    shards_of(loss, cut).iter().map(bind).collect()
}

/// What of a step is on the device, for all shards alike.
pub struct Uploaded {
    pub labels: CudaSlice<i64>,
    mixed: Option<(CudaSlice<i64>, CudaSlice<f32>)>,
    row_weights: Option<CudaSlice<f32>>,
    upstream: Option<CudaSlice<f32>>,
    divisor: CudaSlice<f32>,
}

impl Uploaded {
    pub fn new<T>(device: &Device, step: &Step<T>) -> Self {
        let floats = |values: &Option<Vec<f32>>| values.as_ref().map(|v| device.upload(v));
        let mixed = step.mixed.as_ref();
        let given = match step.divisor {
            Divisor::Given(given) => given,
            Divisor::Weights | Divisor::Rows => f32::NAN,
        };
        Self {
            labels: device.upload(&step.labels),
            mixed: mixed.map(|(b, lambda)| (device.upload(b), device.upload(lambda))),
            row_weights: floats(&step.row_weights),
            upstream: floats(&step.upstream),
            divisor: device.upload(&[given]),
        }
    }

    pub fn options<T>(&self, step: &Step<T>, stride: usize) -> Options<'_> {
        let mut options = Options::new()
            .stride(stride)
            .gradient_scale(step.gradient_scale)
            .divisor(match step.divisor {
                Divisor::Weights => Divisor::Weights,
                Divisor::Rows => Divisor::Rows,
                Divisor::Given(_) => Divisor::Given(&self.divisor),
            });
        if let Some((labels, lambda)) = &self.mixed {
            options = options.mixed_with(labels, Lambda::PerRow(lambda));
        }
        if let Some(weights) = &self.row_weights {
            options = options.row_weights(weights);
        }
        if let Some(upstream) = &self.upstream {
            options = options.upstream(match upstream.len() {
                1 => Upstream::Scalar(upstream),
                _ => Upstream::PerRow(upstream),
            });
        }
        match step.top1 {
            true => options.hits().predictions(),
            false => options,
        }
    }
}

/// A shard's logits at their place, poison around them.
fn laid_out<T: CpuElement>(step: &Step<T>, own: &[T], width: usize) -> Vec<T> {
    let mut buffer = vec![poison::<T>(); step.offset];
    for row in own.chunks(width) {
        buffer.extend_from_slice(row);
        buffer.resize(buffer.len() + step.gap, poison::<T>());
    }
    buffer
}

fn poison<T: CpuElement>() -> T {
    T::from_f64(77.0)
}

fn bits<T: CpuElement>(values: &[T]) -> Vec<u64> {
    widen(values).into_iter().map(f64::to_bits).collect()
}

/// The records of all shards, in their order.
pub fn records<T>(device: &Device, shards: &[CudaShard], step: &Step<T>) -> CudaSlice<f32>
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let uploaded = Uploaded::new(device, step);
    let len = step.labels.len() * shards[0].record_len(&uploaded.options(step, 1));
    let mut gathered = device.upload(&vec![77.0f32; shards.len() * len]);
    for (rank, shard) in shards.iter().enumerate() {
        let shard_of = shard.shard();
        let width = shard_of.classes().len();
        let own = columns(&step.x, shard_of.all_classes(), shard_of.classes());
        let x = device.upload(&laid_out(step, &own, width));
        let mut records = gathered.slice_mut(rank * len..(rank + 1) * len);
        let options = uploaded.options(step, width + step.gap);
        let logits = x.slice(step.offset..x.len() - step.gap);
        shard
            .partial(
                &device.stream,
                &logits,
                &uploaded.labels,
                &options,
                &mut records,
            )
            .expect("a valid step");
    }
    gathered
}

/// The second half of one shard.
pub fn finish<T>(
    device: &Device,
    shard: &CudaShard,
    step: &Step<T>,
    gathered: &CudaSlice<f32>,
) -> Got<T>
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let (rows, all) = (step.labels.len(), shard.shard().all_classes());
    let width = shard.shard().classes().len();
    let own = columns(&step.x, all, shard.shard().classes());
    let laid_out = laid_out(step, &own, width);
    let mut x = device.upload(&laid_out);
    let end = x.len() - step.gap;
    let uploaded = Uploaded::new(device, step);
    let stride = width + step.gap;
    let options = uploaded.options(step, stride);
    let mut gradient = device.upload(&vec![poison::<T>(); laid_out.len()]);
    let mut row_losses = device.upload(&vec![77.0f32; rows]);
    let mut hits = device.upload(&vec![77u8; rows]);
    let mut predictions = device.upload(&vec![77u32; rows]);
    let mut class_counts = device.upload(&vec![5u64; 2 * all]);
    let mut told = device.upload(&[77.0f32]);
    let mut workspace = shard.workspace(&device.stream, rows).expect("a workspace");
    let mut outputs = Outputs::new().row_losses(&mut row_losses).loss(&mut told);
    if step.top1 {
        outputs = outputs
            .hits(&mut hits)
            .predictions(&mut predictions)
            .class_counts(&mut class_counts);
    }
    let (stream, labels) = (&device.stream, &uploaded.labels);
    if step.in_place {
        let mut x = x.slice_mut(step.offset..end);
        shard.finish_in_place(
            stream,
            &mut x,
            labels,
            &options,
            gathered,
            outputs,
            &mut workspace,
        )
    } else {
        let x = x.slice(step.offset..end);
        let mut gradient = gradient.slice_mut(step.offset..end);
        let outputs = outputs.gradient_strided(&mut gradient, stride);
        shard.finish(
            stream,
            &x,
            labels,
            &options,
            gathered,
            outputs,
            &mut workspace,
        )
    }
    .expect("a valid step");
    let summary = workspace.read(stream);
    let told = device.download(&told)[0];
    match &summary {
        Ok(summary) if !summary.loss.is_nan() => assert_eq!(told, summary.loss as f32),
        _ => assert!(told.is_nan(), "{summary:?} {told}"),
    }
    let (x, gradient) = (device.download(&x), device.download(&gradient));
    let (written, other, was) = match step.in_place {
        true => (x, gradient, vec![poison::<T>(); laid_out.len()]),
        false => (gradient, x, laid_out),
    };
    assert_eq!(bits(&other), bits(&was), "what is not to be written");
    let mut gathered = vec![];
    for (i, &g) in written.iter().enumerate() {
        let of_row = i >= step.offset && (i - step.offset) % stride < width;
        match of_row {
            true => gathered.push(g),
            false => assert_eq!(g.to_f64(), 77.0, "written between the rows"),
        }
    }
    Got {
        summary,
        row_losses: device.download(&row_losses),
        gradient: gathered,
        hits: device.download(&hits),
        predictions: device.download(&predictions),
        class_counts: device.download(&class_counts),
    }
}

/// A step of all shards, of which each says the same of the rows, to the bit.
pub fn together<T>(device: &Device, loss: &Loss, cut: &[Range<usize>], step: &Step<T>) -> Got<T>
where
    T: CudaElement + CpuElement + DeviceRepr + Default,
{
    let (rows, classes) = (step.labels.len(), loss.classes());
    let shards = bind(device, loss, cut);
    let gathered = records(device, &shards, step);
    let mut gradient = vec![poison::<T>(); rows * classes];
    let mut all: Option<Got<T>> = None;
    for shard in &shards {
        let here = finish(device, shard, step, &gathered);
        let own = shard.shard().classes();
        for (row, part) in here.gradient.chunks(own.len()).enumerate() {
            gradient[row * classes..][own.clone()].copy_from_slice(part);
        }
        let here = Got {
            gradient: vec![],
            ..here
        };
        if let Some(all) = &all {
            // A NaN is not itself.
            assert_eq!(format!("{all:?}"), format!("{here:?}"), "all say the same");
        }
        all = Some(here);
    }
    let all = all.expect("there is a shard");
    Got { gradient, ..all }
}
