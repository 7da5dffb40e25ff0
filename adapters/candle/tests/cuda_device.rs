//! candle's own operations on its CUDA device against the CPU's. They are the ground that the tests
//! of the losses on that device stand on, and hold on a GPU as in software
//! (`eval "$(scripts/candle_cuda)"`), up to the rounding of floats.
#![cfg(feature = "cuda")]

use std::sync::OnceLock;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use softcuda_client::client::SoftCuda;

/// The device, one for all tests: tensors of two do not meet.
fn cuda() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        if let Some(soft) = SoftCuda::linked() {
            // candle reads what it has downloaded without waiting: of a copy to pageable memory
            // CUDA says that it is done when the call returns.
            soft.set_prompt_downloads(true);
        }
        Device::new_cuda(0).expect("a CUDA device")
    })
}

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// What a few roundings of a type may come to, relative to the value or to 1.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 0.0,
    }
}

/// Numbers in [-2, 2), the same for the same seed.
fn numbers(shape: &[usize], dtype: DType, seed: u32) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let count = shape.iter().product();
    let values: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    })
    .take(count)
    .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    let host = tensor.to_device(&Device::Cpu)?;
    host.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<()> {
    assert!(got.device().is_cuda(), "{what} left the device");
    let of = |tensor: &Tensor| (tensor.dims().to_vec(), tensor.dtype());
    assert_eq!(of(got), of(want), "{what}");
    for (at, (got, want)) in values(got)?.into_iter().zip(values(want)?).enumerate() {
        let near = (got - want).abs() <= tolerance * want.abs().max(1.0);
        let same = got == want || got.is_nan() && want.is_nan();
        assert!(same || near, "{what}, element {at}: {got}, not {want}");
    }
    Ok(())
}

/// Runs an operation on both devices.
fn check(what: &str, inputs: &[&Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    let host: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
    let device: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.to_device(cuda()))
        .collect::<Result<_>>()?;
    let want = run(&host)?;
    let what = format!("{what} of {:?}", inputs[0].dtype());
    let got = run(&device).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_close(&what, &got, &want, tolerance(want.dtype()))
}

#[test]
fn matrix_products_equal_the_cpus() -> Result<()> {
    for dtype in FLOATS {
        let (a, b) = (numbers(&[5, 7], dtype, 1)?, numbers(&[7, 4], dtype, 2)?);
        let (a_t, b_t) = (numbers(&[7, 5], dtype, 3)?, numbers(&[4, 7], dtype, 4)?);
        check("a b", &[&a, &b], |x| x[0].matmul(&x[1]))?;
        check("a' b", &[&a_t, &b], |x| x[0].t()?.matmul(&x[1]))?;
        check("a b'", &[&a, &b_t], |x| x[0].matmul(&x[1].t()?))?;
        check("a' b'", &[&a_t, &b_t], |x| x[0].t()?.matmul(&x[1].t()?))?;
        let (many, more) = (
            numbers(&[3, 5, 7], dtype, 5)?,
            numbers(&[3, 7, 4], dtype, 6)?,
        );
        check("batched", &[&many, &more], |x| x[0].matmul(&x[1]))?;
        check("one factor for all", &[&many, &b], |x| {
            x[0].broadcast_matmul(&x[1])
        })?;
        let row = numbers(&[1, 300], dtype, 7)?;
        let column = numbers(&[300, 1], dtype, 8)?;
        let scaled = (row * 0.1)?;
        check("inner", &[&scaled, &column], |x| x[0].matmul(&x[1]))?;
        check("outer", &[&column, &scaled], |x| x[0].matmul(&x[1]))?;
        check("of a part", &[&many, &b], |x| {
            x[0].narrow(0, 1, 1)?.squeeze(0)?.matmul(&x[1])
        })?;
    }
    Ok(())
}

