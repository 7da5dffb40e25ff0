#![cfg(feature = "cuda")]
use candle_core::{Device, Tensor};
#[test]
fn first() -> candle_core::Result<()> {
    softcuda::client::SoftCuda::linked().expect("linked").set_prompt_downloads(true);
    let device = Device::new_cuda(0)?;
    let x = Tensor::new(&[[1f32, 2.], [3., 4.]], &device)?;
    println!("{:?}", x.matmul(&x)?.to_vec2::<f32>()?);
    println!("{:?}", (&x + &x)?.to_vec2::<f32>()?);
    Ok(())
}
