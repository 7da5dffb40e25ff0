//! A loss, from its options.

use std::mem::offset_of;

use ala_loss::{
    Ala, ClassCounts, DifficultyGradient, Input, Loss, Objective, QuantityLog, Reduction, Summary,
    ZeroCounts,
};

use crate::numbers::{
    AlaDifficultyGradient, AlaInput, AlaObjective, AlaQuantityLog, AlaReduction, AlaZeroCounts,
    entry, flag,
};
use crate::pointers::{self, Growing};
use crate::status::{AlaStatus, Failure, guarded};

/// A loss: objective, class counts, scale, reduction, ignore label and weights. Made by
/// ala_loss_create, given back by ala_loss_destroy.
pub struct AlaLoss {
    pub(crate) loss: Loss,
    /// For new class counts.
    pub(crate) zero_counts: ZeroCounts,
}

impl std::fmt::Debug for AlaLoss {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.loss.fmt(formatter)
    }
}

/// What a loss is made of, beside its class counts. Set all to 0, then size and what is wanted. A
/// parameter that the objective does not take must be 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AlaLossOptions {
    /// sizeof(AlaLossOptions).
    pub size: usize,
    /// An AlaObjective.
    pub objective: u32,
    /// An AlaInput. The margin losses take cosines that are not yet scaled.
    pub input: u32,
    /// An AlaReduction.
    pub reduction: u32,
    /// An AlaZeroCounts.
    pub zero_counts: u32,
    /// An AlaQuantityLog.
    pub quantity_log: u32,
    /// An AlaDifficultyGradient.
    pub difficulty_gradient: u32,
    /// 1 where rows with ignore_label have loss and gradient 0 and are left out of the mean, else
    /// 0.
    pub has_ignore_label: u32,
    /// 0.
    pub reserved: u32,
    /// The label of ignored rows.
    pub ignore_label: i64,
    /// The logit scale s; 0 for the objective's own, which is 30 for the losses on cosines and 1
    /// for the others.
    pub scale: f64,
    /// At least 0.
    pub tau: f64,
    /// At least 0; 2 is usual for focal loss.
    pub gamma: f64,
    /// In [0, 1); 0.9999 is usual.
    pub beta: f64,
    /// At least 0.
    pub k: f64,
    /// At least 0; 0.5 is usual for LDAM, 0.35 for CosFace.
    pub margin: f64,
    /// A weight for each class, `[C]`, finite and at least 0, which multiplies the objective's own;
    /// or null. Copied.
    pub class_weights: *const f64,
    /// Label smoothing in [0, 1], PyTorch's definition on the logits with the margin; 0 for none,
    /// which is all that focal loss takes.
    pub label_smoothing: f64,
}

// SAFETY: `repr(C)`, its size, then numbers and a raw pointer.
unsafe impl Growing for AlaLossOptions {
    const NAME: &'static str = "AlaLossOptions";
    const FIRST_SIZE: usize = offset_of!(Self, class_weights) + size_of::<*const f64>();
}

/// The result of a step.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlaSummary {
    /// The reduced loss; the rows' sum under ALA_REDUCTION_NONE.
    pub loss: f64,
    /// The counted rows' summed weights: what the mean divides by, unless divisor_kind says
    /// otherwise.
    pub total_weight: f64,
    /// Rows that were not ignored.
    pub counted_rows: u64,
}

impl From<Summary> for AlaSummary {
    fn from(summary: Summary) -> Self {
        Self {
            loss: summary.loss,
            total_weight: summary.total_weight,
            counted_rows: summary.counted_rows as u64,
        }
    }
}

/// A parameter that the objective does not take must not be given.
fn objective(options: &AlaLossOptions) -> Result<Objective, Failure> {
    let objective = entry("objective", AlaObjective::ALL, options.objective)?;
    let log = match entry("quantity_log", AlaQuantityLog::ALL, options.quantity_log)? {
        AlaQuantityLog::Base2 => QuantityLog::Base2,
        AlaQuantityLog::Natural => QuantityLog::Natural,
    };
    let gradient = match entry(
        "difficulty_gradient",
        AlaDifficultyGradient::ALL,
        options.difficulty_gradient,
    )? {
        AlaDifficultyGradient::Detached => DifficultyGradient::Detached,
        AlaDifficultyGradient::Attached => DifficultyGradient::Attached,
    };
    let &AlaLossOptions {
        tau,
        gamma,
        beta,
        k,
        margin,
        ..
    } = options;
    let (made, takes): (_, &[&str]) = match objective {
        AlaObjective::Ala => (
            Objective::Ala(Ala {
                log,
                gradient,
                log_prior_tau: tau,
            }),
            &["quantity_log", "difficulty_gradient", "tau"],
        ),
        AlaObjective::QuantityOnly => (Objective::QuantityOnly { log }, &["quantity_log"]),
        AlaObjective::DifficultyOnly => (
            Objective::DifficultyOnly { k, gradient },
            &["k", "difficulty_gradient"],
        ),
        AlaObjective::CrossEntropy => (Objective::CrossEntropy, &[]),
        AlaObjective::ClassBalanced => (Objective::ClassBalanced { beta }, &["beta"]),
        AlaObjective::Focal => (Objective::Focal { gamma }, &["gamma"]),
        AlaObjective::BalancedSoftmax => (Objective::BalancedSoftmax, &[]),
        AlaObjective::LogitAdjustment => (Objective::LogitAdjustment { tau }, &["tau"]),
        AlaObjective::VectorScaling => (Objective::VectorScaling { gamma, tau }, &["gamma", "tau"]),
        AlaObjective::Ldam => (Objective::Ldam { max_margin: margin }, &["margin"]),
        AlaObjective::CosFace => (Objective::CosFace { margin }, &["margin"]),
    };
    for (name, given) in [
        ("quantity_log", options.quantity_log != 0),
        ("difficulty_gradient", options.difficulty_gradient != 0),
        ("tau", tau != 0.0),
        ("gamma", gamma != 0.0),
        ("beta", beta != 0.0),
        ("k", k != 0.0),
        ("margin", margin != 0.0),
    ] {
        if given && !takes.contains(&name) {
            return Err(Failure::new(
                AlaStatus::Call,
                format!("{name} is given, and the objective {objective:?} has none: set it to 0"),
            ));
        }
    }
    Ok(made)
}

