use cudarc::driver::{DevicePtr, DevicePtrMut};
use half::{bf16, f16};

use super::abi;
use super::kernels::ElementType;
use crate::element::{Element, Label};

mod sealed {
    pub trait Sealed {}
}

/// A logit type that the kernels have: `f32`, [`half::f16`] or [`half::bf16`].
pub trait CudaElement: Element + sealed::Sealed {
    #[doc(hidden)]
    const TYPE: ElementTag;
}

/// A label type that the kernels have: `u8`, `i32`, `u32` or `i64`.
pub trait CudaLabel: Label + sealed::Sealed {
    #[doc(hidden)]
    const TYPE: u32;
}

/// Which kernel instance an element type needs.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct ElementTag(pub(super) ElementType);

macro_rules! elements {
    ($($type:ty => $tag:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl CudaElement for $type {
            const TYPE: ElementTag = ElementTag(ElementType::$tag);
        }
    )*};
}
elements!(f32 => F32, f16 => F16, bf16 => Bf16);

macro_rules! labels {
    ($($type:ty => $tag:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl CudaLabel for $type {
            const TYPE: u32 = abi::$tag;
        }
    )*};
}
labels!(
    u8 => ALA_LABEL_U8,
    i32 => ALA_LABEL_I32,
    u32 => ALA_LABEL_U32,
    i64 => ALA_LABEL_I64
);

/// What a launch reads: slices or views of device memory.
#[must_use]
#[expect(
    missing_debug_implementations,
    reason = "device slices behind `dyn` have no Debug"
)]
pub struct Inputs<'a, T, L> {
    pub(super) logits: Option<&'a dyn DevicePtr<T>>,
    pub(super) labels: &'a dyn DevicePtr<L>,
    pub(super) stride: Option<usize>,
    pub(super) upstream: Option<Upstream<'a>>,
    pub(super) gradient_scale: f32,
}

pub(super) enum Upstream<'a> {
    Scalar(&'a dyn DevicePtr<f32>),
    PerRow(&'a dyn DevicePtr<f32>),
}

impl<'a, T: CudaElement, L: CudaLabel> Inputs<'a, T, L> {
    /// Contiguous logits `[N, C]` and labels `[N]`; `N` is the number of labels.
    ///
    /// **The margin losses take cosines that are not yet scaled**, as everywhere in this crate.
    pub fn new(logits: &'a impl DevicePtr<T>, labels: &'a impl DevicePtr<L>) -> Self {
        Self {
            logits: Some(logits),
            ..Self::in_place(labels)
        }
    }

    /// Labels alone, for [`CudaLoss::launch_in_place`](super::CudaLoss::launch_in_place).
    pub fn in_place(labels: &'a impl DevicePtr<L>) -> Self {
        Self {
            logits: None,
            labels,
            stride: None,
            upstream: None,
            gradient_scale: 1.0,
        }
    }

    /// Elements from the start of one row of logits to the next, at least `C`; `C` where not set.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = Some(stride);
        self
    }

    /// The upstream gradient, one number in device memory; 1 where not set.
    pub fn upstream(mut self, upstream: &'a impl DevicePtr<f32>) -> Self {
        self.upstream = Some(Upstream::Scalar(upstream));
        self
    }

    /// An upstream gradient for each row, `[N]`; only with [`Reduction::None`](crate::Reduction::None).
    pub fn upstream_per_row(mut self, upstream: &'a impl DevicePtr<f32>) -> Self {
        self.upstream = Some(Upstream::PerRow(upstream));
        self
    }

    /// The loss scale of mixed-precision training: multiplies the gradient before it is rounded. It is a launch
    /// parameter; a captured graph that must vary it takes it as [`upstream`](Self::upstream).
    pub fn gradient_scale(mut self, scale: f32) -> Self {
        self.gradient_scale = scale;
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
}

impl<T> Default for Outputs<'_, T> {
    fn default() -> Self {
        Self {
            gradient: None,
            gradient_stride: None,
            row_losses: None,
            hits: None,
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

    /// A gradient with `stride >= C` elements between the starts of rows; what lies between rows is not written.
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

    /// 1 where a row's largest logit is its target's, else 0, `[N]`; see [`Outcome::hits`](crate::Outcome::hits).
    pub fn hits(mut self, buffer: &'a mut impl DevicePtrMut<u8>) -> Self {
        self.hits = Some(buffer);
        self
    }
}
