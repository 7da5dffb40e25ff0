//! What a launch takes beside logits and labels.

use cudarc::driver::{DevicePtr, DevicePtrMut};

use super::element::{CudaElement, CudaLabel, DeviceLabels};
use crate::call::{Divisor, Lambda, Upstream};

/// Settings of one launch; the defaults are contiguous rows and an upstream gradient of 1.
///
/// The same as [`crate::Options`], but that what is a number or a list for the batch lies on the
/// device, and that hits are asked for by a buffer, [`Outputs::hits`].
#[derive(Clone, Copy)]
#[must_use]
#[expect(
    missing_debug_implementations,
    reason = "device slices behind `dyn` have no Debug"
)]
pub struct Options<'a> {
    pub(super) stride: Option<usize>,
    pub(super) upstream: Upstream<&'a dyn DevicePtr<f32>>,
    pub(super) gradient_scale: f32,
    pub(super) skip_if_upstream: Option<f32>,
    pub(super) overlap: bool,
    pub(super) divisor: Divisor<&'a dyn DevicePtr<f32>>,
    pub(super) row_weights: Option<&'a dyn DevicePtr<f32>>,
    pub(super) mixed: Option<Mixed<'a>>,
    pub(super) hits: bool,
    pub(super) predictions: bool,
}

/// The second labels, and how much is the first ones'.
#[derive(Clone, Copy)]
pub(super) struct Mixed<'a> {
    pub(super) labels: DeviceLabels<'a>,
    pub(super) lambda: Lambda<f32, &'a dyn DevicePtr<f32>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            stride: None,
            upstream: Upstream::One,
            gradient_scale: 1.0,
            skip_if_upstream: None,
            overlap: false,
            divisor: Divisor::Weights,
            row_weights: None,
            mixed: None,
            hits: false,
            predictions: false,
        }
    }
}

impl<'a> Options<'a> {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Elements from the start of one row of logits to the next, at least `C`; `C` where not set.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = Some(stride);
        self
    }

    /// The upstream gradient in device memory: one number, or one for each row (`[N]`, only with
    /// [`Reduction::None`](crate::Reduction::None)).
    pub fn upstream(mut self, upstream: Upstream<&'a dyn DevicePtr<f32>>) -> Self {
        self.upstream = upstream;
        self
    }

    /// The loss scale of mixed-precision training: multiplies the gradient before it is rounded. It
    /// is a launch parameter; a captured graph that must vary it takes it as
    /// [`upstream`](Self::upstream).
    pub fn gradient_scale(mut self, scale: f32) -> Self {
        self.gradient_scale = scale;
        self
    }

    /// Does nothing at all where the upstream gradient is this number, which the device decides:
    /// for a backward pass whose gradient an earlier launch made already, with this number as its
    /// [`gradient_scale`](Self::gradient_scale). Only with [`Upstream::Scalar`]. A number that is
    /// not one skips nothing.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use ala_loss::cuda::{CudaLoss, Options, Outputs, Upstream, Workspace};
    /// # use cudarc::driver::{CudaSlice, CudaStream};
    /// # fn backward(
    /// #     loss: &CudaLoss,
    /// #     stream: &Arc<CudaStream>,
    /// #     logits: &CudaSlice<f32>,
    /// #     labels: &CudaSlice<i64>,
    /// #     upstream: &CudaSlice<f32>,
    /// #     gradient: &mut CudaSlice<f32>,
    /// #     workspace: &mut Workspace,
    /// # ) -> Result<(), ala_loss::Error> {
    /// // The forward pass wrote `gradient` for an upstream gradient of 1.
    /// let options = Options::new().upstream(Upstream::Scalar(upstream)).skip_if_upstream(1.0);
    /// let outputs = Outputs::new().gradient(gradient);
    /// loss.launch(stream, logits, labels, &options, outputs, workspace)
    /// # }
    /// ```
    pub fn skip_if_upstream(mut self, known: f32) -> Self {
        self.skip_if_upstream = Some(known);
        self
    }

    /// Whether the step's kernels may begin while the kernel before them in the stream ends;
    /// `false` where not set. Results are the same: nothing is read or written before that kernel
    /// has ended and what it wrote is there. What is saved is the start of a launch, and all the
    /// more where the kernel before says that its dependents may begin
    /// (`griddepcontrol.launch_dependents`).
    ///
    /// A launch attribute (programmatic stream serialization), which a captured graph keeps. From
    /// compute capability 9.0 and CUDA 11.8 on, and not where blocks share a row; elsewhere the
    /// launch is as without it.
    pub fn overlap(mut self, overlap: bool) -> Self {
        self.overlap = overlap;
        self
    }

    /// What a mean divides by; the rows' weights where not set. Only with
    /// [`Reduction::Mean`](crate::Reduction::Mean). A given one is one number in device memory, so
    /// that counts which were added up over devices need no host: finite and above 0, or 0 too
    /// where no row counts. The device does not check it.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use ala_loss::Divisor;
    /// # use ala_loss::cuda::{CudaLoss, Options, Outputs, Workspace};
    /// # use cudarc::driver::{CudaSlice, CudaStream};
    /// # fn parts(
    /// #     loss: &CudaLoss,
    /// #     stream: &Arc<CudaStream>,
    /// #     parts: &[(CudaSlice<f32>, CudaSlice<i64>)],
    /// #     all_labels: &CudaSlice<i64>,
    /// #     gradients: &mut [CudaSlice<f32>],
    /// #     workspace: &mut Workspace,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// // A batch in parts, each divided by what the whole is divided by.
    /// let mut all = stream.alloc_zeros::<f32>(1)?;
    /// loss.divisor(stream, all_labels, &Options::new(), &mut all, workspace)?;
    /// let options = Options::new().divisor(Divisor::Given(&all));
    /// for ((logits, labels), gradient) in parts.iter().zip(gradients) {
    ///     let outputs = Outputs::new().gradient(gradient);
    ///     loss.launch(stream, logits, labels, &options, outputs, workspace)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn divisor(mut self, divisor: Divisor<&'a dyn DevicePtr<f32>>) -> Self {
        self.divisor = divisor;
        self
    }

    /// A weight for each row, `[N]`: it multiplies the row's loss and gradient, and counts in
    /// [`Divisor::Weights`](crate::Divisor::Weights) as a class's weight does. 0, or from `1e-20`
    /// to `1e20`, and the same times its class's weight.
    pub fn row_weights(mut self, weights: &'a impl DevicePtr<f32>) -> Self {
        self.row_weights = Some(weights);
        self
    }

    /// A second label for each row, `[N]`, as [`crate::Options::mixed_with`] has it. A captured
    /// graph that must vary the lambda takes it for each row.
    pub fn mixed_with<L: CudaLabel>(
        mut self,
        labels: &'a impl DevicePtr<L>,
        lambda: Lambda<f32, &'a dyn DevicePtr<f32>>,
    ) -> Self {
        self.mixed = Some(Mixed {
            labels: L::device_labels(labels),
            lambda,
        });
        self
    }

    /// Asks both halves of a shard's step for hits, [`Outputs::hits`]; see [`CudaShard`]. Elsewhere
    /// the buffer alone says so.
    ///
    /// [`CudaShard`]: super::CudaShard
    pub fn hits(mut self) -> Self {
        self.hits = true;
        self
    }

    /// The same for predictions, [`Outputs::predictions`].
    pub fn predictions(mut self) -> Self {
        self.predictions = true;
        self
    }
}

