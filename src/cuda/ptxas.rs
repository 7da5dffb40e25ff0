//! What the compiler said of the kernels.

/// What `ptxas -v` said of each kernel on each architecture when this crate was compiled:
/// registers, spills, static shared memory. `None` where the build found no nvcc.
///
/// ```
/// if let Some(report) = ala_loss::cuda::instruments::ptxas_report() {
///     assert!(report.contains("bytes spill stores"));
/// }
/// ```
pub fn ptxas_report() -> Option<&'static str> {
    REPORT
}

#[cfg(ala_kernels)]
const REPORT: Option<&str> = Some(include_str!(concat!(env!("ALA_KERNELS"), "/ptxas.txt")));
#[cfg(not(ala_kernels))]
const REPORT: Option<&str> = None;
