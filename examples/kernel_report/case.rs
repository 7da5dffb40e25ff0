//! One step of one shape, run in software and counted. The report prints these counts, and the gate
//! in `tests/cuda/counts.rs` includes this file to hold the same counts to their bounds.

use std::collections::BTreeSet;
use std::error::Error;

use ala_loss::cuda::instruments::Instruments;
use ala_loss::cuda::{CudaElement, Lambda, Options, Outputs};
use ala_loss::{ClassCounts, Loss, Objective};
use cudarc::driver::{DevicePtr, DeviceRepr};
use half::{bf16, f16};
use softcuda::client::{Launch, SoftCuda};
use softcuda::counters::Counters;
use softcuda::device::SECTOR;
use softcuda::exec::Reach;

/// Why counting ended early; its message fits on one line.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The type of logits and gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub(crate) const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// As in the kernels' names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// How a step is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the report and the tests each count some of them")]
pub(crate) enum Path {
    Fused,
    /// Fused, with a mean over the rows that are not ignored, which are counted first.
    FusedCounting,
    /// By the baseline of one kernel an operation.
    Unfused,
    /// Fused, with a second label in every row.
    Mixed,
    /// Fused, with smoothed labels.
    Smoothed,
    /// Fused, with the rows' predicted classes.
    Predicted,
}

/// The shape of a step, with contiguous rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) dtype: Dtype,
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// Whether logits and gradient start at 16 bytes, or one element behind that.
    pub(crate) aligned: bool,
}

impl Case {
    /// About `elements` elements, in 2 rows or more: with one, what a step costs once would be
    /// spread over nothing.
    pub(crate) fn of_size(elements: usize, dtype: Dtype, classes: usize, aligned: bool) -> Self {
        let rows = (elements / classes).clamp(2, 4096);
        Self {
            dtype,
            rows,
            classes,
            aligned,
        }
    }

    pub(crate) fn elements(&self) -> u64 {
        self.rows as u64 * self.classes as u64
    }

    /// The fewest sectors that a step can move: logits, labels, the table entries of the classes
    /// among them, gradient and row losses, each byte once and each buffer in whole sectors.
    pub(crate) fn least_sectors(&self, labelled_classes: usize) -> u64 {
        const LABEL: u64 = 8;
        const TABLE_ENTRY: u64 = 16;
        const ROW_LOSS: u64 = 4;
        let rows = self.rows as u64;
        let matrix = self.elements() * self.dtype.bytes();
        [
            matrix,
            matrix,
            rows * LABEL,
            labelled_classes as u64 * TABLE_ENTRY,
            rows * ROW_LOSS,
        ]
        .map(|bytes| bytes.div_ceil(SECTOR))
        .iter()
        .sum()
    }
}

/// What a step of a case cost.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) counters: Counters,
    pub(crate) least_sectors: u64,
    /// The launch that ran last; of a fused step, the tier's.
    pub(crate) launch: Launch,
    /// Its longest chains of dependent operations; none where its blocks ask again and again for
    /// what others write, so often as the order of execution has it.
    pub(crate) waits: Option<Waits>,
}

/// What a launch waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// To where the last store of a gradient begins.
    pub(crate) to_gradient: Reach,
    pub(crate) to_end: Reach,
}

impl Counted {
    /// Sectors that loads and stores ask for: what L2 serves.
    pub(crate) fn requests(&self) -> u64 {
        self.counters.global_load_requests + self.counters.global_store_requests
    }
}

/// Runs one step of `case` on softcuda's device, which the instruments are loaded into.
pub(crate) fn count(
    instruments: &Instruments,
    soft: SoftCuda,
    case: Case,
    path: Path,
) -> Result<Counted, Failure> {
    match case.dtype {
        Dtype::F32 => count_as::<f32>(instruments, soft, case, path),
        Dtype::F16 => count_as::<f16>(instruments, soft, case, path),
        Dtype::Bf16 => count_as::<bf16>(instruments, soft, case, path),
    }
}

