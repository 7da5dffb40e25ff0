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
    };
}
#[cfg(not(target_arch = "x86_64"))]
pub(super) use portable_vectors;

/// On x86-64, where the tests run, no instance has these vectors: they are tested beside those that
/// it has.
#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use crate::cpu::arch::CpuInstance;
    use crate::cpu::arch::isa::{Isa, Kernel};
    use crate::cpu::arch::vector::Vector;

    #[derive(Clone, Copy)]
    struct Arrays;

    impl Isa for Arrays {
        const FUSED: bool = false;
        portable_vectors!(8);
    }

    fn run<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Arrays)
    }

    const A: [f32; 8] = [1.5, -2.0, 0.0, f32::NAN, f32::INFINITY, 1e-40, -3.25, 7.1];
    const B: [f32; 8] = [
        0.7,
        -1.0,
        -0.0,
        1.0,
        f32::NAN,
        2e-40,
        4.0,
        f32::NEG_INFINITY,
    ];

    /// Every operation against the scalars.
    struct Check;

    impl Kernel for Check {
        type Output = ();
        fn run<I: Isa>(self, isa: I) {
            single(isa);
            double(isa);
            sixteen_bits(isa);
        }
    }

    macro_rules! scalars {
        ($name:ident, $vector:ident, $float:ident, $bits:ident, $bias:literal) => {
            fn $name<I: Isa>(isa: I) {
                type Lanes<'a> = &'a dyn Fn(usize) -> $float;
                let lanes = |of: Lanes| (0..I::LANES).map(of).collect::<Vec<_>>();
                let load = |of: Lanes| I::$vector::load(isa, &lanes(of));
                let same = |got: I::$vector, right: Lanes| {
                    let mut stored = vec![0.0; I::LANES];
                    got.store(&mut stored);
                    for (got, right) in stored.into_iter().zip(lanes(right)) {
                        let nan = got.is_nan() && right.is_nan();
                        assert!(nan || got.to_bits() == right.to_bits(), "{got} for {right}");
                    }
                };
                let a = |i: usize| $float::from(A[i % A.len()]);
                let b = |i: usize| $float::from(B[i % B.len()]);
                let (x, y) = (load(&a), load(&b));
                same(I::$vector::splat(isa, 2.5), &|_| 2.5);
                same(x.plus(y), &|i| a(i) + b(i));
                same(x.minus(y), &|i| a(i) - b(i));
                same(x.times(y), &|i| a(i) * b(i));
                same(x.times_plus(y, x), &|i| match I::FUSED {
                    true => a(i).mul_add(b(i), a(i)),
                    false => a(i) * b(i) + a(i),
                });
                same(x.or_higher(y), &|i| if a(i) > b(i) { a(i) } else { b(i) });
                same(x.or_lower(y), &|i| if a(i) < b(i) { a(i) } else { b(i) });
                // Exponents from -7 on, in the lowest bits.
                let exponents = load(&|i| $float::from_bits(i as $bits + $bias - 7));
                same(exponents.low_bits_to_exponent(), &|i| {
                    (i as $float - 7.0).exp2()
                });
                for from in 0..=I::LANES {
                    for to in from..=I::LANES {
                        let within = |i| if (from..to).contains(&i) { a(i) } else { b(i) };
                        same(x.within(from..to, y), &within);
                    }
                }
            }
        };
    }
    scalars!(single, Single, f32, u32, 127);
    scalars!(double, Double, f64, u64, 1023);

    fn sixteen_bits<I: Isa>(isa: I) {
        let wide: Vec<f32> = (0..I::LANES).map(|i| B[i % 8]).collect();
        let half: Vec<f16> = wide.iter().map(|&x| f16::from_f32(x)).collect();
        let brain: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
        let stored = |x: I::Single| {
            let mut lanes = vec![0.0; I::LANES];
            x.store(&mut lanes);
            lanes
        };
        let (from_half, from_brain) =
            (stored(isa.widen_f16(&half)), stored(isa.widen_bf16(&brain)));
        let (mut to_half, mut to_brain) = (half.clone(), brain.clone());
        to_half.fill(f16::ONE);
        to_brain.fill(bf16::ONE);
        isa.narrow_f16(I::Single::load(isa, &wide), &mut to_half);
        isa.narrow_bf16(I::Single::load(isa, &wide), &mut to_brain);
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for i in 0..I::LANES {
            assert!(same(from_half[i], half[i].to_f32()), "{i}");
            assert!(same(from_brain[i], brain[i].to_f32()), "{i}");
            assert!(same(to_half[i].to_f32(), half[i].to_f32()), "{i}");
            assert!(same(to_brain[i].to_f32(), brain[i].to_f32()), "{i}");
        }
    }

    #[test]
    fn every_lane_of_every_vector_is_the_scalar_s() {
        Arrays.apart(Check);
        for instance in CpuInstance::available() {
            instance.run(Check);
        }
    }
}