fn create(
    options: &AlaLossOptions,
    counts: &[u64],
    weights: Option<&[f64]>,
) -> Result<AlaLoss, Failure> {
    let zero_counts = match entry("zero_counts", AlaZeroCounts::ALL, options.zero_counts)? {
        AlaZeroCounts::Reject => ZeroCounts::Reject,
        AlaZeroCounts::TreatAsOne => ZeroCounts::TreatAsOne,
    };
    let counts = ClassCounts::with_zero_policy(counts, zero_counts)?;
    let mut builder = Loss::builder(objective(options)?, &counts)
        .input(match entry("input", AlaInput::ALL, options.input)? {
            AlaInput::Cosine => Input::Cosine,
            AlaInput::PreScaled => Input::PreScaled,
        })
        .reduction(
            match entry("reduction", AlaReduction::ALL, options.reduction)? {
                AlaReduction::Mean => Reduction::Mean,
                AlaReduction::Sum => Reduction::Sum,
                AlaReduction::None => Reduction::None,
            },
        )
        .label_smoothing(options.label_smoothing);
    if options.scale != 0.0 {
        builder = builder.scale(options.scale);
    }
    match flag("has_ignore_label", options.has_ignore_label)? {
        true => builder = builder.ignore_label(options.ignore_label),
        false if options.ignore_label != 0 => {
            return Err(Failure::new(
                AlaStatus::Call,
                "ignore_label is given, and has_ignore_label is 0: set it to 1",
            ));
        }
        false => {}
    }
    if options.reserved != 0 {
        return Err(Failure::new(AlaStatus::Argument, "reserved is not 0"));
    }
    if let Some(weights) = weights {
        builder = builder.class_weights(weights);
    }
    let loss = builder.build()?;
    Ok(AlaLoss { loss, zero_counts })
}

/// Makes a loss of options and class counts and puts it to *out; NULL where that fails. counts has
/// the number of training samples of each class, `[classes]`, each from 1 to 2^53; copied.
///
/// ALA_STATUS_PARAMETER names the count or the parameter that is out of range, ALA_STATUS_CALL one
/// that the objective does not take, ALA_STATUS_ARGUMENT a number that an enum does not have.
///
/// # Safety
/// Pointers that are not null must be valid for their sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_loss_create(
    options: *const AlaLossOptions,
    counts: *const u64,
    classes: usize,
    out: *mut *mut AlaLoss,
) -> AlaStatus {
    guarded(|| {
        let make = || {
            // SAFETY: the caller's promise.
            let (options, counts) = unsafe {
                (
                    pointers::growing(options)?,
                    pointers::slice("counts", counts, classes)?,
                )
            };
            let weights = match options.class_weights.is_null() {
                true => None,
                // SAFETY: the caller's promise.
                false => Some(unsafe {
                    pointers::slice("class_weights", options.class_weights, classes)?
                }),
            };
            create(&options, counts, weights)
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::hand_out(out, make) }
    })
}

/// Makes the same loss for other class counts, as they come in online learning, and puts it to
/// *out; NULL where that fails. All options stay as they are, zero_counts and class weights too.
/// counts is as in ala_loss_create. The loss itself stays what it is; for one that is bound there
/// is ala_cuda_set_counts.
///
/// ALA_STATUS_SHAPE where classes is not the loss's, ALA_STATUS_PARAMETER names the count that is
/// out of range.
///
/// # Safety
/// loss must be one that was made and not destroyed; counts valid for its size, out for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_loss_with_counts(
    loss: *const AlaLoss,
    counts: *const u64,
    classes: usize,
    out: *mut *mut AlaLoss,
) -> AlaStatus {
    guarded(|| {
        let make = || {
            // SAFETY: the caller's promise.
            let (loss, counts) = unsafe {
                (
                    pointers::borrowed("loss", loss)?,
                    pointers::slice("counts", counts, classes)?,
                )
            };
            let zero_counts = loss.zero_counts;
            let counts = ClassCounts::with_zero_policy(counts, zero_counts)?;
            let loss = loss.loss.with_counts(&counts)?;
            Ok(AlaLoss { loss, zero_counts })
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::hand_out(out, make) }
    })
}

/// Puts the number of classes C to *classes.
///
/// # Safety
/// loss must be one that was made and not destroyed; classes valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_loss_classes(loss: *const AlaLoss, classes: *mut usize) -> AlaStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (loss, classes) = unsafe {
            (
                pointers::borrowed("loss", loss)?,
                pointers::place("classes", classes)?,
            )
        };
        classes.write(loss.loss.classes());
        Ok(())
    })
}

/// Destroys a loss; nothing where it is null. Losses that are bound from it stay as they are.
///
/// # Safety
/// loss must be one that was made and not destroyed, and no call may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ala_loss_destroy(loss: *mut AlaLoss) -> AlaStatus {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { pointers::take_back("loss", loss) })
}
