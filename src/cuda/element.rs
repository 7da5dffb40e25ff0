//! Types of logits and labels that the kernels have.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr};
use half::{bf16, f16};

use super::abi;
use super::guards::Guards;
use super::module::ElementType;
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

    #[doc(hidden)]
    fn device_labels(labels: &dyn DevicePtr<Self>) -> DeviceLabels<'_>;
}

/// Labels on the device of any type, of which the type is not seen.
#[doc(hidden)]
#[derive(Clone, Copy)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "each is named after its type")]
#[expect(
    missing_debug_implementations,
    reason = "device slices behind `dyn` have no Debug"
)]
pub enum DeviceLabels<'a> {
    u8(&'a dyn DevicePtr<u8>),
    i32(&'a dyn DevicePtr<i32>),
    u32(&'a dyn DevicePtr<u32>),
    i64(&'a dyn DevicePtr<i64>),
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
    ($($type:ident => $tag:ident),*) => {
        $(
            impl sealed::Sealed for $type {}
            impl CudaLabel for $type {
                const TYPE: u32 = abi::$tag;

                fn device_labels(labels: &dyn DevicePtr<Self>) -> DeviceLabels<'_> {
                    DeviceLabels::$type(labels)
                }
            }
        )*

        impl<'a> DeviceLabels<'a> {
            pub(super) fn len(self) -> usize {
                match self {
                    $(Self::$type(labels) => labels.len(),)*
                }
            }

            pub(super) fn stream(self) -> &'a Arc<CudaStream> {
                match self {
                    $(Self::$type(labels) => labels.stream(),)*
                }
            }

            /// As the kernels know their type.
            pub(super) fn label_type(self) -> u32 {
                match self {
                    $(Self::$type(_) => <$type>::TYPE,)*
                }
            }

            /// Their address, for as long as the guards live.
            pub(super) fn keep(self, guards: &mut Guards<'a>, stream: &'a CudaStream) -> u64 {
                match self {
                    $(Self::$type(labels) => guards.keep(labels.device_ptr(stream)),)*
                }
            }
        }
    };
}
labels!(
    u8 => ALA_LABEL_U8,
    i32 => ALA_LABEL_I32,
    u32 => ALA_LABEL_U32,
    i64 => ALA_LABEL_I64
);
