//! Tables and charts of the records.

use std::io::Write;
use std::path::{Path, PathBuf};

use ala_loss_gpu::Failure;

pub(crate) fn summary(_folder: &Path, _output: &mut impl Write) -> Result<(), Failure> {
    Ok(())
}

pub(crate) fn write(_folders: &[PathBuf], _docs: &Path, _dry: bool) -> Result<(), Failure> {
    Ok(())
}
