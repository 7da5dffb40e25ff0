//! The bounds that the CPU path is held to, as ratios from one run: `cargo bench --bench bounds`.
//!
//! What is compared is timed in turns, so that other work on the machine falls on both, and medians
//! are divided.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ala_loss::{
    ClassCounts, CpuElement, CpuInstance, Lambda, Loss, LossShard, Objective, Options, Outputs,
};
use half::{bf16, f16};
use rayon::prelude::*;

/// One batch with its buffers, so that no call allocates.
struct Batch<T> {
    name: String,
    loss: Loss,
    smoothed: Loss,
    logits: Vec<T>,
    labels: Vec<u32>,
    second_labels: Vec<u32>,
    gradient: Vec<T>,
}

impl<T: CpuElement> Batch<T> {
    fn new(rows: usize, classes: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(1);
        let counts = (0..classes).map(|j| 1 + 1000 / (1 + j as u64));
        let counts = ClassCounts::new(counts.collect::<Vec<_>>()).expect("valid");
        let builder = Loss::builder(Objective::ala(), &counts);
        let logits: Vec<T> = (0..rows * classes)
            .map(|_| T::from_f64(rng.f64() * 2.0 - 1.0))
            .collect();
        Self {
            name: format!("{rows} x {classes} {}", std::any::type_name::<T>()),
            loss: builder.clone().build().expect("valid"),
            smoothed: builder.label_smoothing(0.1).build().expect("valid"),
            labels: (0..rows).map(|_| rng.u32(..classes as u32)).collect(),
            second_labels: (0..rows).map(|_| rng.u32(..classes as u32)).collect(),
            gradient: logits.clone(),
            logits,
        }
    }

    fn fused(&mut self) {
        let outputs = Outputs::new().gradient(&mut self.gradient);
        let summary = self
            .loss
            .evaluate_into(&self.logits, &self.labels, &Options::new(), outputs);
        black_box(summary.expect("valid"));
    }

    fn mixed(&mut self) {
        let outputs = Outputs::new().gradient(&mut self.gradient);
        let options = Options::new().mixed_with(&self.second_labels, Lambda::Scalar(0.3));
        let summary = self
            .loss
            .evaluate_into(&self.logits, &self.labels, &options, outputs);
        black_box(summary.expect("valid"));
    }

    fn smoothed(&mut self) {
        let outputs = Outputs::new().gradient(&mut self.gradient);
        let summary =
            self.smoothed
                .evaluate_into(&self.logits, &self.labels, &Options::new(), outputs);
        black_box(summary.expect("valid"));
    }

    /// Each thread copies one part, as long as those of the others.
    fn copy(&mut self) {
        let part = self.logits.len().div_ceil(rayon::current_num_threads());
        self.gradient
            .par_chunks_mut(part)
            .zip(self.logits.par_chunks(part))
            .for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&self.gradient);
    }
}

