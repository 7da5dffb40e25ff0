//! Types of logits and labels that the kernels have.

use half::{bf16, f16};

use super::abi;
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
