//! Built by `tests/cuda/machines.rs` where no nvcc is found; prints what the CUDA path answers.

use ala_loss::{ClassCounts, Loss, Objective, cuda};

fn main() {
    let counts = ClassCounts::new([9, 3]).expect("valid");
    let loss = Loss::builder(Objective::ala(), &counts).build().expect("valid");
    match cuda::context(0).and_then(|context| loss.bind(&context)) {
        Ok(_) => println!("bound"),
        Err(error) => println!("{error:?}"),
    }
}
