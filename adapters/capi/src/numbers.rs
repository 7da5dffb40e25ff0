//! The enums. Structs hold their numbers, since a number that an enum does not have must be told.

use crate::status::{AlaStatus, Failure};

/// A loss for long-tailed recognition. x are the logits given, s the scale, n the class counts, pi
/// their priors, y the row's target; the loss is softmax cross-entropy over z. Beside each is what
/// it takes of AlaLossOptions.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaObjective {
    /// ALA (Zhao et al., AAAI 2022): z_y = s (x_y - (1 - x_y)/2 QF_y), QF_y = 1/log(n_y/n_min + 1),
    /// z_j = s x_j. quantity_log, difficulty_gradient; tau of a log-prior offset tau ln pi_j.
    Ala = 0,
    /// z_y = s (x_y - QF_y). quantity_log.
    QuantityOnly = 1,
    /// z_y = s (x_y - k (1 - x_y)/2). k, difficulty_gradient.
    DifficultyOnly = 2,
    /// Softmax cross-entropy, z = s x.
    CrossEntropy = 3,
    /// Cross-entropy weighted by the effective number of samples (Cui et al., CVPR 2019). beta.
    ClassBalanced = 4,
    /// Focal loss (Lin et al., ICCV 2017), softmax form: -(1-p)^gamma ln p. gamma.
    Focal = 5,
    /// Balanced Softmax (Ren et al., NeurIPS 2020): z_j = s x_j + ln n_j.
    BalancedSoftmax = 6,
    /// Logit adjustment (Menon et al., ICLR 2021): z_j = s x_j + tau ln pi_j. tau.
    LogitAdjustment = 7,
    /// Vector scaling (Kini et al., NeurIPS 2021): z_j = s (n_j/n_max)^gamma x_j + tau ln pi_j.
    /// gamma, tau.
    VectorScaling = 8,
    /// LDAM (Cao et al., NeurIPS 2019): z_y = s (x_y - margin (n_min/n_y)^(1/4)). margin.
    Ldam = 9,
    /// CosFace (Wang et al., CVPR 2018): z_y = s (x_y - margin). margin.
    CosFace = 10,
}

impl AlaObjective {
    pub(crate) const ALL: &[Self] = &[
        Self::Ala,
        Self::QuantityOnly,
        Self::DifficultyOnly,
        Self::CrossEntropy,
        Self::ClassBalanced,
        Self::Focal,
        Self::BalancedSoftmax,
        Self::LogitAdjustment,
        Self::VectorScaling,
        Self::Ldam,
        Self::CosFace,
    ];
}

/// The logarithm of the quantity factor.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaQuantityLog {
    /// Base 2, as in the public OpenLT code.
    Base2 = 0,
    /// Natural.
    Natural = 1,
}

impl AlaQuantityLog {
    pub(crate) const ALL: &[Self] = &[Self::Base2, Self::Natural];
}

/// Whether the gradient flows through the difficulty factor (1 - x_y)/2.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaDifficultyGradient {
    /// The factor is a constant of the step, as in the public OpenLT code.
    Detached = 0,
    /// The factor is differentiated too.
    Attached = 1,
}

impl AlaDifficultyGradient {
    pub(crate) const ALL: &[Self] = &[Self::Detached, Self::Attached];
}

/// What the logits are when they reach the loss.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaInput {
    /// Not yet scaled (cosines for the margin losses): the loss multiplies by the scale.
    Cosine = 0,
    /// Scaled already: the loss only adds the margin.
    PreScaled = 1,
}

impl AlaInput {
    pub(crate) const ALL: &[Self] = &[Self::Cosine, Self::PreScaled];
}

/// How row losses become one number.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaReduction {
    /// The weighted mean over the rows that count.
    Mean = 0,
    /// The sum.
    Sum = 1,
    /// Each row for itself; a summary's loss is the sum.
    None = 2,
}

impl AlaReduction {
    pub(crate) const ALL: &[Self] = &[Self::Mean, Self::Sum, Self::None];
}

/// What a class without a training sample is.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaZeroCounts {
    /// An error.
    Reject = 0,
    /// A class of one sample.
    TreatAsOne = 1,
}

impl AlaZeroCounts {
    pub(crate) const ALL: &[Self] = &[Self::Reject, Self::TreatAsOne];
}

/// The type of logits and gradient.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaElement {
    /// 32-bit float.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of a 32-bit float.
    Bf16 = 2,
    /// 64-bit float; on the CPU alone.
    F64 = 3,
}

