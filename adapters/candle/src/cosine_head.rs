//! The classifier head whose output the margin losses expect.

use candle_core::{D, DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

/// Added to the squared norm, so that a zero vector has cosine 0 and a finite gradient.
const SQUARED_NORM_EPS: f64 = 1e-12;
/// A vector whose largest number is less or more is brought to size first: the squares of an `f32`
/// overflow from 1e19 on, and below 1e-2 what is added to them would show.
const LEAST_SIZE: f64 = 1e-2;
const MOST_SIZE: f64 = 1e15;

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
/// # The scale is not applied here
///
/// The loss multiplies the cosines by its own scale `s`
/// ([`LossBuilder::scale`](ala_loss::LossBuilder::scale), 30 by default for the margin losses).
/// Do **not** multiply this output by `s` as well: `s` applied twice makes `s^2`, and training
/// still runs, only badly. For predictions no scale is needed, since the largest cosine is the
/// largest scaled cosine.
///
/// # Data types
///
/// f32 and f64 features give cosines of their own type. f16 and bf16 features give **f32** cosines:
/// near 1 a bf16 cosine moves in steps of 1/256, which `s = 30` turns into steps of 0.12 in the
/// logit.
///
/// # Example
///
/// ```
/// use ala_loss_candle::CosineHead;
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
///
/// # fn main() -> candle_core::Result<()> {
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let head = CosineHead::new(4, 3, vb.pp("head"))?;
///
/// let features = Tensor::randn(0f32, 1.0, (8, 4), &Device::Cpu)?;
/// let cosines = head.forward(&features)?;
/// assert_eq!(cosines.dims(), [8, 3]);
/// assert!(cosines.abs()?.max_all()?.to_scalar::<f32>()? <= 1.0 + 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CosineHead {
    weight: Tensor,
}

impl CosineHead {
    /// A head for `classes` classes over `features` features, its `weight [classes, features]`
    /// taken from `vb` (Kaiming uniform where `vb` makes new variables; only the direction of a row
    /// matters).
    ///
    /// # Errors
    ///
    /// What `vb` reports: a stored weight of another shape, or none.
    pub fn new(features: usize, classes: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let init = candle_nn::init::DEFAULT_KAIMING_UNIFORM;
        Self::from_weight(vb.get_with_hints((classes, features), "weight", init)?)
    }

    /// A head over an existing weight `[C, D]`, one row a class.
    ///
    /// # Errors
    ///
    /// A weight that is not of rank 2.
    ///
    /// # Example
    ///
    /// ```
    /// # use ala_loss_candle::CosineHead;
    /// # use candle_core::{Device, Module, Tensor};
    /// # fn main() -> candle_core::Result<()> {
    /// let weight = Tensor::new(&[[2f32, 0.0], [0.0, 5.0]], &Device::Cpu)?;
    /// let head = CosineHead::from_weight(weight)?;
    /// let cosines = head.forward(&Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?)?;
    /// let cosines = cosines.to_vec2::<f32>()?;
    /// assert!((cosines[0][0] - 0.6).abs() < 1e-6 && (cosines[0][1] - 0.8).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_weight(weight: Tensor) -> Result<Self> {
        if weight.rank() != 2 {
            bail!(
                "the weight of a cosine head has shape [C, D], got {:?}",
                weight.dims()
            );
        }
        Ok(Self { weight })
    }

    /// The weight `[C, D]` as it is stored, not normalised.
    ///
    /// ```
    /// # use ala_loss_candle::CosineHead;
    /// # use candle_core::{DType, Device, Tensor};
    /// # fn main() -> candle_core::Result<()> {
    /// let head = CosineHead::from_weight(Tensor::ones((3, 4), DType::F32, &Device::Cpu)?)?;
    /// assert_eq!(head.weight().dims(), [3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}

impl Module for CosineHead {
    /// The unscaled cosines `[N, C]` of `features [N, D]`.
    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let (classes, width) = self.weight.dims2()?;
        match features.dims() {
            [_, found] if *found == width => {}
            dims => bail!(
                "a cosine head of {classes} classes over {width} features takes features [N, {width}], got {dims:?}"
            ),
        }
        let weight = UnitRows::of(&self.weight)?.unit;
        UnitRows::of(features)?.unit.matmul(&weight.t()?)
    }
}

/// Rows divided by their length, 16-bit types in f32: an f16 sum of squares overflows from a length
/// of 256 on.
pub(crate) struct UnitRows {
    pub(crate) unit: Tensor,
    /// What each row was divided by first, `[R, 1]`, and what then.
    size: Tensor,
    norm: Tensor,
}

impl UnitRows {
    pub(crate) fn of(rows: &Tensor) -> Result<Self> {
        let rows = match rows.dtype() {
            DType::F16 | DType::BF16 => rows.to_dtype(DType::F32)?,
            _ => rows.clone(),
        };
        let size = own_sizes(&rows)?;
        let rows = rows.broadcast_div(&size)?;
        let norm = (rows.sqr()?.sum_keepdim(D::Minus1)? + SQUARED_NORM_EPS)?.sqrt()?;
        let unit = rows.broadcast_div(&norm)?;
        Ok(Self { unit, size, norm })
    }

    /// The gradient with respect to the rows, from that with respect to the rows of length 1: what
    /// points along a row changes nothing.
    pub(crate) fn backward(&self, gradient: &Tensor) -> Result<Tensor> {
        let along = (gradient * &self.unit)?.sum_keepdim(D::Minus1)?;
        let across = (gradient - self.unit.broadcast_mul(&along)?)?;
        across.broadcast_div(&self.norm)?.broadcast_div(&self.size)
    }
}

/// What a row is divided by first, so that its squares neither overflow nor vanish: its largest
/// number where that is very large or small, else 1, which changes no bit. A constant to the
/// gradient, since a direction has no size.
fn own_sizes(rows: &Tensor) -> Result<Tensor> {
    // Of no rows there is no largest number.
    if rows.elem_count() == 0 {
        return Tensor::ones((rows.dim(0)?, 1), rows.dtype(), rows.device());
    }
    let largest = rows.detach().abs()?.max_keepdim(D::Minus1)?;
    let small = (largest.lt(LEAST_SIZE)? * largest.gt(0f64)?)?;
    let far = (largest.gt(MOST_SIZE)? + small)?;
    far.where_cond(&largest, &largest.ones_like()?)
}