#[test]
fn arithmetic_equals_the_cpus() -> Result<()> {
    for dtype in FLOATS {
        let (x, y) = (numbers(&[6, 9], dtype, 1)?, numbers(&[6, 9], dtype, 2)?);
        let (row, column) = (numbers(&[9], dtype, 3)?, numbers(&[6, 1], dtype, 4)?);
        check("add", &[&x, &y], |x| &x[0] + &x[1])?;
        check("sub", &[&x, &y], |x| &x[0] - &x[1])?;
        check("mul", &[&x, &y], |x| &x[0] * &x[1])?;
        check("div", &[&x, &y], |x| &x[0] / (x[1].abs()? + 0.5)?)?;
        check("maximum", &[&x, &y], |x| x[0].maximum(&x[1]))?;
        check("minimum", &[&x, &y], |x| x[0].minimum(&x[1]))?;
        check("transposed", &[&x, &y], |x| x[0].t()? + x[1].t()?)?;
        check("add row", &[&x, &row], |x| x[0].broadcast_add(&x[1]))?;
        check("sub row", &[&x, &row], |x| x[0].broadcast_sub(&x[1]))?;
        check("mul column", &[&x, &column], |x| x[0].broadcast_mul(&x[1]))?;
        check("div column", &[&x, &column], |x| {
            x[0].broadcast_div(&(x[1].abs()? + 0.5)?)
        })?;
        check("affine", &[&x], |x| x[0].affine(1.5, -0.25))?;
        check("affine of a part", &[&x], |x| {
            x[0].narrow(1, 2, 4)?.affine(-2.0, 1.0)
        })?;
        check("in scalars", &[&x], |x| ((&x[0] * 3.0)? + 1.0)? / 7.0)?;
        check("neg", &[&x], |x| x[0].neg())?;
        check("abs", &[&x], |x| x[0].abs())?;
        check("sqr", &[&x], |x| x[0].sqr())?;
        check("sqrt", &[&x], |x| x[0].abs()?.sqrt())?;
        check("recip", &[&x], |x| (x[0].abs()? + 0.5)?.recip())?;
        check("exp", &[&x], |x| x[0].exp())?;
        check("log", &[&x], |x| (x[0].abs()? + 0.1)?.log())?;
        check("relu", &[&x], |x| x[0].relu())?;
        check("tanh", &[&x], |x| x[0].tanh())?;
        check("clamp", &[&x], |x| x[0].clamp(-0.5, 1.0))?;
        check("floor", &[&x], |x| x[0].floor())?;
        check("ceil", &[&x], |x| x[0].ceil())?;
        if dtype != DType::F64 {
            check("powf", &[&x], |x| (x[0].abs()? + 0.1)?.powf(1.7))?;
        }
    }
    Ok(())
}

#[test]
fn comparisons_and_choices_equal_the_cpus() -> Result<()> {
    for dtype in FLOATS {
        // Halves of small integers, so that many are equal.
        let coarse = |seed| numbers(&[7, 8], dtype, seed)?.round()? / 2.0;
        let (x, y) = (coarse(1)?, coarse(2)?);
        check("eq", &[&x, &y], |x| x[0].eq(&x[1]))?;
        check("ne", &[&x, &y], |x| x[0].ne(&x[1]))?;
        check("lt", &[&x, &y], |x| x[0].lt(&x[1]))?;
        check("le", &[&x, &y], |x| x[0].le(&x[1]))?;
        check("gt", &[&x, &y], |x| x[0].gt(&x[1]))?;
        check("ge", &[&x, &y], |x| x[0].ge(&x[1]))?;
        check("gt 0", &[&x], |x| x[0].gt(0.0))?;
        check("lt 0.5", &[&x], |x| x[0].lt(0.5))?;
        check("ge -0.5", &[&x], |x| x[0].ge(-0.5))?;
        check("eq 0", &[&x], |x| x[0].eq(0.0))?;
        check("where", &[&x, &y], |x| {
            x[0].gt(&x[1])?.where_cond(&x[0], &x[1])
        })?;
        check("where u32", &[&x, &y], |x| {
            let condition = x[0].gt(&x[1])?.to_dtype(DType::U32)?;
            condition.where_cond(&x[0], &x[1].zeros_like()?)
        })?;
    }
    Ok(())
}

#[test]
fn reductions_equal_the_cpus() -> Result<()> {
    for dtype in FLOATS {
        for shape in [[4, 6], [5, 33], [3, 200]] {
            let x = (numbers(&shape, dtype, 1)? * 0.25)?;
            // Of whole numbers sums are exact, whatever their order.
            let whole = (&x * 4.0)?.round()?;
            check("sum of rows", &[&whole], |x| x[0].sum_keepdim(1))?;
            check("sum of columns", &[&whole], |x| x[0].sum_keepdim(0))?;
            check("sum", &[&whole], |x| x[0].sum_all())?;
            check("mean", &[&whole], |x| x[0].mean(D::Minus1))?;
            check("sum of both", &[&whole], |x| x[0].sum_keepdim((0, 1)))?;
            check("max", &[&x], |x| x[0].max_keepdim(D::Minus1))?;
            check("max of columns", &[&x], |x| x[0].max(0))?;
            check("min", &[&x], |x| x[0].min_keepdim(D::Minus1))?;
            // Which of equal ones is found is not said: whole numbers that all types hold, in turns
            // of a prime.
            let places = (0..shape[0] * shape[1]).map(|at| (at * 37 % 211) as f32);
            let distinct = Tensor::from_iter(places, &Device::Cpu)?;
            let distinct = distinct.reshape(&shape)?.to_dtype(dtype)?;
            check("argmax", &[&distinct], |x| x[0].argmax(D::Minus1))?;
            check("argmin", &[&distinct], |x| x[0].argmin(D::Minus1))?;
            check("norm", &[&x], |x| x[0].sqr()?.sum_keepdim(1)?.sqrt())?;
            check("log_softmax", &[&x], |x| {
                candle_nn::ops::log_softmax(&x[0], D::Minus1)
            })?;
            check("softmax", &[&x], |x| {
                candle_nn::ops::softmax_last_dim(&x[0])
            })?;
        }
    }
    Ok(())
}