impl AlaElement {
    pub(crate) const ALL: &[Self] = &[Self::F32, Self::F16, Self::Bf16, Self::F64];
}

/// The type of labels.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaLabel {
    /// int64_t.
    I64 = 0,
    /// int32_t.
    I32 = 1,
    /// uint32_t.
    U32 = 2,
    /// uint8_t.
    U8 = 3,
}

impl AlaLabel {
    pub(crate) const ALL: &[Self] = &[Self::I64, Self::I32, Self::U32, Self::U8];
}

/// `$body`, with `$L` for the Rust type of labels that an [`AlaLabel`] stands for.
macro_rules! for_label {
    ($label:expr, $L:ident => $body:expr) => {
        match $label {
            $crate::numbers::AlaLabel::I64 => {
                type $L = i64;
                $body
            }
            $crate::numbers::AlaLabel::I32 => {
                type $L = i32;
                $body
            }
            $crate::numbers::AlaLabel::U32 => {
                type $L = u32;
                $body
            }
            $crate::numbers::AlaLabel::U8 => {
                type $L = u8;
                $body
            }
        }
    };
}
pub(crate) use for_label;

/// The gradient that arrives from what was computed with the loss.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaUpstream {
    /// 1, and nothing is read.
    One = 0,
    /// One number: the gradient of the reduced loss.
    Scalar = 1,
    /// A number for each row, `[N]`; only with ALA_REDUCTION_NONE.
    PerRow = 2,
}

impl AlaUpstream {
    pub(crate) const ALL: &[Self] = &[Self::One, Self::Scalar, Self::PerRow];
}

/// The prediction of a row that has none. It is no class.
pub const ALA_NO_CLASS: u32 = 4_294_967_295;

/// What a mean divides the rows' summed losses by; but for the first only with ALA_REDUCTION_MEAN.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaDivisor {
    /// The weights of the rows that count, added up: PyTorch's rule.
    Weights = 0,
    /// The number of rows that count.
    Rows = 1,
    /// The number given, finite and above 0; 0 too where no row counts.
    Given = 2,
}

impl AlaDivisor {
    pub(crate) const ALL: &[Self] = &[Self::Weights, Self::Rows, Self::Given];
}

/// How much of a mixed row is its first label's: L = lambda L(a) + (1 - lambda) L(b), with lambda
/// in [0, 1].
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlaLambda {
    /// Rows have one label.
    None = 0,
    /// Rows have two; lambda is the same for every row.
    Scalar = 1,
    /// Rows have two, and a lambda each, `[N]`.
    PerRow = 2,
}

impl AlaLambda {
    pub(crate) const ALL: &[Self] = &[Self::None, Self::Scalar, Self::PerRow];
}

/// The entry that a number stands for; they are numbered from 0 in their order.
pub(crate) fn entry<E: Copy>(name: &str, all: &[E], number: u32) -> Result<E, Failure> {
    let entry = usize::try_from(number)
        .ok()
        .and_then(|place| all.get(place));
    entry.copied().ok_or_else(|| {
        Failure::new(
            AlaStatus::Argument,
            format!("{name} is {number}: it must be at most {}", all.len() - 1),
        )
    })
}

/// A flag: 0 or 1.
pub(crate) fn flag(name: &str, number: u32) -> Result<bool, Failure> {
    entry(name, &[false, true], number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_numbered_in_their_order() {
        fn check<E: Copy>(all: &[E], number: impl Fn(E) -> u32) {
            for (place, &entry) in all.iter().enumerate() {
                assert_eq!(number(entry) as usize, place);
            }
        }
        check(AlaObjective::ALL, |e| e as u32);
        check(AlaQuantityLog::ALL, |e| e as u32);
        check(AlaDifficultyGradient::ALL, |e| e as u32);
        check(AlaInput::ALL, |e| e as u32);
        check(AlaReduction::ALL, |e| e as u32);
        check(AlaZeroCounts::ALL, |e| e as u32);
        check(AlaElement::ALL, |e| e as u32);
        check(AlaLabel::ALL, |e| e as u32);
        check(AlaUpstream::ALL, |e| e as u32);
        check(AlaDivisor::ALL, |e| e as u32);
        check(AlaLambda::ALL, |e| e as u32);
        assert!(entry("element", AlaElement::ALL, 4).is_err());
    }

    #[test]
    fn no_class_is_the_crate_s() {
        assert_eq!(ALA_NO_CLASS, ala_loss::NO_CLASS);
    }
}
