//! Where a loss is bound: once on each device that its steps run on.

use std::sync::{Arc, Mutex, PoisonError};

use ala_loss::cuda::{CudaLoss, Workspace, driver_error};
use ala_loss::{Error as LossError, Loss};
use burn_cubecl::CubeDevice;
use cudarc::driver::CudaStream;

use super::launch::{Held, Work};
use crate::error::Error;

/// What the steps of a module, and of its clones, share.
#[derive(Clone, Debug, Default)]
pub struct Bound(Arc<Mutex<Vec<Place>>>);

/// What a device's steps need. They wait for one another, as each waits for the device.
#[derive(Debug)]
pub(super) struct Place {
    ordinal: usize,
    pub(super) loss: CudaLoss,
    pub(super) stream: Arc<CudaStream>,
    pub(super) workspace: Workspace,
}

impl Bound {
    /// Runs a step and waits for it.
    pub(super) fn run(&self, loss: &Loss, work: &Work<'_>) -> Result<(), Error> {
        let ordinal = ordinal_of(&work.logits.device)?;
        // Before the lock is taken: others need not wait for what burn has still to do.
        let held = Held::of(work, loss.classes())?;
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place(&mut places, loss, ordinal, work.rows())?;
        let done = held.launch(place);
        if done.as_ref().is_err_and(|error| !is_the_batch_s(error)) {
            // After a failure nothing that the place holds is to be relied on.
            places.retain(|place| place.ordinal != ordinal);
        }
        done
    }
}

/// What is wrong with a batch says nothing against the device.
fn is_the_batch_s(error: &Error) -> bool {
    matches!(
        error,
        Error::Loss(
            LossError::Label { .. }
                | LossError::SecondLabel { .. }
                | LossError::RowParameter { .. }
                | LossError::Parameter { .. }
                | LossError::Misplaced { .. }
        )
    )
}

fn ordinal_of(device: &CubeDevice) -> Result<usize, Error> {
    match device {
        CubeDevice::Cuda(device) => Ok(device.index),
        other => Err(Error::Device(format!("{other:?}"))),
    }
}

fn place<'p>(
    places: &'p mut Vec<Place>,
    loss: &Loss,
    ordinal: usize,
    rows: usize,
) -> Result<&'p mut Place, LossError> {
    let found = places.iter().position(|place| place.ordinal == ordinal);
    let index = match found {
        Some(index) => index,
        None => {
            // The device's primary context, which cubecl takes too: its addresses are valid there.
            let context = ala_loss::cuda::context(ordinal)?;
            let stream = context.new_stream().map_err(driver_error)?;
            let loss = loss.bind(&context)?;
            let workspace = loss.workspace(&stream, rows)?;
            places.push(Place {
                ordinal,
                loss,
                stream,
                workspace,
            });
            places.len() - 1
        }
    };
    let place = &mut places[index];
    if place.workspace.capacity() < rows {
        place.workspace = place
            .loss
            .workspace(&place.stream, rows.next_power_of_two())?;
    }
    Ok(place)
}