#[test]
fn conversions_equal_the_cpus() -> Result<()> {
    let integers = [DType::U8, DType::U32, DType::I64];
    let types: Vec<DType> = FLOATS.into_iter().chain(integers).collect();
    // In [0, 120): all types hold it, cut or rounded.
    let x = ((numbers(&[101], DType::F32, 1)? + 2.0)? * 30.0)?;
    for &from in &types {
        let x = x.to_dtype(from)?;
        for &to in &types {
            // candle has no kernel for these.
            let narrow = |dtype| matches!(dtype, DType::F16 | DType::BF16);
            if narrow(from) && to == DType::I64 || from == DType::I64 && narrow(to) {
                continue;
            }
            check(&format!("to {to:?}"), &[&x], |x| x[0].to_dtype(to))?;
        }
    }
    let below = numbers(&[40], DType::F32, 2)?;
    check("to i64", &[&below], |x| x[0].to_dtype(DType::I64))?;
    let whole = (below * 1000.0)?.to_dtype(DType::I64)?;
    for to in [DType::F32, DType::F64] {
        check(&format!("to {to:?}"), &[&whole], |x| x[0].to_dtype(to))?;
    }
    Ok(())
}

#[test]
fn parts_and_copies_equal_the_cpus() -> Result<()> {
    for dtype in [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::U32,
        DType::I64,
    ] {
        let whole = |shape: &[usize], seed| {
            let x = numbers(shape, DType::F32, seed)?;
            ((x + 2.0)? * 30.0)?.to_dtype(dtype)
        };
        let (x, y) = (whole(&[4, 6], 1)?, whole(&[3, 6], 2)?);
        let z = whole(&[4, 2], 3)?;
        check("cat rows", &[&x, &y], |x| Tensor::cat(x, 0))?;
        check("cat columns", &[&x, &z], |x| Tensor::cat(x, 1))?;
        check("stack", &[&x, &x], |x| Tensor::stack(x, 0))?;
        check("narrow", &[&x], |x| x[0].narrow(1, 1, 3)?.contiguous())?;
        check("transpose", &[&x], |x| x[0].t()?.contiguous())?;
        check("permute", &[&x], |x| {
            x[0].reshape((2, 2, 6))?.permute((2, 0, 1))?.contiguous()
        })?;
        check("broadcast", &[&z], |x| {
            x[0].unsqueeze(1)?.broadcast_as((4, 3, 2))?.contiguous()
        })?;
        check("reshape", &[&x], |x| x[0].reshape((8, 3)))?;
        check("slice_assign", &[&x, &z], |x| {
            x[0].slice_assign(&[0..4, 1..3], &x[1])
        })?;
        for ids in [DType::U32, DType::I64] {
            let rows = Tensor::new(&[3u32, 0, 0, 2], &Device::Cpu)?.to_dtype(ids)?;
            let places = Tensor::new(&[[5u32, 0], [1, 1], [2, 4], [0, 3]], &Device::Cpu)?;
            let places = places.to_dtype(ids)?;
            check("index_select", &[&x, &rows], |x| {
                x[0].index_select(&x[1], 0)
            })?;
            check("gather", &[&x, &places], |x| x[0].gather(&x[1], 1))?;
            check("index_add", &[&x, &rows], |x| {
                x[0].index_add(&x[1], &x[0], 0)
            })?;
            check("scatter_add", &[&x, &places, &z], |x| {
                x[0].scatter_add(&x[1], &x[2], 1)
            })?;
        }
    }
    Ok(())
}

#[test]
fn tensors_are_made_and_read() -> Result<()> {
    for dtype in [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::U8,
        DType::U32,
        DType::I64,
    ] {
        for (tensor, value) in [
            (Tensor::zeros((3, 5), dtype, cuda())?, 0.0),
            (Tensor::ones((3, 5), dtype, cuda())?, 1.0),
            (Tensor::ones((3, 5), dtype, cuda())?.zeros_like()?, 0.0),
        ] {
            assert_eq!(values(&tensor)?, [value; 15], "{dtype:?}");
        }
    }
    let sevens = Tensor::full(7.5f32, (2, 3), cuda())?;
    assert_eq!(sevens.to_vec2::<f32>()?, [[7.5; 3]; 2]);
    let numbers = Tensor::arange(2i64, 6, cuda())?;
    assert_eq!(numbers.to_vec1::<i64>()?, [2, 3, 4, 5]);
    assert_eq!(numbers.get(2)?.to_scalar::<i64>()?, 4);
    let bytes = Tensor::new(&[1u8, 200], cuda())?;
    assert_eq!(bytes.to_vec1::<u8>()?, [1, 200]);
    Ok(())
}

