//! Trains a linear classifier by one step on the CPU and on the GPU, and prints the loss before and
//! after, a line each; where there is no GPU to train on, the error.

use std::error::Error;

use ala_loss::cuda::{self, Options, Outputs};
use ala_loss::{ClassCounts, Loss, Objective};

const SAMPLES: usize = 4;
const FEATURES: usize = 3;
const CLASSES: usize = 3;
const SAMPLE_FEATURES: [[f32; FEATURES]; SAMPLES] = [
    [0.9, 0.1, -0.4],
    [0.2, -0.7, 0.3],
    [-0.5, 0.6, 0.6],
    [0.4, 0.4, 0.8],
];
const LABELS: [i64; SAMPLES] = [0, 1, 2, 2];
const RATE: f32 = 0.5;

type Weights = [[f32; FEATURES]; CLASSES];
/// Loss and gradient of the logits.
type Step<'a> = &'a dyn Fn(&[f32]) -> Result<(f64, Vec<f32>), Box<dyn Error>>;

fn logits(weights: &Weights) -> Vec<f32> {
    let dot = |a: &[f32; FEATURES], b: &[f32; FEATURES]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    let of_sample = |sample: &[f32; FEATURES]| weights.map(|of_class| dot(sample, &of_class));
    SAMPLE_FEATURES.iter().flat_map(of_sample).collect()
}

/// The losses before and after one step of gradient descent.
fn train(step: Step<'_>) -> Result<(f64, f64), Box<dyn Error>> {
    let mut weights = [[0.1, 0.0, 0.1], [0.0, 0.1, 0.0], [-0.1, 0.1, 0.0]];
    let (before, gradient) = step(&logits(&weights))?;
    for (sample, of_logits) in SAMPLE_FEATURES.iter().zip(gradient.chunks(CLASSES)) {
        for (of_class, slope) in weights.iter_mut().zip(of_logits) {
            for (weight, feature) in of_class.iter_mut().zip(sample) {
                *weight -= RATE * slope * feature;
            }
        }
    }
    let (after, _) = step(&logits(&weights))?;
    Ok((before, after))
}

fn train_on_gpu(loss: &Loss) -> Result<(f64, f64), Box<dyn Error>> {
    let context = cuda::context(0)?;
    let bound = loss.bind(&context)?;
    let stream = context.new_stream().map_err(cuda::driver_error)?;
    train(&|logits| {
        let logits = stream.clone_htod(logits)?;
        let labels = stream.clone_htod(&LABELS)?;
        let mut gradient = stream.alloc_zeros::<f32>(SAMPLES * CLASSES)?;
        let mut workspace = bound.workspace(&stream, SAMPLES)?;
        let outputs = Outputs::new().gradient(&mut gradient);
        bound.launch(
            &stream,
            &logits,
            &labels,
            &Options::new(),
            outputs,
            &mut workspace,
        )?;
        let summary = workspace.read(&stream)?;
        let gradient = stream.clone_dtoh(&gradient)?;
        stream.synchronize()?;
        Ok((summary.loss, gradient))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let counts = ClassCounts::new([500, 50, 5])?;
    let loss = Loss::builder(Objective::ala(), &counts)
        .scale(5.0)
        .build()?;
    let (before, after) = train(&|logits| {
        let outcome = loss.evaluate(logits, &LABELS)?;
        Ok((outcome.loss, outcome.gradient))
    })?;
    println!("cpu {before} {after}");
    println!("kernels {:?}", cuda::kernels());
    match train_on_gpu(&loss) {
        Ok((before, after)) => println!("cuda {before} {after}"),
        Err(error) => println!("cuda error: {error}"),
    }
    Ok(())
}
