//! Loss and gradient on the CPU over class counts and element types, beside one pass for each
//! operation and a plain copy: `cargo bench --bench cpu`.

use std::hint::black_box;

use ala_loss::{ClassCounts, CpuElement, Loss, Objective, Options, Outputs};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use half::{bf16, f16};
use rayon::prelude::*;

const CLASSES: [usize; 7] = [10, 100, 365, 1000, 8142, 32_000, 100_000];

/// About 16 MB of `f32` a batch.
const ELEMENTS: usize = 4 << 20;

struct Batch<T> {
    loss: Loss,
    logits: Vec<T>,
    labels: Vec<u32>,
    gradient: Vec<T>,
}

fn batch<T: CpuElement>(classes: usize) -> Batch<T> {
    let rows = ELEMENTS / classes;
    let mut rng = fastrand::Rng::with_seed(1);
    let counts: Vec<u64> = (0..classes as u64).map(|j| 1 + 1000 / (1 + j)).collect();
    let counts = ClassCounts::new(counts).expect("valid");
    let loss = Loss::builder(Objective::ala(), &counts).build();
    let logits: Vec<T> = (0..rows * classes)
        .map(|_| T::from_f64(rng.f64() * 2.0 - 1.0))
        .collect();
    Batch {
        loss: loss.expect("valid"),
        labels: (0..rows).map(|_| rng.u32(..classes as u32)).collect(),
        gradient: logits.clone(),
        logits,
    }
}

impl<T: CpuElement> Batch<T> {
    fn fused(&mut self) {
        let outputs = Outputs::new().gradient(&mut self.gradient);
        let summary = self
            .loss
            .evaluate_into(&self.logits, &self.labels, &Options::new(), outputs);
        black_box(summary.expect("valid"));
    }

    fn copy(&mut self) {
        let part = self.logits.len().div_ceil(rayon::current_num_threads());
        self.gradient
            .par_chunks_mut(part)
            .zip(self.logits.par_chunks(part))
            .for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&self.gradient);
    }
}

/// The same loss as frameworks compute it eagerly: one pass over the whole batch for each
/// operation, each to memory.
fn unfused(batch: &mut Batch<f32>, z: &mut [f32]) {
    let classes = batch.loss.classes();
    let table = batch.loss.table();
    let scale = table.affine(0).slope as f32;
    let each_row = |z: &mut [f32], pass: &(dyn Fn(usize, &mut [f32]) + Sync)| {
        z.par_chunks_mut(classes)
            .enumerate()
            .for_each(|(row, z)| pass(row, z));
    };
    let (x, labels) = (&batch.logits, &batch.labels);
    let target = |row: usize| labels[row] as usize;
    each_row(z, &|row, z| {
        for (z, x) in z.iter_mut().zip(&x[row * classes..]) {
            *z = scale * x;
        }
    });
    each_row(z, &|row, z| {
        let own = table.targets()[target(row)];
        z[target(row)] = own.slope as f32 * x[row * classes + target(row)] + own.bias as f32;
    });
    each_row(z, &|_, z| {
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for z in z {
            *z -= max;
        }
    });
    let losses: Vec<f32> = z
        .par_chunks(classes)
        .enumerate()
        .map(|(row, z)| z.iter().map(|z| z.exp()).sum::<f32>().ln() - z[target(row)])
        .collect();
    black_box(losses.iter().sum::<f32>());
    each_row(z, &|_, z| {
        for z in z {
            *z = z.exp();
        }
    });
    each_row(z, &|_, z| {
        let sum: f32 = z.iter().sum();
        for z in z {
            *z /= sum;
        }
    });
    each_row(z, &|row, z| z[target(row)] -= 1.0);
    let rows = labels.len() as f32;
    batch
        .gradient
        .par_iter_mut()
        .zip(&*z)
        .for_each(|(gradient, z)| *gradient = scale / rows * z);
}

fn cpu(criterion: &mut Criterion) {
    let all = rayon::current_num_threads();
    for threads in [1, all] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().expect("a thread pool");
        let mut group = criterion.benchmark_group(format!("{threads} threads"));
        group.sampling_mode(SamplingMode::Flat).sample_size(15);
        for classes in CLASSES {
            let elements = (ELEMENTS / classes * classes) as u64;
            group.throughput(Throughput::Elements(elements));
            let mut bench = |name: &str, run: &mut (dyn FnMut() + Send)| {
                group.bench_function(BenchmarkId::new(name, classes), |bencher| {
                    pool.install(|| bencher.iter(&mut *run));
                });
            };
            let mut batch_f32 = batch::<f32>(classes);
            bench("fused f32", &mut || batch_f32.fused());
            bench("copy f32", &mut || batch_f32.copy());
            let mut z = batch_f32.logits.clone();
            bench("unfused f32", &mut || unfused(&mut batch_f32, &mut z));
            let mut batch = batch::<f16>(classes);
            bench("fused f16", &mut || batch.fused());
            let mut batch = self::batch::<bf16>(classes);
            bench("fused bf16", &mut || batch.fused());
        }
        group.finish();
        if all == 1 {
            break;
        }
    }
}

criterion_group!(benches, cpu);
criterion_main!(benches);
