//! 16-bit floats by integer arithmetic, without branches, so that a loop over lanes becomes vector
//! code anywhere: for instruction sets that have no conversions.

use half::{bf16, f16};

#[inline(always)]
pub(super) fn widen_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let magnitude = (bits & 0x7FFF) << 13;
    // The exponents' biases differ by 112. As a product this holds for subnormal numbers too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let infinite = magnitude | 0x7F80_0000;
    let magnitude = if magnitude >= 0x0F80_0000 {
        infinite
    } else {
        finite
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// Rounds to nearest, ties to even.
#[inline(always)]
pub(super) fn narrow_f16(x: f32) -> f16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7FFF_FFFF;
    // A 1/2 has the spacing of f16's subnormal numbers: adding it rounds to them.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3F00_0000);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
    let finite = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    // From 65520 on the nearest number is infinite.
    let large = if magnitude > 0x7F80_0000 {
        0x7E00
    } else {
        0x7C00
    };
    let magnitude = if magnitude >= 0x477F_F000 {
        large
    } else {
        finite
    };
    f16::from_bits((magnitude | bits >> 16 & 0x8000) as u16)
}

#[inline(always)]
pub(super) fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Rounds to nearest, ties to even.
#[inline(always)]
pub(super) fn narrow_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // Rounding could carry a NaN's bits over into the sign.
    let quiet = bits >> 16 | 0x40;
    let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    bf16::from_bits(if is_nan { quiet } else { rounded } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_float_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same(widen_f16(half), half.to_f32()), "{bits:#x}");
            assert!(same(widen_bf16(brain), brain.to_f32()), "{bits:#x}");
        }
    }

    /// Every pattern of the bits that rounding depends on, and both sides of each tie.
    #[test]
    fn every_rounding_to_16_bits_is_to_nearest_even() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                for middle in [0, 0x2000, 0x4000, 0x6000] {
                    let x = f32::from_bits(u32::from(high) << 16 | (low ^ middle));
                    let (half, brain) = (narrow_f16(x), narrow_bf16(x));
                    if x.is_nan() {
                        assert!(half.is_nan() && brain.is_nan(), "{x:e}");
                    } else {
                        assert_eq!(half.to_bits(), f16::from_f32(x).to_bits(), "{x:e}");
                        assert_eq!(brain.to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
                    }
                }
            }
        }
    }
}
