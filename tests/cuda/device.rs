//! A device to test on, and one step on it with poisoned outputs.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use ala_loss::cuda::instruments::Instruments;
use ala_loss::cuda::{self, CudaElement, CudaLabel, CudaLoss, Options, Outputs, Upstream};
use ala_loss::{Error, Loss, Summary};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, DeviceRepr};
use softcuda::client::SoftCuda;

/// One test at a time: the driver in software has one set of counters, and a GPU has one memory.
static TURN: Mutex<()> = Mutex::new(());

pub struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    /// The driver in software, where it stands in for a GPU.
    pub soft: Option<SoftCuda>,
    /// The kernels beside the loss's own.
    pub instruments: &'static Instruments,
    /// Whether losses are bound for the packed tier, where it takes their classes: the crate
    /// chooses it for batches larger than most of these tests have. Its rows must be contiguous.
    pub packed: Cell<bool>,
    _turn: MutexGuard<'static, ()>,
}

/// The GPU, or the driver in software.
pub fn device() -> Device {
    static SOFT: OnceLock<Option<SoftCuda>> = OnceLock::new();
    static CONTEXT: OnceLock<Arc<CudaContext>> = OnceLock::new();
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let soft = *SOFT.get_or_init(|| {
        let required = std::env::var_os("ALA_REQUIRE_GPU").is_some_and(|value| value != "0");
        let gpu = cuda::context(0);
        if gpu.is_ok() {
            return None;
        }
        assert!(
            !required,
            "ALA_REQUIRE_GPU is set, and there is no GPU: {gpu:?}"
        );
        let path = SoftCuda::locate().expect("softcuda is built beside the tests");
        Some(SoftCuda::load(&path).expect("softcuda loads"))
    });
    let context = CONTEXT.get_or_init(|| cuda::context(0).expect("a GPU, or softcuda"));
    context.bind_to_thread().expect("the context is alive");
    let instruments = INSTRUMENTS.get_or_init(|| Instruments::load(context).expect("they load"));
    let stream = context.new_stream().expect("a stream");
    Device {
        context: Arc::clone(context),
        stream,
        soft,
        instruments,
        packed: Cell::new(false),
        _turn: turn,
    }
}

/// A step to run: everything but the loss.
#[derive(Clone)]
pub struct Step<T, L> {
    /// `[N, C]` at `stride`, without what lies before the first row.
    pub logits: Vec<T>,
    pub labels: Vec<L>,
    pub stride: usize,
    /// Elements before the first row, so that rows start off alignment.
    pub offset: usize,
    pub gradient_stride: usize,
    pub gradient_offset: usize,
    pub mode: Mode,
    pub upstream: Option<Vec<f32>>,
    pub per_row: bool,
    pub gradient_scale: f32,
    pub overlap: bool,
    /// Whether hits are asked for.
    pub hits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Fused,
    InPlace,
    Unfused,
    LossOnly,
}

impl<T: CudaElement, L: CudaLabel> Step<T, L> {
    pub fn contiguous(logits: Vec<T>, labels: Vec<L>, classes: usize) -> Self {
        Self {
            logits,
            labels,
            stride: classes,
            offset: 0,
            gradient_stride: classes,
            gradient_offset: 0,
            mode: Mode::Fused,
            upstream: None,
            per_row: false,
            gradient_scale: 1.0,
            overlap: false,
            hits: true,
        }
    }
}

impl<T: CudaElement, L: CudaLabel> Step<T, L> {
    fn options<'a>(&self, upstream: Option<&'a CudaView<'a, f32>>) -> Options<'a> {
        let upstream = match upstream {
            Some(upstream) if self.per_row => Upstream::PerRow(upstream as _),
            Some(upstream) => Upstream::Scalar(upstream as _),
            None => Upstream::One,
        };
        Options::new()
            .stride(self.stride)
            .gradient_scale(self.gradient_scale)
            .overlap(self.overlap)
            .upstream(upstream)
    }
}

/// What a step left behind.
pub struct Got<T> {
    pub summary: Result<Summary, Error>,
    pub row_losses: Vec<f32>,
    /// `[N, C]`, gathered from the strided buffer; empty for [`Mode::LossOnly`].
    pub gradient: Vec<T>,
    /// Empty where they are not asked for.
    pub hits: Vec<bool>,
}

const POISON: f64 = 77.0;
/// Elements behind each output that must stay as they are.
const BEYOND: usize = 19;

impl Device {
    pub fn upload<V: DeviceRepr>(&self, values: &[V]) -> CudaSlice<V> {
        // An empty allocation has no address to take a view of.
        assert!(!values.is_empty());
        self.stream
            .clone_htod(values)
            .expect("a copy to the device")
    }

    pub fn download<V: DeviceRepr + Clone + Default>(&self, slice: &CudaSlice<V>) -> Vec<V> {
        let values = self.stream.clone_dtoh(slice).expect("a copy to the host");
        self.stream.synchronize().expect("the stream ends");
        values
    }

    pub fn bind(&self, loss: &Loss) -> CudaLoss {
        let mut bound = loss.bind(&self.context).expect("the loss binds");
        if self.packed.get() {
            let shapes = bound.launch_shapes::<f32>(1).expect("kernels load");
            let packed = shapes.into_iter().find(|shape| shape.tier == "packed");
            bound.set_launch_shape(packed);
        }
        bound
    }

