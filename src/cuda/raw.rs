//! Steps by device addresses, on any stream of a loss's context.

use cudarc::driver::sys;

use super::bound::{CudaLoss, check_capacity, check_lambda, check_skip, not_given};
use super::element::{CudaElement, CudaLabel};
use super::error::CudaError;
use super::launch::{OwnAddresses, RawStep};
use super::workspace::Workspace;
use crate::call::{Divisor, Lambda, Upstream};
use crate::error::Error;

impl CudaLoss {
    /// Enqueues a step given by device addresses on any stream of this context.
    ///
    /// # Errors
    /// [`Error::Stride`], [`CudaError::Address`], [`CudaError::WorkspaceTooSmall`],
    /// [`Error::UpstreamNeedsNoReduction`], [`CudaError::Driver`]. Nothing is launched then.
    ///
    /// # Safety
    /// Every address must be valid for its shape and element type, in this context, until the
    /// stream has passed the launch, as must this loss and the workspace; no buffer may overlap
    /// another but a gradient that is given the logits' own address and stride; `stream` must be a
    /// stream of this context.
    pub unsafe fn launch_raw<T: CudaElement, L: CudaLabel>(
        &self,
        stream: sys::CUstream,
        step: &RawStep,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let classes = self.loss().classes();
        for (name, stride) in [
            ("logits", step.logits_stride),
            ("gradient", step.gradient_stride),
        ] {
            if stride < classes && (name == "logits" || step.gradient.is_some()) {
                return Err(Error::Stride {
                    name,
                    stride,
                    classes,
                });
            }
        }
        let (upstream, per_row) = match step.upstream {
            Upstream::One => (None, false),
            Upstream::Scalar(address) => (Some(address), false),
            Upstream::PerRow(address) => (Some(address), true),
        };
        self.check_upstream(per_row)?;
        self.check_divisor(step.divisor)?;
        check_skip(step.skip_if_upstream, &step.upstream)?;
        let given = match step.divisor {
            Divisor::Given(address) => Some(address),
            Divisor::Weights | Divisor::Rows => None,
        };
        let element = align_of::<T>() as u64;
        let addresses = [
            ("logits", Some(step.logits), element),
            ("gradient", step.gradient, element),
            ("row losses", step.row_losses, 4),
            ("hits", step.hits, 1),
            ("loss", step.loss, 4),
            ("upstream gradient", upstream, 4),
            ("divisor", given, 4),
            ("predictions", step.predictions, 4),
            ("class counts", step.class_counts, 8),
        ];
        check_addresses(step.rows, targets_of::<L>(step)?)?;
        check_addresses(step.rows, addresses)?;
        check_capacity(workspace, step.rows)?;
        self.make_current()?;
        let own = self.own_addresses(workspace);
        let recipe = self.recipe::<L>(own, step);
        let steps = step.steps(self.loss());
        // SAFETY: the caller's promise; the context was made current above.
        unsafe { self.launch_fused::<T>(stream, steps, &recipe, step.overlap)? };
        Ok(())
    }

    /// [`divisor`](Self::divisor) by device addresses, on any stream of this context: one `f32` to
    /// `divisor`. Of the step the rows, labels, second labels, row weights and what its divisor is
    /// are read.
    ///
    /// # Errors
    /// [`CudaError::Address`], [`CudaError::WorkspaceTooSmall`], [`Error::Misplaced`] where the
    /// step gives a divisor already, [`Error::Parameter`] for a lambda, [`CudaError::Driver`].
    /// Nothing is launched then.
    ///
    /// # Safety
    /// As [`launch_raw`](Self::launch_raw), of what is read and of `divisor`.
    pub unsafe fn divisor_raw<L: CudaLabel>(
        &self,
        stream: sys::CUstream,
        step: &RawStep,
        divisor: u64,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let counted = RawStep {
            mixed: step.mixed,
            row_weights: step.row_weights,
            divisor: not_given(step.divisor)?,
            ..RawStep::new(step.rows, self.loss().classes(), 0, step.labels)
        };
        let of_rows = targets_of::<L>(&counted)?;
        check_addresses(step.rows, of_rows)?;
        check_addresses(step.rows, [("divisor", Some(divisor), 4)])?;
        check_capacity(workspace, step.rows)?;
        self.make_current()?;
        let own = OwnAddresses {
            row_losses: 0,
            ..self.own_addresses(workspace)
        };
        // SAFETY: the caller's promise; the context was made current above.
        unsafe { self.count::<L>(stream, own, &counted, divisor) }
    }
}

/// A buffer's name, its address where it is given, and the alignment of what it holds.
type Addressed = (&'static str, Option<u64>, u64);

/// What rows are held against, and what they weigh.
fn targets_of<L: CudaLabel>(step: &RawStep) -> Result<[Addressed; 4], Error> {
    let lambda = match step.mixed {
        Some(mixed) => {
            check_lambda(mixed.lambda)?;
            match mixed.lambda {
                Lambda::Scalar(_) => None,
                Lambda::PerRow(address) => Some(address),
            }
        }
        None => None,
    };
    let second = step.mixed.map(|mixed| mixed.labels);
    let second_alignment = step.mixed.map_or(1, |mixed| mixed.label_type.alignment());
    Ok([
        ("labels", Some(step.labels), align_of::<L>() as u64),
        ("second labels", second, second_alignment),
        ("lambda", lambda, 4),
        ("row weights", step.row_weights, 4),
    ])
}

fn check_addresses<const N: usize>(rows: usize, addresses: [Addressed; N]) -> Result<(), Error> {
    for (buffer, address, alignment) in addresses {
        // Without rows nothing but the loss and the divisor is touched.
        let touched = rows > 0 || buffer == "loss" || buffer == "divisor";
        if let Some(address) = address.filter(|_| touched)
            && (address == 0 || address % alignment != 0)
        {
            return Err(CudaError::Address {
                buffer,
                address,
                alignment,
            }
            .into());
        }
    }
    Ok(())
}
