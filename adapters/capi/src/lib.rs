//! The loss op for C and for what calls C: create a loss, evaluate it on the host, or bind it to a
//! CUDA context, launch it on a stream of the caller's and read the result.
//!
//! The interface is `include/ala_loss.h`, made from these sources. From Rust use `ala_loss`
//! itself.
//!
//! Every entry runs behind [`status::guarded`]: an error becomes an [`AlaStatus`] and a text, and
//! so does a panic. What pointers are asked before they are used is in `pointers`.

mod cpu;
mod cuda;
mod given;
mod loss;
mod numbers;
mod pointers;
#[doc(hidden)]
pub mod status;
mod version;

pub use cpu::{AlaCpuStep, ala_divisor, ala_evaluate};
pub use cuda::{
    AlaCudaLoss, AlaCudaStep, AlaCudaWorkspace, ala_cuda_bind, ala_cuda_bind_current,
    ala_cuda_destroy, ala_cuda_divisor, ala_cuda_launch, ala_cuda_load, ala_cuda_load_recipes,
    ala_cuda_poll, ala_cuda_probe, ala_cuda_read, ala_cuda_set_counts, ala_cuda_workspace_create,
    ala_cuda_workspace_destroy, ala_cuda_workspace_reset,
};
pub use loss::{
    AlaLoss, AlaLossOptions, AlaSummary, ala_loss_classes, ala_loss_create, ala_loss_destroy,
    ala_loss_with_counts,
};
pub use numbers::{
    ALA_NO_CLASS, AlaDifficultyGradient, AlaDivisor, AlaElement, AlaInput, AlaLabel, AlaLambda,
    AlaObjective, AlaQuantityLog, AlaReduction, AlaUpstream, AlaZeroCounts,
};
pub use status::{AlaStatus, ala_last_error};
pub use version::{ALA_VERSION, ala_version};
