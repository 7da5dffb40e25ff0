//! The classifier head whose output the margin losses expect.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor};

use crate::error::Error;

/// Added to the squared norm, so that a zero vector has cosine 0 and a finite gradient.
const SQUARED_NORM_EPS: f64 = 1e-12;
/// A vector whose largest number is less or more is brought to size first: the squares of an `f32`
/// overflow from 1e19 on, and below 1e-2 what is added to them would show.
const LEAST_SIZE: f64 = 1e-2;
const MOST_SIZE: f64 = 1e15;

/// The settings of a [`CosineHead`].
///
/// ```
/// use ala_loss_burn::CosineHeadConfig;
/// use burn::tensor::Device;
///
/// let head = CosineHeadConfig::new(16, 3).init(&Device::flex());
/// assert_eq!(head.weight.dims(), [3, 16]);
/// ```
#[derive(Config, Debug)]
pub struct CosineHeadConfig {
    /// The number of features `D`.
    pub features: usize,
    /// The number of classes `C`.
    pub classes: usize,
    /// How the weight begins; only the direction of a row matters.
    #[config(default = "Initializer::KaimingUniform{gain: 1.0, fan_out_only: false}")]
    pub initializer: Initializer,
}

impl CosineHeadConfig {
    /// The head on a device.
    pub fn init(&self, device: &Device) -> CosineHead {
        let shape = [self.classes, self.features];
        let weight =
            self.initializer
                .init_with(shape, Some(self.features), Some(self.classes), device);
        CosineHead { weight }
    }
}

/// A linear layer without bias whose features and class weights are both brought to length 1.
///
/// `features [N, D]` against `weight [C, D]` give **unscaled cosines** `[N, C]`:
///
/// ```text
/// cos_ij = f_i . w_j / (sqrt(|f_i|^2 + 1e-12) sqrt(|w_j|^2 + 1e-12))
/// ```
///
/// so every value lies in [-1, 1] (to rounding), and a zero vector gives 0 rather than NaN.
/// The gradient flows through both normalisations.
///
/// **The scale is not applied here**: the loss multiplies the cosines by its own scale `s`. Do not
/// multiply this output by `s` as well. f16 and bf16 features give **f32** cosines: near 1 a bf16
/// cosine moves in steps of 1/256.
///
/// ```
/// use ala_loss_burn::CosineHeadConfig;
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// let device = Device::flex();
/// let head = CosineHeadConfig::new(4, 3).init(&device);
/// let cosines = head.try_forward(Tensor::random([8, 4], Distribution::Default, &device))?;
/// assert_eq!(cosines.dims(), [8, 3]);
/// assert!(cosines.abs().max().into_scalar::<f32>() <= 1.0 + 1e-6);
/// # Ok::<(), ala_loss_burn::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct CosineHead {
    /// The weight `[C, D]` as it is stored, not normalised.
    pub weight: Param<Tensor<2>>,
}

impl CosineHead {
    /// The unscaled cosines `[N, C]` of `features [N, D]`.
    ///
    /// # Errors
    ///
    /// Features of another width than the weight's, and f64 beside another type.
    pub fn try_forward(&self, features: Tensor<2>) -> Result<Tensor<2>, Error> {
        let weight = self.weight.val();
        let ([rows, found], [_, width]) = (features.dims(), weight.dims());
        if found != width {
            return Err(Error::Shape {
                name: "features",
                got: vec![rows, found],
                expected: format!("[N, {width}]"),
            });
        }
        let (features, weight) = (unit_rows(features), unit_rows(weight));
        if features.dtype() != weight.dtype() {
            return Err(Error::HeadTypes {
                features: features.dtype(),
                weight: weight.dtype(),
            });
        }
        Ok(features.matmul(weight.transpose()))
    }

    /// [`try_forward`](Self::try_forward), as burn's modules are used.
    ///
    /// # Panics
    ///
    /// With the message of what [`try_forward`](Self::try_forward) refuses.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.try_forward(features)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Rows divided by their length, 16-bit types in f32: an f16 sum of squares overflows from a length
/// of 256 on.
fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let rows = match rows.dtype() {
        DType::F16 | DType::BF16 => rows.cast(DType::F32),
        _ => rows,
    };
    // Of no numbers there is no largest.
    if rows.shape().num_elements() == 0 {
        return rows;
    }
    let size = own_sizes(rows.clone().detach());
    let rows = rows / size;
    let norm = (rows.clone().square().sum_dim(1) + SQUARED_NORM_EPS).sqrt();
    rows / norm
}

/// What a row is divided by first, so that its squares neither overflow nor vanish: its largest
/// number where that is very large or small, else 1, which changes no bit. A constant to the
/// gradient, since a direction has no size.
fn own_sizes(rows: Tensor<2>) -> Tensor<2> {
    let largest = rows.abs().max_dim(1);
    let small = largest.clone().lower_scalar(LEAST_SIZE);
    let small = small.bool_and(largest.clone().greater_scalar(0.0));
    let far = largest.clone().greater_scalar(MOST_SIZE).bool_or(small);
    largest.mask_fill(far.bool_not(), 1.0)
}