/// What a launch writes; each buffer left out is not computed.
#[must_use]
#[expect(
    missing_debug_implementations,
    reason = "device slices behind `dyn` have no Debug"
)]
pub struct Outputs<'a, T> {
    pub(super) gradient: Option<&'a mut dyn DevicePtrMut<T>>,
    pub(super) gradient_stride: Option<usize>,
    pub(super) row_losses: Option<&'a mut dyn DevicePtrMut<f32>>,
    pub(super) hits: Option<&'a mut dyn DevicePtrMut<u8>>,
    pub(super) loss: Option<&'a mut dyn DevicePtrMut<f32>>,
    pub(super) predictions: Option<&'a mut dyn DevicePtrMut<u32>>,
    pub(super) class_counts: Option<&'a mut dyn DevicePtrMut<u64>>,
}

impl<T> Default for Outputs<'_, T> {
    fn default() -> Self {
        Self {
            gradient: None,
            gradient_stride: None,
            row_losses: None,
            hits: None,
            loss: None,
            predictions: None,
            class_counts: None,
        }
    }
}

impl<'a, T: CudaElement> Outputs<'a, T> {
    /// No buffers: only the loss is computed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A contiguous gradient, `[N, C]`.
    pub fn gradient(mut self, buffer: &'a mut impl DevicePtrMut<T>) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = None;
        self
    }

    /// A gradient with `stride >= C` elements between the starts of rows; what lies between rows is
    /// not written.
    pub fn gradient_strided(mut self, buffer: &'a mut impl DevicePtrMut<T>, stride: usize) -> Self {
        self.gradient = Some(buffer);
        self.gradient_stride = Some(stride);
        self
    }

    /// Each row's weighted loss before reduction, `[N]`.
    pub fn row_losses(mut self, buffer: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.row_losses = Some(buffer);
        self
    }

    /// 1 where a row's largest logit is its target's, else 0, `[N]`; see
    /// [`Outcome::hits`](crate::Outcome::hits).
    pub fn hits(mut self, buffer: &'a mut impl DevicePtrMut<u8>) -> Self {
        self.hits = Some(buffer);
        self
    }

    /// The loss itself, one number: [`Summary::loss`](crate::Summary::loss) rounded to `f32`, on
    /// the device, so that no host has to wait for it. NaN where a label is out of range.
    pub fn loss(mut self, buffer: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.loss = Some(buffer);
        self
    }

    /// The lowest class of each row's largest logit, `[N]`; `u32::MAX`, which is no class, where a
    /// logit is NaN or the row does not count. A hit is a prediction that is the row's label.
    pub fn predictions(mut self, buffer: &'a mut impl DevicePtrMut<u32>) -> Self {
        self.predictions = Some(buffer);
        self
    }

    /// Running counts, `[2, C]`: the step **adds** to them, of the rows that count and whose first
    /// label is a class, by that class: the rows, then the hits. Whole numbers, so that the order
    /// does not matter. Read when wanted, for
    /// [`Tally::add_counts`](crate::metrics::Tally::add_counts).
    pub fn class_counts(mut self, buffer: &'a mut impl DevicePtrMut<u64>) -> Self {
        self.class_counts = Some(buffer);
        self
    }
}
