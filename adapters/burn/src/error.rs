//! What a call can refuse.

use burn::tensor::DType;

/// Why a loss or a head cannot be made, or cannot take the tensors that it is given.
///
/// ```
/// use ala_loss_burn::{AlaLossConfig, Error};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let loss = AlaLossConfig::new([9, 3]).try_init(&device)?;
/// let labels = Tensor::from_ints([0, 7], &device);
/// let refused = loss.try_forward(Tensor::<2>::zeros([2, 2], &device), labels);
/// assert!(matches!(refused, Err(Error::Loss(ala_loss::Error::Label { row: 1, .. }))));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The loss's own error: a parameter, class counts, a label out of range.
    #[error(transparent)]
    Loss(#[from] ala_loss::Error),
    /// A tensor has another shape than the call needs.
    #[error("the {name} have shape {got:?}: expected {expected}")]
    Shape {
        /// Which tensor.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What it must be.
        expected: String,
    },
    /// Logits of an element type that the loss does not compute with.
    #[error("the logits are {0:?}: expected F32, F64 (not on CUDA), F16 or BF16")]
    LogitType(DType),
    /// Labels of an element type that the loss does not read.
    #[error("the labels are {0:?}: expected an integer of 8 to 64 bits (on CUDA not U64)")]
    LabelType(DType),
    /// A label beyond every class, too large for the loss's own error to name.
    #[error("row {row} has label {label}, which is no class")]
    LabelTooLarge {
        /// The row.
        row: usize,
        /// Its label.
        label: u64,
    },
    /// A tensor on a backend that the op is not implemented for.
    #[error("the device is {0}: ala-loss-burn computes on {built}", built = BUILT)]
    Device(String),
    /// burn's CUDA runtime failed, in what it did before the loss too.
    #[error("burn's CUDA runtime: {0}")]
    Runtime(String),
    /// Two tensors of one call on two devices, or in two kinds of autodiff graphs.
    #[error("the logits are on {logits} and the labels on {labels}: move one of them")]
    TwoDevices {
        /// The logits' device.
        logits: String,
        /// The labels' device.
        labels: String,
    },
    /// An option of a step that is on another device than the labels.
    #[error("the {name} are on {found} and the labels on {labels}: move one of them")]
    OptionDevice {
        /// Which option.
        name: &'static str,
        /// Its device.
        found: String,
        /// The labels'.
        labels: String,
    },
    /// An option of a step, of an element type that the loss does not read.
    #[error("the {name} are {found:?}: expected {expected}")]
    OptionType {
        /// Which option.
        name: &'static str,
        /// Its element type.
        found: DType,
        /// Those that are read.
        expected: &'static str,
    },
    /// Features and weight of a cosine head, of which one is f64.
    #[error("the features become {features:?} and the weight {weight:?}: give both in one type")]
    HeadTypes {
        /// The features' type, as it is computed in.
        features: DType,
        /// The weight's.
        weight: DType,
    },
    /// A loss scale that is not finite and positive as an `f32`.
    #[error("the loss scale is {0}: it must be finite and positive as an f32")]
    LossScale(f64),
}

/// The devices that the loss is built for.
const BUILT: &str = if cfg!(feature = "cuda") {
    "flex (Device::flex()) and CUDA (Device::cuda(index))"
} else {
    "flex (Device::flex()); on CUDA with its feature `cuda`"
};
