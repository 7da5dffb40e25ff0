//! Labels and floats of an input's bytes: mostly usual ones, now and then any.

use ala_loss::{Label, Loss};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

use crate::bits::LogitBits;

pub struct Shape {
    pub rows: usize,
    pub classes: usize,
}

/// Once in so many inputs; never where the bytes have ended.
pub fn rarely(input: &mut Unstructured<'_>, once_in: u8) -> Result<bool> {
    Ok(input.arbitrary::<u8>()? % once_in == once_in - 1)
}

/// A float for a parameter.
pub fn float(input: &mut Unstructured<'_>) -> Result<f64> {
    const EDGES: [f64; 16] = [
        0.0,
        -0.0,
        1.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e30,
        1e-30,
        1e280,
        1e-280,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        0.9999,
        1.0 - f64::EPSILON / 2.0,
        -1.0,
    ];
    Ok(match input.int_in_range(0..=7u8)? {
        0..=4 => f64::from(input.arbitrary::<u8>()?) / 16.0,
        5 => f64::from(input.arbitrary::<i16>()?) / 64.0,
        6 => *input.choose(&EDGES)?,
        _ => f64::from_bits(input.arbitrary()?),
    })
}

/// A part of a whole, both ends more often than others; a `wild` one may be any float.
pub fn part(input: &mut Unstructured<'_>, wild: bool) -> Result<f64> {
    const EDGES: [f64; 6] = [
        5e-324,
        1e-300,
        1e-30,
        1e-9,
        0.9999,
        1.0 - f64::EPSILON / 2.0,
    ];
    Ok(match input.arbitrary::<u8>()? {
        choice if wild && choice.is_multiple_of(4) => float(input)?,
        0..=31 => 0.0,
        32..=47 => *input.choose(&EDGES)?,
        224.. => 1.0,
        part => f64::from(part) / 256.0,
    })
}

/// The number of rows, or now and then another one.
pub fn row_count(input: &mut Unstructured<'_>, rows: usize) -> Result<usize> {
    Ok(if rarely(input, 32)? { rows + 1 } else { rows })
}

/// Of few bytes many numbers: the first come from the input, the others are among the first.
pub fn many<T: Copy>(
    input: &mut Unstructured<'_>,
    count: usize,
    one: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    const MOST_OWN: usize = 64;
    let own = count.min(1 + usize::from(input.arbitrary::<u8>()?) % MOST_OWN);
    let mut seed = u64::from(input.arbitrary::<u8>()?);
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..own {
        numbers.push(one(input)?);
    }
    for _ in own..count {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        numbers.push(numbers[(seed >> 33) as usize % own]);
    }
    Ok(numbers)
}

pub fn logit<T: LogitBits>(input: &mut Unstructured<'_>) -> Result<T> {
    const EDGES: [f64; 12] = [
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -1e9,
        1e4,
        -1e4,
        65504.0,
        f64::MAX,
        f64::MIN,
        1e-40,
    ];
    Ok(match input.int_in_range(0..=7u8)? {
        0..=3 => T::from_f64(f64::from(input.arbitrary::<i8>()?) / 64.0),
        4 => T::from_f64(f64::from(input.arbitrary::<i16>()?) / 64.0),
        5 => T::from_f64(*input.choose(&EDGES)?),
        6 => T::from_f64(*input.choose(&[-T::MOST, T::MOST])?),
        _ => T::from_bits(input.arbitrary()?),
    })
}

/// A label for each row: mostly classes and the ignore label.
pub fn labels<L: Label + TryFrom<i128> + for<'a> Arbitrary<'a>>(
    input: &mut Unstructured<'_>,
    loss: &Loss,
    rows: usize,
) -> Result<Vec<L>> {
    // A class that the type does not have, and an ignore label beyond it, become another label.
    let ignored = loss
        .ignore_label()
        .and_then(|label| L::try_from(label.into()).ok());
    let wild = rarely(input, 8)?;
    many(input, rows, |input| {
        let choice = input.arbitrary::<u8>()?;
        if wild && choice.is_multiple_of(8) {
            return input.arbitrary();
        }
        let class = input.int_in_range(0..=loss.classes() - 1)? as i128;
        let class = L::try_from(class).ok();
        match (choice % 8, ignored, class) {
            (1, Some(label), _) | (_, _, Some(label)) => Ok(label),
            _ => input.arbitrary(),
        }
    })
}
