//! What the assembler said of the kernels.

use super::image::{COMPILED, prebuilt_report};

/// What `ptxas -v` said of each kernel on each architecture: registers, spills, static shared
/// memory. Of the instruments only where the build found nvcc.
///
/// ```
/// let report = ala_loss::cuda::instruments::ptxas_report();
/// assert!(report.contains("bytes spill stores"));
/// ```
pub fn ptxas_report() -> String {
    prebuilt_report() + COMPILED.report
}
