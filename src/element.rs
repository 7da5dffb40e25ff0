//! Types of logits, row losses and labels.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// The floating-point type of row losses: `f32`, or `f64` where the logits are `f64`.
///
/// ```
/// use ala_loss::Real;
/// fn worst<R: Real>(row_losses: &[R]) -> f64 {
///     row_losses.iter().map(|row| row.to_f64()).fold(0.0, f64::max)
/// }
/// assert_eq!(worst(&[0.5f32, 2.0]), 2.0);
/// assert_eq!(f32::from_f64(1.0 + 2f64.powi(-24)), 1.0); // a tie
/// ```
pub trait Real:
    sealed::Sealed + Copy + Send + Sync + std::fmt::Debug + PartialEq + 'static
{
    /// Widens without loss.
    fn to_f64(self) -> f64;
    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
}

/// A logit: `f32`, `f64`, [`half::f16`] or [`half::bf16`]. The gradient has the logits' type.
///
/// A path takes those that it has: see [`CpuElement`](crate::CpuElement), and `cuda::CudaElement`.
///
/// ```
/// use ala_loss::Element;
/// fn rounded<T: Element>(logits: &[f64]) -> Vec<f64> {
///     logits.iter().map(|&x| T::from_f64(x).to_f64()).collect()
/// }
/// assert_eq!(rounded::<half::bf16>(&[1.0, 1.0 + 2f64.powi(-8)]), [1.0, 1.0]); // a tie
/// ```
pub trait Element:
    sealed::Sealed + Copy + Send + Sync + std::fmt::Debug + PartialEq + 'static
{
    /// The type of a row's loss and of its upstream gradient.
    type Real: Real;
    /// Zero, the gradient of ignored rows.
    const ZERO: Self;
    /// Widens without loss.
    fn to_f64(self) -> f64;
    /// Rounds a gradient. The 16-bit types round the `f32` gradient, as the GPU does.
    fn from_f64(value: f64) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl sealed::Sealed for $type {}
        impl Real for $type {
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn from_f64(value: f64) -> Self {
                value as $type
            }
        }
        impl Element for $type {
            type Real = $type;
            const ZERO: Self = 0.0;
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn from_f64(value: f64) -> Self {
                value as $type
            }
        }
    };
}
real!(f32);
real!(f64);

macro_rules! half_element {
    ($type:ty) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            type Real = f32;
            const ZERO: Self = <$type>::ZERO;
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn from_f64(value: f64) -> Self {
                <$type>::from_f32(value as f32)
            }
        }
    };
}
half_element!(f16);
half_element!(bf16);

/// A class index: any of Rust's integers up to 64 bits.
///
/// ```
/// use ala_loss::Label;
/// assert_eq!(2u8.class(3), Some(2));
/// assert_eq!((-1i64).class(3), None);
/// assert_eq!(u64::MAX.value(), 18_446_744_073_709_551_615);
/// ```
pub trait Label: sealed::Sealed + Copy + Send + Sync + std::fmt::Debug + 'static {
    /// The label as a number that every label type fits into.
    fn value(self) -> i128;

    /// The label as a class of `classes`, or `None` outside `0..classes`.
    #[inline]
    fn class(self, classes: usize) -> Option<usize> {
        usize::try_from(self.value())
            .ok()
            .filter(|&class| class < classes)
    }

    #[doc(hidden)]
    fn slice(labels: &[Self]) -> LabelSlice<'_>;
}

/// Labels of any type, of which the type is not seen.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "each is named after its type")]
pub enum LabelSlice<'a> {
    u8(&'a [u8]),
    u16(&'a [u16]),
    u32(&'a [u32]),
    u64(&'a [u64]),
    usize(&'a [usize]),
    i8(&'a [i8]),
    i16(&'a [i16]),
    i32(&'a [i32]),
    i64(&'a [i64]),
    isize(&'a [isize]),
}

macro_rules! labels {
    ($($type:ident),*) => {
        $(
            impl sealed::Sealed for $type {}
            impl Label for $type {
                #[inline]
                fn value(self) -> i128 {
                    self as i128
                }

                fn slice(labels: &[Self]) -> LabelSlice<'_> {
                    LabelSlice::$type(labels)
                }
            }
        )*

        impl LabelSlice<'_> {
            pub(crate) fn len(self) -> usize {
                match self {
                    $(Self::$type(labels) => labels.len(),)*
                }
            }

            /// The row's label as a number.
            pub(crate) fn value(self, row: usize) -> i128 {
                match self {
                    $(Self::$type(labels) => labels[row].value(),)*
                }
            }
        }
    };
}
labels!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