    /// Runs a step with every output poisoned and checks that nothing but the rows was written.
    pub fn run<T, L>(&self, loss: &CudaLoss, step: &Step<T, L>) -> Got<T>
    where
        T: CudaElement + DeviceRepr + Default,
        L: CudaLabel + DeviceRepr + Default,
    {
        let (rows, classes) = (step.labels.len(), loss.loss().classes());
        let poison = T::from_f64(POISON);
        let extent = |stride: usize| {
            if rows == 0 {
                0
            } else {
                (rows - 1) * stride + classes
            }
        };

        let mut buffer = vec![poison; step.offset];
        buffer.extend_from_slice(&step.logits);
        buffer.resize(step.offset + extent(step.stride) + BEYOND, poison);
        let mut logits = self.upload(&buffer);
        let span = step.offset..step.offset + extent(step.stride);

        let mut labels = step.labels.clone();
        labels.push(L::default());
        let labels = self.upload(&labels);
        let labels = labels.slice(..rows);

        let gradient_span =
            step.gradient_offset..step.gradient_offset + extent(step.gradient_stride);
        let mut gradient = self.upload(&vec![poison; gradient_span.end + BEYOND]);
        let mut losses = self.upload(&vec![POISON as f32; rows + BEYOND]);
        let mut hits = self.upload(&vec![77u8; rows + BEYOND]);
        let mut reduced = self.upload(&[POISON as f32; 1 + BEYOND]);
        let upstream = step.upstream.as_ref().map(|values| self.upload(values));
        let mut workspace = loss.workspace(&self.stream, rows).expect("a workspace");

        let upstream = upstream.as_ref().map(|values| values.slice(..));
        let launched = {
            let mut losses = losses.slice_mut(..rows);
            let mut hits = hits.slice_mut(..rows);
            let mut gradient = gradient.slice_mut(gradient_span.clone());
            let mut reduced = reduced.slice_mut(..1);
            let mut outputs = Outputs::new().row_losses(&mut losses).loss(&mut reduced);
            if step.hits {
                outputs = outputs.hits(&mut hits);
            }
            if matches!(step.mode, Mode::Fused | Mode::Unfused) {
                outputs = outputs.gradient_strided(&mut gradient, step.gradient_stride);
            }
            if step.mode == Mode::InPlace {
                let mut over = logits.slice_mut(span);
                let options = step.options(upstream.as_ref());
                loss.launch_in_place(
                    &self.stream,
                    &mut over,
                    &labels,
                    &options,
                    outputs,
                    &mut workspace,
                )
            } else {
                let (logits, options) = (logits.slice(span), step.options(upstream.as_ref()));
                let (stream, workspace) = (&self.stream, &mut workspace);
                if step.mode == Mode::Unfused {
                    let scratch = vec![POISON as f32; rows * classes + 2 * rows + 1];
                    let mut scratch = self.upload(&scratch);
                    self.instruments.unfused(
                        loss,
                        stream,
                        &logits,
                        &labels,
                        &options,
                        outputs,
                        workspace,
                        &mut scratch,
                    )
                } else {
                    loss.launch(stream, &logits, &labels, &options, outputs, workspace)
                }
            }
        };
        let summary = launched.and_then(|()| workspace.read(&self.stream));

        let reduced = self.download(&reduced);
        assert_eq!(
            reduced[1..],
            [POISON as f32; BEYOND],
            "more than one loss written"
        );
        match &summary {
            Ok(Summary { loss, .. }) if !loss.is_nan() => assert_eq!(reduced[0], *loss as f32),
            Ok(_) | Err(Error::Label { .. }) => assert!(reduced[0].is_nan(), "{reduced:?}"),
            Err(_) => assert_eq!(
                reduced[0], POISON as f32,
                "written by a step that is refused"
            ),
        }

        let row_losses = self.download(&losses);
        let hits = self.download(&hits);
        assert_eq!(
            row_losses[rows..],
            [POISON as f32; BEYOND],
            "row losses written beyond their end"
        );
        let asked = if step.hits { rows } else { 0 };
        assert!(
            hits[asked..].iter().all(|&hit| hit == 77),
            "hits written that were not asked for"
        );
        let logits_after = self.download(&logits);
        let gradient_after = self.download(&gradient);
        let (written, row_stride, origin, mut untouched) = match step.mode {
            Mode::InPlace => {
                assert!(gradient_after.iter().all(|&g| g == poison));
                (logits_after, step.stride, step.offset, buffer)
            }
            _ => {
                let before = vec![poison; gradient_after.len()];
                assert!(same(&logits_after, &buffer), "the logits were written");
                (
                    gradient_after,
                    step.gradient_stride,
                    step.gradient_offset,
                    before,
                )
            }
        };
        let mut gathered = Vec::new();
        if step.mode != Mode::LossOnly {
            for row in 0..rows {
                let span = origin + row * row_stride..origin + row * row_stride + classes;
                gathered.extend_from_slice(&written[span.clone()]);
                untouched[span.clone()].copy_from_slice(&written[span]);
            }
        }
        assert!(same(&written, &untouched), "written outside the rows");
        Got {
            summary,
            row_losses: row_losses[..rows].to_vec(),
            gradient: gathered,
            hits: hits_of(&hits[..asked]),
        }
    }
}

fn same<T: CudaElement>(a: &[T], b: &[T]) -> bool {
    // By value, since inputs may hold NaN.
    let bits = |v: &[T]| v.iter().map(|v| v.to_f64().to_bits()).collect::<Vec<_>>();
    bits(a) == bits(b)
}

fn hits_of(bytes: &[u8]) -> Vec<bool> {
    bytes
        .iter()
        .map(|&byte| {
            assert!(byte <= 1, "a hit is 0 or 1, not {byte}");
            byte == 1
        })
        .collect()
}
