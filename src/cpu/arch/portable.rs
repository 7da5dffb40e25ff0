//! Vectors as arrays.

use std::ops::Range;

use super::isa::Isa;
use super::vector::{Vector, whole, whole_mut};

#[derive(Clone, Copy)]
pub(crate) struct ArrayVector<R, const N: usize>([R; N]);

impl<R: Copy, const N: usize> ArrayVector<R, N> {
    #[inline(always)]
    fn map(mut self, lane: impl Fn(usize, R) -> R) -> Self {
        for (i, x) in self.0.iter_mut().enumerate() {
            *x = lane(i, *x);
        }
        self
    }
}

impl<const N: usize> ArrayVector<f32, N> {
    #[inline(always)]
    pub(super) fn widened<T: Copy>(from: &[T], widen: impl Fn([T; N]) -> [f32; N]) -> Self {
        Self(widen(*whole(from)))
    }

    #[inline(always)]
    pub(super) fn narrowed<T>(self, to: &mut [T], narrow: impl Fn([f32; N]) -> [T; N]) {
        *whole_mut(to) = narrow(self.0);
    }
}

macro_rules! array_vector {
    ($float:ident, $fraction_bits:literal) => {
        impl<I: Isa, const N: usize> Vector<I, $float> for ArrayVector<$float, N> {
            #[inline(always)]
            fn splat(_: I, x: $float) -> Self {
                Self([x; N])
            }

            #[inline(always)]
            fn load(_: I, from: &[$float]) -> Self {
                Self(*whole(from))
            }

            #[inline(always)]
            fn store(self, to: &mut [$float]) {
                *whole_mut(to) = self.0;
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.map(|i, x| x + other.0[i])
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.map(|i, x| x - other.0[i])
            }

            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.map(|i, x| x * other.0[i])
            }

            #[inline(always)]
            fn times_plus(self, a: Self, b: Self) -> Self {
                if I::FUSED {
                    self.map(|i, x| x.mul_add(a.0[i], b.0[i]))
                } else {
                    self.map(|i, x| x * a.0[i] + b.0[i])
                }
            }

            #[inline(always)]
            fn or_higher(self, other: Self) -> Self {
                self.map(|i, x| if x > other.0[i] { x } else { other.0[i] })
            }

            #[inline(always)]
            fn or_lower(self, other: Self) -> Self {
                self.map(|i, x| if x < other.0[i] { x } else { other.0[i] })
            }

            #[inline(always)]
            fn low_bits_to_exponent(self) -> Self {
                self.map(|_, x| $float::from_bits(x.to_bits() << $fraction_bits))
            }

            #[inline(always)]
            fn within(self, lanes: Range<usize>, other: Self) -> Self {
                self.map(|i, x| if lanes.contains(&i) { x } else { other.0[i] })
            }
        }
    };
}
array_vector!(f32, 23);
array_vector!(f64, 52);

/// What an instance brings whose vectors are arrays.
macro_rules! portable_vectors {
    ($lanes:literal) => {
        const LANES: usize = $lanes;
        type Single = $crate::cpu::arch::portable::ArrayVector<f32, $lanes>;
        type Double = $crate::cpu::arch::portable::ArrayVector<f64, $lanes>;

        #[inline(always)]
        fn apart<K: Kernel>(self, kernel: K) -> K::Output {
            run(kernel)
        }

        #[inline(always)]
        fn widen_f16(self, from: &[half::f16]) -> Self::Single {
            $crate::cpu::arch::portable::ArrayVector::widened(
                from,
                $crate::cpu::half_bits::widen_f16,
            )
        }

        #[inline(always)]
        fn narrow_f16(self, x: Self::Single, to: &mut [half::f16]) {
            x.narrowed(to, $crate::cpu::half_bits::narrow_f16);
        }

        #[inline(always)]
        fn widen_bf16(self, from: &[half::bf16]) -> Self::Single {
            $crate::cpu::arch::portable::ArrayVector::widened(
                from,
                $crate::cpu::half_bits::widen_bf16,
            )
        }

        #[inline(always)]
        fn narrow_bf16(self, x: Self::Single, to: &mut [half::bf16]) {
            x.narrowed(to, $crate::cpu::half_bits::narrow_bf16);
        }
    };
}
pub(super) use portable_vectors;