/// The median time of each, over `rounds` in turns.
fn medians<const K: usize>(rounds: usize, mut each: [&mut dyn FnMut(); K]) -> [Duration; K] {
    let mut times = [(); K].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds + 2 {
        for (run, times) in each.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run();
            // The first rounds fault pages in and wake threads.
            if round >= 2 {
                times.push(start.elapsed());
            }
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn rounds(elements: usize) -> usize {
    (400_000_000 / elements).clamp(15, 2001)
}

fn per_element(time: Duration, elements: usize) -> f64 {
    time.as_secs_f64() * 1e12 / elements as f64
}

fn against_copy(rows: usize, classes: usize, bound: f64) {
    let mut fused = Batch::<f32>::new(rows, classes);
    let mut copied = Batch::<f32>::new(rows, classes);
    // The copy of the very logits that the op reads, into the gradient that it writes.
    copied.logits.clone_from(&fused.logits);
    let elements = rows * classes;
    let cell = std::cell::RefCell::new(&mut fused);
    let [op, copy] = medians(
        rounds(elements),
        [&mut || cell.borrow_mut().fused(), &mut || {
            cell.borrow_mut().copy()
        }],
    );
    let ratio = op.as_secs_f64() / copy.as_secs_f64();
    println!(
        "{:<28} {:>9.1} us, copy {:>9.1} us: {ratio:.2} x, bound {bound}",
        cell.borrow().name,
        op.as_secs_f64() * 1e6,
        copy.as_secs_f64() * 1e6
    );
}

fn types(rows: usize, classes: usize) {
    let mut f32s = Batch::<f32>::new(rows, classes);
    let mut f16s = Batch::<f16>::new(rows, classes);
    let mut bf16s = Batch::<bf16>::new(rows, classes);
    let mut f64s = Batch::<f64>::new(rows, classes);
    let elements = rows * classes;
    let times = medians(
        rounds(elements),
        [
            &mut || f32s.fused(),
            &mut || f16s.fused(),
            &mut || bf16s.fused(),
            &mut || f64s.fused(),
        ],
    );
    let [f32s, f16s, bf16s, f64s] = times.map(|time| per_element(time, elements));
    println!(
        "{rows} x {classes}: f32 {f32s:.0} ps/element, f16 {f16s:.0} ({:.2} x), bf16 {bf16s:.0} ({:.2} x), f64 {f64s:.0}",
        f16s / f32s,
        bf16s / f32s
    );
}

/// Two labels a row, and smoothed ones, against one label.
fn recipes<T: CpuElement>(rows: usize, classes: usize) {
    let batch = std::cell::RefCell::new(Batch::<T>::new(rows, classes));
    let [single, mixed, smoothed] = medians(
        rounds(rows * classes),
        [
            &mut || batch.borrow_mut().fused(),
            &mut || batch.borrow_mut().mixed(),
            &mut || batch.borrow_mut().smoothed(),
        ],
    );
    let over = |time: Duration| time.as_secs_f64() / single.as_secs_f64();
    println!(
        "{}: mixed {:.2} x, smoothed {:.2} x, bound 1.15",
        batch.borrow().name,
        over(mixed),
        over(smoothed)
    );
}

/// Both halves of a step over some columns, one shard of four, against a step over as many classes.
fn shard<T: CpuElement>(rows: usize, classes: usize) {
    let mut whole = Batch::<T>::new(rows, classes);
    let mut own = Batch::<T>::new(rows, classes);
    let wide = ClassCounts::new(vec![7; 4 * classes]).expect("valid");
    let wide = Loss::new(Objective::ala(), &wide).expect("valid");
    let shards = [0, 1, 2, 3].map(|i| wide.shard(i * classes..(i + 1) * classes).expect("valid"));
    let len = rows * shards[0].record_len(&Options::<T::Real>::new());
    let mut records = vec![0.0; 4 * len];
    let labels: Vec<u32> = own.labels.iter().map(|label| label * 4).collect();
    let half = |shard: &LossShard, logits: &[T], records: &mut [f64]| {
        let done = shard.partial(logits, &labels, &Options::new(), records);
        done.expect("valid");
        black_box(records.first());
    };
    for (shard, records) in shards.iter().zip(records.chunks_mut(len)) {
        half(shard, &own.logits, records);
    }
    let records = std::cell::RefCell::new(records);
    let [step, partial, finish] = medians(
        rounds(rows * classes),
        [
            &mut || whole.fused(),
            &mut || {
                half(
                    &shards[1],
                    &own.logits,
                    &mut records.borrow_mut()[len..2 * len],
                )
            },
            &mut || {
                let outputs = Outputs::new().gradient(&mut own.gradient);
                let (logits, options) = (&own.logits, Options::new());
                let records = records.borrow();
                let summary = shards[1].finish(logits, &labels, &options, &records, outputs);
                black_box(summary.expect("valid"));
            },
        ],
    );
    let over = |time: Duration| time.as_secs_f64() / step.as_secs_f64();
    println!(
        "{}: a shard's first half {:.2} x, its second {:.2} x, both {:.2} x",
        whole.name,
        over(partial),
        over(finish),
        over(partial + finish)
    );
}

fn odd(rows: usize, odd: usize, even: usize, bound: f64) {
    let mut a = Batch::<f32>::new(rows, odd);
    let mut b = Batch::<f32>::new(rows, even);
    let [a, b] = medians(rounds(rows * odd), [&mut || a.fused(), &mut || b.fused()]);
    let (a, b) = (per_element(a, rows * odd), per_element(b, rows * even));
    println!(
        "C = {odd}: {a:.0} ps/element, C = {even}: {b:.0}: {:.3} x, bound {bound}",
        a / b
    );
}

fn main() {
    // Under `cargo test` it is only to build.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    // For `benches/peers`: the time of one shape, in seconds.
    let arguments: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    if let [rows, classes] = arguments[..] {
        let mut batch = Batch::<f32>::new(rows, classes);
        let [time] = medians(rounds(rows * classes), [&mut || batch.fused()]);
        println!("{}", time.as_secs_f64());
        return;
    }
    if std::env::args().any(|arg| arg == "shards") {
        shard::<f32>(256, 25_000);
        shard::<bf16>(256, 25_000);
        shard::<f32>(128, 100_000);
        shard::<f32>(512, 2000);
        return;
    }
    println!(
        "instance {}, {} threads",
        CpuInstance::active(),
        rayon::current_num_threads()
    );
    for (rows, classes, bound) in [
        (512, 8142, 1.3),
        (128, 100_000, 1.3),
        (256, 1000, 2.0),
        (1024, 365, 2.0),
    ] {
        against_copy(rows, classes, bound);
    }
    for (rows, classes) in [(512, 8142), (128, 100_000), (256, 1000), (1024, 365)] {
        types(rows, classes);
    }
    for (rows, classes) in [(512, 8142), (128, 100_000), (256, 1000), (1024, 365)] {
        recipes::<f32>(rows, classes);
        recipes::<bf16>(rows, classes);
    }
    for (rows, classes) in [(256, 25_000), (128, 100_000), (512, 2000)] {
        shard::<f32>(rows, classes);
        shard::<bf16>(rows, classes);
    }
    odd(512, 8142, 8192, 1.05);
    odd(1024, 365, 384, 1.15);
}
