//! What the warps of a launch share.
use super::chain::Chains;
use super::global::Global;
use super::module::LoadedModule;
use super::scene::{Order, Scene};
use crate::code::operation::Code;
use crate::counters::Counters;
use crate::memory::Memory;

/// What the warps of a launch work on.
pub(crate) struct Context<'a> {
    pub(crate) module: &'a LoadedModule,
    pub(crate) code: &'a Code,
    pub(crate) scene: Scene<'a>,
    pub(crate) memory: &'a mut Memory,
    pub(crate) global: Global,
    pub(crate) params: &'a [u8],
    pub(crate) counters: Counters,
    pub(crate) order: Order,
    /// Where the launch is asked for them.
    pub(crate) chains: Option<Chains>,
    /// The allocation last used.
    pub(crate) hint: usize,
    /// Grows whenever something happens that a waiting warp may wait for.
    pub(crate) progress: u64,
}
