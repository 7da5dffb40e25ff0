//! As the target `loss`, for batches that are cut into blocks, and shared between threads.

#![no_main]

mod batch;
mod bits;
mod calls;
mod guarded;
mod held;
mod numbers;
mod objective;
mod rules;
mod shards;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use numbers::Shape;

fuzz_target!(|data: &[u8]| {
    // Where the bytes end too early there is nothing to try.
    let _ = check(&mut Unstructured::new(data));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let (rows, classes) = match input.arbitrary::<u8>()? % 8 {
        // Where a row becomes more than one block.
        0..=3 => (0..=5, 1000..=1400),
        // Where exponentials are no longer kept, with few rows and with more.
        4 | 5 => (0..=3, 8150..=8250),
        6 => (14..=18, 8150..=8250),
        // Where a batch is halved.
        _ => (200..=500, 150..=300),
    };
    let shape = Shape {
        rows: input.int_in_range(rows)?,
        classes: input.int_in_range(classes)?,
    };
    batch::check(input, shape)
}
