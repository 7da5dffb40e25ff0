//! A loss and a batch of an input's bytes, for every type of logits and labels.

use ala_loss::{Label, Loss};
use half::{bf16, f16};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};

use crate::bits::LogitBits;
use crate::numbers::{self, Shape};
use crate::{calls, objective};

pub fn check(input: &mut Unstructured<'_>, shape: Shape) -> Result<()> {
    let Some(loss) = objective::loss(input, shape.classes)? else {
        return Ok(());
    };
    let (loss, rows) = (&loss, shape.rows);
    // What takes labels does not ask for the logits' type: every pair would only make it slow.
    match input.int_in_range(0..=15u8)? {
        0 => with_types::<f32, u8>(input, loss, rows),
        1 => with_types::<f32, i8>(input, loss, rows),
        2 => with_types::<f32, u16>(input, loss, rows),
        3 => with_types::<f32, i16>(input, loss, rows),
        4 => with_types::<f32, u32>(input, loss, rows),
        5 => with_types::<f32, i32>(input, loss, rows),
        6 => with_types::<f32, u64>(input, loss, rows),
        7 => with_types::<f32, usize>(input, loss, rows),
        8 | 9 => with_types::<f32, i64>(input, loss, rows),
        10 | 11 => with_types::<f64, i64>(input, loss, rows),
        12 | 13 => with_types::<f16, i64>(input, loss, rows),
        _ => with_types::<bf16, i64>(input, loss, rows),
    }
}

fn with_types<T: LogitBits, L: Label + TryFrom<i128> + for<'a> Arbitrary<'a>>(
    input: &mut Unstructured<'_>,
    loss: &Loss,
    rows: usize,
) -> Result<()> {
    let labels: Vec<L> = numbers::labels(input, loss, rows)?;
    calls::check::<T, L>(input, loss, &labels)
}
