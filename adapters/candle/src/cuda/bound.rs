//! A loss bound to devices, and the workspaces of those who enqueue its steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use ala_loss::Loss;
use ala_loss::cuda::{CudaLoss, Workspace, driver_error};
use candle_core::cuda::DeviceId;
use candle_core::cuda::cudarc::driver::CudaStream;
use candle_core::cuda::cudarc::driver::sys::CUstreamCaptureStatus;
use candle_core::{CudaDevice, Error, Result};

pub(super) type LossResult<T> = std::result::Result<T, ala_loss::Error>;

/// A loss, and where it is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) loss: Loss,
    places: Mutex<Vec<Place>>,
}

/// What a device's steps need that one thread enqueues: candle's default stream is each thread's
/// own, so that steps of two threads may overlap.
#[derive(Debug)]
struct Place {
    device: DeviceId,
    thread: ThreadId,
    /// One for all places of a context.
    loss: Arc<CudaLoss>,
    workspace: Workspace,
}

impl Bound {
    pub(crate) fn new(loss: Loss) -> Self {
        Self {
            loss,
            places: Mutex::default(),
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `step` with what this thread's steps on the device need, for up to `rows` rows.
    pub(super) fn enqueue(
        &self,
        device: &CudaDevice,
        rows: usize,
        step: impl FnOnce(&CudaLoss, &Arc<CudaStream>, &mut Workspace) -> LossResult<()>,
    ) -> Result<()> {
        let stream = device.cuda_stream();
        let mut places = self.places();
        let place = self
            .place(&mut places, device, &stream, rows)
            .map_err(Error::wrap)?;
        step(&place.loss, &stream, &mut place.workspace).map_err(Error::wrap)
    }

    fn place<'p>(
        &self,
        places: &'p mut Vec<Place>,
        device: &CudaDevice,
        stream: &Arc<CudaStream>,
        rows: usize,
    ) -> LossResult<&'p mut Place> {
        let thread = thread::current().id();
        let found = places
            .iter()
            .position(|place| place.device == device.id() && place.thread == thread);
        let index = match found {
            Some(index) => index,
            None => {
                let context = stream.context();
                let bound = places.iter().find(|place| place.loss.context() == context);
                let loss = match bound {
                    Some(place) => Arc::clone(&place.loss),
                    None => Arc::new(self.loss.bind(context)?),
                };
                places.push(Place {
                    device: device.id(),
                    thread,
                    workspace: loss.workspace(stream, rows)?,
                    loss,
                });
                places.len() - 1
            }
        };
        let place = &mut places[index];
        if place.workspace.capacity() < rows {
            // What its steps met is told before it goes.
            let told = place.workspace.read(stream);
            place.workspace = place.loss.workspace(stream, rows.next_power_of_two())?;
            told?;
        }
        Ok(place)
    }

    /// Tells of a label out of range that an earlier step of this thread met, if that is known.
    pub(super) fn poll(&self, device: &CudaDevice) -> Result<()> {
        let stream = device.cuda_stream();
        // Asking is nothing that a graph could hold.
        if stream.capture_status().map_err(Error::wrap)?
            != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
        {
            return Ok(());
        }
        let thread = thread::current().id();
        let mut places = self.places();
        let place = places
            .iter_mut()
            .find(|place| place.device == device.id() && place.thread == thread);
        if let Some(place) = place {
            place.workspace.poll(&stream).map_err(Error::wrap)?;
        }
        Ok(())
    }

    /// Waits for the device's steps, of any thread, and tells the first label out of range.
    pub(crate) fn check(&self, device: &CudaDevice) -> Result<()> {
        let stream = device.cuda_stream();
        let mut places = self.places();
        // Of other threads too, whose streams this thread cannot name.
        stream.context().synchronize().map_err(driver)?;
        let mut told = Ok(());
        for place in places
            .iter_mut()
            .filter(|place| place.device == device.id())
        {
            told = told.and(place.workspace.read(&stream).map(drop));
        }
        told.map_err(Error::wrap)
    }
}

/// Without calling the driver for its words, which panics where there is none.
fn driver(error: candle_core::cuda::cudarc::driver::DriverError) -> Error {
    Error::wrap(driver_error(error))
}
