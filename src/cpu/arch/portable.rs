//! Vectors as arrays.

use std::ops::Range;

use super::{Isa, Vector};

#[derive(Clone, Copy)]
pub struct Lanes<R, const N: usize>([R; N]);

impl<R: Copy, const N: usize> Lanes<R, N> {
    #[inline(always)]
    fn map(mut self, lane: impl Fn(usize, R) -> R) -> Self {
        for (i, x) in self.0.iter_mut().enumerate() {
            *x = lane(i, *x);
        }
        self
    }
}

macro_rules! lanes {
    ($float:ident, $fraction_bits:literal) => {
        impl<I: Isa, const N: usize> Vector<I, $float> for Lanes<$float, N> {
            #[inline(always)]
            fn splat(_: I, x: $float) -> Self {
                Self([x; N])
            }

            #[inline(always)]
            fn load<const L: usize>(_: I, x: [$float; L]) -> Self {
                const { assert!(L == N) };
                Self([0.0; N]).map(|i, _| x[i])
            }

            #[inline(always)]
            fn store<const L: usize>(self) -> [$float; L] {
                const { assert!(L == N) };
                let mut x = [0.0; L];
                x.copy_from_slice(&self.0);
                x
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
lanes!(f32, 23);
lanes!(f64, 52);

/// What an instance brings whose vectors are arrays.
macro_rules! portable_vectors {
    ($lanes:literal) => {
        type Single = $crate::cpu::arch::portable::Lanes<f32, $lanes>;
        type Double = $crate::cpu::arch::portable::Lanes<f64, $lanes>;

        #[inline(always)]
        fn apart<K: Kernel>(self, kernel: K) -> K::Output {
            run(kernel)
        }

        #[inline(always)]
        fn widen_f16<const L: usize>(self, x: [half::f16; L]) -> Self::Single {
            Self::Single::load(self, $crate::cpu::half_bits::widen_f16(x))
        }

        #[inline(always)]
        fn narrow_f16<const L: usize>(self, x: Self::Single) -> [half::f16; L] {
            $crate::cpu::half_bits::narrow_f16(Vector::<Self, f32>::store(x))
        }

        #[inline(always)]
        fn widen_bf16<const L: usize>(self, x: [half::bf16; L]) -> Self::Single {
            Self::Single::load(self, $crate::cpu::half_bits::widen_bf16(x))
        }

        #[inline(always)]
        fn narrow_bf16<const L: usize>(self, x: Self::Single) -> [half::bf16; L] {
            $crate::cpu::half_bits::narrow_bf16(Vector::<Self, f32>::store(x))
        }
    };
}
pub(super) use portable_vectors;
