//! The loss on the CPU: any objective, stride, type, label and bits of logits, of small batches;
//! smoothed labels, two labels a row, row weights, divisors, shards. What is wrong is an error and
//! writes nothing; what is right keeps the README's table of edges and gives the same bits by
//! every call.

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
    let rows = usize::from(input.arbitrary::<u8>()? % 9);
    let classes = match input.arbitrary::<u8>()? {
        0..=15 => input.int_in_range(1..=200)?,
        choice => 1 + usize::from(choice) % 40,
    };
    batch::check(input, Shape { rows, classes })
}