#[test]
fn random_numbers_have_their_moments() -> Result<()> {
    const COUNT: usize = 20_000;
    let moments = |x: &Tensor| {
        let values = values(x)?;
        let mean = values.iter().sum::<f64>() / COUNT as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64;
        Result::Ok((values, mean, variance.sqrt()))
    };
    for dtype in [DType::F32, DType::F64] {
        let like = Tensor::zeros(COUNT, dtype, cuda())?;
        // Five standard errors of the mean, and of a normal number's deviation.
        let (_, mean, deviation) = moments(&like.randn_like(3.0, 2.0)?)?;
        assert!((mean - 3.0).abs() < 0.07, "{dtype:?}: {mean}");
        assert!((deviation - 2.0).abs() < 0.05, "{dtype:?}: {deviation}");
        let (values, mean, deviation) = moments(&like.rand_like(-1.0, 3.0)?)?;
        assert!(values.iter().all(|x| (-1.0..=3.0).contains(x)), "{dtype:?}");
        assert!((mean - 1.0).abs() < 0.05, "{dtype:?}: {mean}");
        let want = 4.0 / 12f64.sqrt();
        assert!((deviation - want).abs() < 0.05, "{dtype:?}: {deviation}");
    }
    Ok(())
}

/// Weights of two layers, on a device.
fn layers(device: &Device) -> Result<[Var; 3]> {
    let on = |shape: &[usize], seed| {
        Var::from_tensor(&(numbers(shape, DType::F32, seed)? * 0.3)?.to_device(device)?)
    };
    Ok([on(&[8, 6], 1)?, on(&[8], 2)?, on(&[3, 8], 3)?])
}

/// The mean cross-entropy of two layers.
fn loss([first, bias, second]: &[Var; 3], device: &Device) -> Result<Tensor> {
    let x = numbers(&[10, 6], DType::F32, 4)?.to_device(device)?;
    let labels = Tensor::from_iter((0..10u32).map(|row| row % 3), device)?;
    let hidden = x.matmul(&first.t()?)?.broadcast_add(bias)?.relu()?;
    let logits = hidden.matmul(&second.t()?)?;
    candle_nn::loss::cross_entropy(&logits, &labels)
}

/// Steps of an optimizer lead to the same losses and weights on both devices.
fn train<O: Optimizer>(make: impl Fn(Vec<Var>) -> Result<O>) -> Result<()> {
    let run = |device: &Device| {
        let weights = layers(device)?;
        let mut optimizer = make(weights.to_vec())?;
        for _ in 0..5 {
            optimizer.backward_step(&loss(&weights, device)?)?;
        }
        Result::Ok((loss(&weights, device)?, weights))
    };
    let ((got, on_device), (want, on_host)) = (run(cuda())?, run(&Device::Cpu)?);
    assert_close("the loss", &got, &want, 1e-4)?;
    for (got, want) in on_device.iter().zip(&on_host) {
        assert_close("a weight", got, want, 1e-4)?;
    }
    Ok(())
}

#[test]
fn gradients_equal_the_cpus() -> Result<()> {
    let gradients = |device: &Device| {
        let weights = layers(device)?;
        let gradients = loss(&weights, device)?.backward()?;
        let found = weights.iter().map(|weight| gradients.get(weight).cloned());
        Result::Ok(found.collect::<Option<Vec<_>>>().expect("of every weight"))
    };
    for (got, want) in gradients(cuda())?.iter().zip(&gradients(&Device::Cpu)?) {
        assert_close("a gradient", got, want, 1e-5)?;
    }
    Ok(())
}

#[test]
fn descent_equals_the_cpus() -> Result<()> {
    train(|weights| SGD::new(weights, 0.5))
}

#[test]
fn adam_equals_the_cpus() -> Result<()> {
    train(|weights| {
        AdamW::new(
            weights,
            ParamsAdamW {
                lr: 0.01,
                ..Default::default()
            },
        )
    })
}

#[test]
fn a_variable_takes_new_values() -> Result<()> {
    let variable = Var::zeros((2, 2), DType::F32, cuda())?;
    variable.set(&Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], cuda())?)?;
    assert_eq!(variable.to_vec2::<f32>()?, [[1.0, 2.0], [3.0, 4.0]]);
    Ok(())
}
