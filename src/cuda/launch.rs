//! The one place where kernels are launched: parameters in, driver calls out.

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::abi::{
    ALA_COUNTED, ALA_FOCAL, ALA_HAS_IGNORE, ALA_REDUCTION_MEAN, ALA_REDUCTION_SUM,
    ALA_UPSTREAM_PER_ROW, ALA_WEIGHTED, AlaParams,
};
use super::error::driver;
use super::kernels::{Kernel, Kernels, THREADS, TIERS, Tier};
use crate::Error;
use crate::loss::{Loss, Reduction};

/// The upstream gradient of a [`RawStep`]: device addresses of `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RawUpstream {
    /// 1.
    #[default]
    One,
    /// One number.
    Scalar(u64),
    /// A number for each row, `[N]`; only with [`Reduction::None`](crate::Reduction::None).
    PerRow(u64),
}

/// A step by device addresses, for callers that hold no cudarc slices. Strides are in elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawStep {
    /// Rows `N`.
    pub rows: usize,
    /// Logits `[N, C]`.
    pub logits: u64,
    /// At least `C`.
    pub logits_stride: usize,
    /// Labels `[N]`.
    pub labels: u64,
    /// Where the gradient goes, or `None`; the logits' own address and stride write it over them.
    pub gradient: Option<u64>,
    /// At least `C`.
    pub gradient_stride: usize,
    /// Where the row losses go (`f32`, `[N]`); into the workspace where `None`.
    pub row_losses: Option<u64>,
    /// Where the top-1 hits go (`u8`, `[N]`), or `None`.
    pub hits: Option<u64>,
    /// The upstream gradient.
    pub upstream: RawUpstream,
    /// Multiplies the gradient before it is rounded; 1 for none.
    pub gradient_scale: f32,
}

/// Device addresses that belong to the loss and its workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnAddresses {
    pub(super) targets: u64,
    pub(super) others: u64,
    pub(super) state: u64,
    pub(super) row_losses: u64,
}

/// What of the table is passed by value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    pub(super) slope: f32,
    pub(super) weighted: bool,
}

pub(super) fn parameters(
    loss: &Loss,
    constants: Constants,
    own: OwnAddresses,
    step: &RawStep,
    label_type: u32,
) -> AlaParams {
    let mut flags = 0;
    let mut set = |bit: u32, on: bool| {
        if on {
            flags |= bit;
        }
    };
    set(ALA_HAS_IGNORE, loss.ignore_label().is_some());
    set(ALA_WEIGHTED, constants.weighted);
    set(
        ALA_UPSTREAM_PER_ROW,
        matches!(step.upstream, RawUpstream::PerRow(_)),
    );
    // With gamma 0 focal loss is cross-entropy, and 0^0 is not to be taken on the device.
    set(
        ALA_FOCAL,
        loss.table().focal_gamma().is_some_and(|gamma| gamma > 0.0),
    );
    let counted = loss.ignore_label().is_some() || constants.weighted;
    set(ALA_COUNTED, loss.reduction() == Reduction::Mean && counted);
    AlaParams {
        logits: step.logits,
        gradient: step.gradient.unwrap_or(0),
        labels: step.labels,
        targets: own.targets,
        others: own.others,
        upstream: match step.upstream {
            RawUpstream::One => 0,
            RawUpstream::Scalar(address) | RawUpstream::PerRow(address) => address,
        },
        row_losses: step.row_losses.unwrap_or(own.row_losses),
        hits: step.hits.unwrap_or(0),
        state: own.state,
        scratch: 0,
        row_scratch: 0,
        rows: step.rows as u64,
        logits_stride: step.logits_stride as u64,
        gradient_stride: step.gradient_stride as u64,
        ignore_label: loss.ignore_label().unwrap_or(0),
        classes: loss.classes() as u32,
        label_type,
        reduction: match loss.reduction() {
            Reduction::Mean => ALA_REDUCTION_MEAN,
            Reduction::Sum | Reduction::None => ALA_REDUCTION_SUM,
        },
        flags,
        slope: constants.slope,
        focal_gamma: loss.table().focal_gamma().unwrap_or(0.0) as f32,
        gradient_scale: step.gradient_scale,
        reserved: 0,
    }
}

/// Enqueues loss and gradient: one kernel, two where the mean's divisor is counted first.
///
/// # Safety
/// Every address in `parameters` must be valid for its shape, and stay so until the stream has passed the launch; the
/// stream and the kernels must be of the context that is current on this thread.
pub(super) unsafe fn fused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    if parameters.flags & ALA_COUNTED != 0 {
        // SAFETY: the caller's promise.
        unsafe { launch(kernels.count, Shape::plain(1), stream, parameters)? };
    }
    let contiguous = parameters.logits_stride == u64::from(parameters.classes)
        && (parameters.gradient == 0 || parameters.gradient_stride == parameters.logits_stride);
    let index = Tier::of(parameters.classes, parameters.others != 0, contiguous);
    let tier = TIERS[index];
    let shape = Shape {
        blocks: blocks(kernels, parameters.rows.div_ceil(tier.rows.into())),
        threads: tier.threads,
    };
    // SAFETY: the caller's promise.
    unsafe { launch(kernels.tiers[index], shape, stream, parameters) }
}

/// The same by the unfused baseline, one kernel an operation.
///
/// # Safety
/// As [`fused`], with `scratch` and `row_scratch` set and a gradient that is not the logits.
pub(super) unsafe fn unfused(
    kernels: &Kernels,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    if parameters.flags & ALA_COUNTED != 0 {
        // SAFETY: the caller's promise.
        unsafe { launch(kernels.count, Shape::plain(1), stream, parameters)? };
    }
    for (&kernel, (step, _)) in kernels.unfused.iter().zip(super::kernels::UNFUSED) {
        let blocks = match step {
            "reduce" => 1,
            "gradient" if parameters.gradient == 0 => continue,
            _ => blocks(kernels, parameters.rows),
        };
        // SAFETY: the caller's promise.
        unsafe { launch(kernel, Shape::plain(blocks), stream, parameters)? };
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    blocks: u32,
    threads: u32,
}

impl Shape {
    fn plain(blocks: u32) -> Self {
        Self {
            blocks,
            threads: THREADS,
        }
    }
}

/// As many blocks as there is work for, up to several waves of the device; at least one, which also settles a batch
/// without rows.
fn blocks(kernels: &Kernels, work: u64) -> u32 {
    const WAVES: u32 = 8;
    let most = kernels.multiprocessors.saturating_mul(WAVES);
    u32::try_from(work).unwrap_or(u32::MAX).clamp(1, most)
}

/// # Safety
/// As [`fused`].
unsafe fn launch(
    kernel: Kernel,
    shape: Shape,
    stream: sys::CUstream,
    parameters: &AlaParams,
) -> Result<(), Error> {
    // The driver copies the parameters during the call and writes to none of them.
    let mut arguments = [std::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes one AlaParams by value; the rest is the caller's promise.
    unsafe {
        result::launch_kernel(
            kernel.0,
            (shape.blocks, 1, 1),
            (shape.threads, 1, 1),
            0,
            stream,
            &mut arguments,
        )
    }
    .map_err(driver("cuLaunchKernel"))
}