fn loss(classes: usize, path: Path) -> Result<Loss, Failure> {
    let counts = (0..classes as u64).map(|class| 5 + 1000 / (class + 1));
    let counts = ClassCounts::new(counts.collect::<Vec<_>>())?;
    let loss = Loss::builder(Objective::ala(), &counts);
    let loss = match path {
        Path::FusedCounting => loss.ignore_label(-100),
        Path::Smoothed => loss.label_smoothing(0.1),
        Path::Fused | Path::Unfused | Path::Mixed | Path::Predicted => loss,
    };
    Ok(loss.build()?)
}

fn count_as<T>(
    instruments: &Instruments,
    soft: SoftCuda,
    case: Case,
    path: Path,
) -> Result<Counted, Failure>
where
    T: CudaElement + DeviceRepr,
{
    let Case { rows, classes, .. } = case;
    let context = instruments.context();
    let loss = loss(classes, path)?.bind(context)?;
    let mut random = fastrand::Rng::with_seed(1);
    // Allocations start at 16 bytes and more.
    let skipped = usize::from(!case.aligned);
    let length = skipped + rows * classes;
    let logits: Vec<T> = (0..length)
        .map(|_| T::from_f64(2.0 * random.f64() - 1.0))
        .collect();
    let labels: Vec<i64> = (0..rows).map(|_| random.usize(..classes) as i64).collect();
    let labelled_classes = labels.iter().collect::<BTreeSet<_>>().len();
    let second: Vec<i64> = (0..rows).map(|_| random.usize(..classes) as i64).collect();

    let stream = context.new_stream()?;
    let logits = stream.clone_htod(&logits)?;
    let labels = stream.clone_htod(&labels)?;
    let second = stream.clone_htod(&second)?;
    let mut predictions = stream.alloc_zeros::<u32>(rows)?;
    let mut gradient = stream.clone_htod(&vec![T::from_f64(0.0); length])?;
    let mut workspace = loss.workspace(&stream, rows)?;
    let mut scratch = match path {
        Path::Unfused => Some(stream.alloc_zeros::<f32>(rows * classes + 2 * rows)?),
        _ => None,
    };
    stream.synchronize()?;

    let gradient_at = gradient.device_ptr(&stream).0;
    soft.take_counters();
    soft.set_chains(true);
    {
        let logits = logits.slice(skipped..);
        let mut gradient = gradient.slice_mut(skipped..);
        let (mut options, mut outputs) = (Options::new(), Outputs::new().gradient(&mut gradient));
        if path == Path::Mixed {
            options = options.mixed_with(&second, Lambda::Scalar(0.7));
        }
        if path == Path::Predicted {
            outputs = outputs.predictions(&mut predictions);
        }
        let workspace = &mut workspace;
        match &mut scratch {
            Some(scratch) => instruments.unfused(
                &loss, &stream, &logits, &labels, &options, outputs, workspace, scratch,
            )?,
            None => loss.launch(&stream, &logits, &labels, &options, outputs, workspace)?,
        }
    }
    workspace.read(&stream)?;
    let counters = soft.take_counters();
    let launch = soft
        .last_launch()
        .ok_or("softcuda ran no kernel: is another driver loaded?")?;
    let chain = soft
        .last_chain()
        .ok_or("softcuda was not asked for chains")?;
    soft.set_chains(false);
    Ok(Counted {
        counters,
        least_sectors: case.least_sectors(labelled_classes),
        launch,
        waits: (!chain.spins).then(|| Waits {
            to_gradient: chain.stores.get(&gradient_at).copied().unwrap_or_default(),
            to_end: chain.end,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_each_byte_once_in_whole_sectors() {
        let case = Case {
            dtype: Dtype::F32,
            rows: 3,
            classes: 5,
            aligned: true,
        };
        // 60 bytes of logits, 60 of gradient, 24 of labels, 2 entries of 16 and 12 of losses.
        assert_eq!(case.least_sectors(2), 2 + 2 + 1 + 1 + 1);
        // 30 bytes each now; a third entry starts another sector.
        let case = Case {
            dtype: Dtype::Bf16,
            ..case
        };
        assert_eq!(case.least_sectors(3), 1 + 1 + 1 + 2 + 1);
    }

    #[test]
    fn cases_have_about_the_asked_size() {
        let rows = |classes| Case::of_size(400_000, Dtype::F16, classes, false).rows;
        assert_eq!([10, 1000, 262_144].map(rows), [4096, 400, 2]);
    }
}
