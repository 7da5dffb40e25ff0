//! Made from `kernels/abi.h` by bindgen; `tests/abi.rs` says how and catches drift.
#![allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code)]


pub const ALA_NO_ROW: i32 = -1;
pub const ALA_BAD_LABEL: u32 = 0;
pub const ALA_BAD_SECOND_LABEL: u32 = 1;
pub const ALA_BAD_LAMBDA: u32 = 2;
pub const ALA_BAD_WEIGHT: u32 = 3;
pub const ALA_BAD_SHARDS: u32 = 4;
pub const ALA_BAD_BITS: u32 = 8;
pub const ALA_MOST_BLOCKS: u32 = 4096;
pub const ALA_LABEL_U8: u32 = 0;
pub const ALA_LABEL_I32: u32 = 1;
pub const ALA_LABEL_U32: u32 = 2;
pub const ALA_LABEL_I64: u32 = 3;
pub const ALA_REDUCTION_SUM: u32 = 0;
pub const ALA_REDUCTION_MEAN: u32 = 1;
pub const ALA_HAS_IGNORE: u32 = 1;
pub const ALA_COUNTED: u32 = 2;
pub const ALA_WEIGHTED: u32 = 4;
pub const ALA_UPSTREAM_PER_ROW: u32 = 8;
pub const ALA_FOCAL: u32 = 16;
pub const ALA_OUT_OF_PHASE: u32 = 32;
pub const ALA_BY_ROWS: u32 = 64;
pub const ALA_GIVEN: u32 = 128;
pub const ALA_SHARD_WEIGHTS: u32 = 1;
pub const ALA_SHARD_MIXED: u32 = 2;
pub const ALA_SHARD_TOP1: u32 = 4;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaTarget {
    pub extra_slope: f32,
    pub bias: f32,
    pub gradient_slope: f32,
    pub weight: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaTarget"][::core::mem::size_of::<AlaTarget>() - 16usize];
    ["Alignment of AlaTarget"][::core::mem::align_of::<AlaTarget>() - 4usize];
    ["Offset of field: AlaTarget::extra_slope"]
        [::core::mem::offset_of!(AlaTarget, extra_slope) - 0usize];
    ["Offset of field: AlaTarget::bias"][::core::mem::offset_of!(AlaTarget, bias) - 4usize];
    ["Offset of field: AlaTarget::gradient_slope"]
        [::core::mem::offset_of!(AlaTarget, gradient_slope) - 8usize];
    ["Offset of field: AlaTarget::weight"][::core::mem::offset_of!(AlaTarget, weight) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaAffine {
    pub slope: f32,
    pub bias: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaAffine"][::core::mem::size_of::<AlaAffine>() - 8usize];
    ["Alignment of AlaAffine"][::core::mem::align_of::<AlaAffine>() - 4usize];
    ["Offset of field: AlaAffine::slope"][::core::mem::offset_of!(AlaAffine, slope) - 0usize];
    ["Offset of field: AlaAffine::bias"][::core::mem::offset_of!(AlaAffine, bias) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaClasses {
    pub total_weight: f64,
    pub common_weight: f32,
    pub reserved: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaClasses"][::core::mem::size_of::<AlaClasses>() - 16usize];
    ["Alignment of AlaClasses"][::core::mem::align_of::<AlaClasses>() - 8usize];
    ["Offset of field: AlaClasses::total_weight"]
        [::core::mem::offset_of!(AlaClasses, total_weight) - 0usize];
    ["Offset of field: AlaClasses::common_weight"]
        [::core::mem::offset_of!(AlaClasses, common_weight) - 8usize];
    ["Offset of field: AlaClasses::reserved"]
        [::core::mem::offset_of!(AlaClasses, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaWeighed {
    pub slope: f32,
    pub bias: f32,
    pub weight: f32,
    pub slope_weight: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaWeighed"][::core::mem::size_of::<AlaWeighed>() - 16usize];
    ["Alignment of AlaWeighed"][::core::mem::align_of::<AlaWeighed>() - 4usize];
    ["Offset of field: AlaWeighed::slope"][::core::mem::offset_of!(AlaWeighed, slope) - 0usize];
    ["Offset of field: AlaWeighed::bias"][::core::mem::offset_of!(AlaWeighed, bias) - 4usize];
    ["Offset of field: AlaWeighed::weight"][::core::mem::offset_of!(AlaWeighed, weight) - 8usize];
    ["Offset of field: AlaWeighed::slope_weight"]
        [::core::mem::offset_of!(AlaWeighed, slope_weight) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaExact {
    pub slope: f64,
    pub bias: f64,
    pub target_slope: f64,
    pub target_bias: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaExact"][::core::mem::size_of::<AlaExact>() - 32usize];
    ["Alignment of AlaExact"][::core::mem::align_of::<AlaExact>() - 8usize];
    ["Offset of field: AlaExact::slope"][::core::mem::offset_of!(AlaExact, slope) - 0usize];
    ["Offset of field: AlaExact::bias"][::core::mem::offset_of!(AlaExact, bias) - 8usize];
    ["Offset of field: AlaExact::target_slope"]
        [::core::mem::offset_of!(AlaExact, target_slope) - 16usize];
    ["Offset of field: AlaExact::target_bias"]
        [::core::mem::offset_of!(AlaExact, target_bias) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaState {
    pub loss: f64,
    pub total_weight: f64,
    pub counted_rows: u64,
    pub bad_row: u64,
    pub bad_label: i64,
    pub step_bad_row: u64,
    pub blocks_done: u32,
    pub tickets: u32,
    pub disturbed: u64,
    pub divisor: f64,
    pub rounded_divisor: f32,
    pub bad_what: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaState"][::core::mem::size_of::<AlaState>() - 80usize];
    ["Alignment of AlaState"][::core::mem::align_of::<AlaState>() - 8usize];
    ["Offset of field: AlaState::loss"][::core::mem::offset_of!(AlaState, loss) - 0usize];
    ["Offset of field: AlaState::total_weight"]
        [::core::mem::offset_of!(AlaState, total_weight) - 8usize];
    ["Offset of field: AlaState::counted_rows"]
        [::core::mem::offset_of!(AlaState, counted_rows) - 16usize];
    ["Offset of field: AlaState::bad_row"][::core::mem::offset_of!(AlaState, bad_row) - 24usize];
    ["Offset of field: AlaState::bad_label"]
        [::core::mem::offset_of!(AlaState, bad_label) - 32usize];
    ["Offset of field: AlaState::step_bad_row"]
        [::core::mem::offset_of!(AlaState, step_bad_row) - 40usize];
    ["Offset of field: AlaState::blocks_done"]
        [::core::mem::offset_of!(AlaState, blocks_done) - 48usize];
    ["Offset of field: AlaState::tickets"][::core::mem::offset_of!(AlaState, tickets) - 52usize];
    ["Offset of field: AlaState::disturbed"]
        [::core::mem::offset_of!(AlaState, disturbed) - 56usize];
    ["Offset of field: AlaState::divisor"][::core::mem::offset_of!(AlaState, divisor) - 64usize];
    ["Offset of field: AlaState::rounded_divisor"]
        [::core::mem::offset_of!(AlaState, rounded_divisor) - 72usize];
    ["Offset of field: AlaState::bad_what"][::core::mem::offset_of!(AlaState, bad_what) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaTotals {
    pub loss: f64,
    pub weight: f64,
    pub counted: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaTotals"][::core::mem::size_of::<AlaTotals>() - 24usize];
    ["Alignment of AlaTotals"][::core::mem::align_of::<AlaTotals>() - 8usize];
    ["Offset of field: AlaTotals::loss"][::core::mem::offset_of!(AlaTotals, loss) - 0usize];
    ["Offset of field: AlaTotals::weight"][::core::mem::offset_of!(AlaTotals, weight) - 8usize];
    ["Offset of field: AlaTotals::counted"][::core::mem::offset_of!(AlaTotals, counted) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaBlockTotals {
    pub loss: f64,
    pub launch: u64,
    pub weight: f64,
    pub counted: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaBlockTotals"][::core::mem::size_of::<AlaBlockTotals>() - 32usize];
    ["Alignment of AlaBlockTotals"][::core::mem::align_of::<AlaBlockTotals>() - 8usize];
    ["Offset of field: AlaBlockTotals::loss"]
        [::core::mem::offset_of!(AlaBlockTotals, loss) - 0usize];
    ["Offset of field: AlaBlockTotals::launch"]
        [::core::mem::offset_of!(AlaBlockTotals, launch) - 8usize];
    ["Offset of field: AlaBlockTotals::weight"]
        [::core::mem::offset_of!(AlaBlockTotals, weight) - 16usize];
    ["Offset of field: AlaBlockTotals::counted"]
        [::core::mem::offset_of!(AlaBlockTotals, counted) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaPart {
    pub max: f32,
    pub sum: f32,
    pub outdone: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaPart"][::core::mem::size_of::<AlaPart>() - 16usize];
    ["Alignment of AlaPart"][::core::mem::align_of::<AlaPart>() - 4usize];
    ["Offset of field: AlaPart::max"][::core::mem::offset_of!(AlaPart, max) - 0usize];
    ["Offset of field: AlaPart::sum"][::core::mem::offset_of!(AlaPart, sum) - 4usize];
    ["Offset of field: AlaPart::outdone"][::core::mem::offset_of!(AlaPart, outdone) - 8usize];
    ["Offset of field: AlaPart::reserved"][::core::mem::offset_of!(AlaPart, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaRecipePart {
    pub exponents: f32,
    pub weight: f32,
    pub best: f32,
    pub best_class: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaRecipePart"][::core::mem::size_of::<AlaRecipePart>() - 16usize];
    ["Alignment of AlaRecipePart"][::core::mem::align_of::<AlaRecipePart>() - 4usize];
    ["Offset of field: AlaRecipePart::exponents"]
        [::core::mem::offset_of!(AlaRecipePart, exponents) - 0usize];
    ["Offset of field: AlaRecipePart::weight"]
        [::core::mem::offset_of!(AlaRecipePart, weight) - 4usize];
    ["Offset of field: AlaRecipePart::best"][::core::mem::offset_of!(AlaRecipePart, best) - 8usize];
    ["Offset of field: AlaRecipePart::best_class"]
        [::core::mem::offset_of!(AlaRecipePart, best_class) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaBlocks {
    pub totals: [AlaBlockTotals; 4096usize],
    pub parts: [[AlaPart; 4096usize]; 2usize],
    pub recipe_parts: [[AlaRecipePart; 4096usize]; 2usize],
    pub arrived: [u32; 4096usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaBlocks"][::core::mem::size_of::<AlaBlocks>() - 409600usize];
    ["Alignment of AlaBlocks"][::core::mem::align_of::<AlaBlocks>() - 8usize];
    ["Offset of field: AlaBlocks::totals"][::core::mem::offset_of!(AlaBlocks, totals) - 0usize];
    ["Offset of field: AlaBlocks::parts"][::core::mem::offset_of!(AlaBlocks, parts) - 131072usize];
    ["Offset of field: AlaBlocks::recipe_parts"]
        [::core::mem::offset_of!(AlaBlocks, recipe_parts) - 262144usize];
    ["Offset of field: AlaBlocks::arrived"]
        [::core::mem::offset_of!(AlaBlocks, arrived) - 393216usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaParams {
    pub logits: u64,
    pub gradient: u64,
    pub labels: u64,
    pub targets: u64,
    pub others: u64,
    pub exact: u64,
    pub upstream: u64,
    pub row_losses: u64,
    pub hits: u64,
    pub loss: u64,
    pub divisor: u64,
    pub given: u64,
    pub state: u64,
    pub blocks: u64,
    pub rows: u64,
    pub logits_stride: u64,
    pub gradient_stride: u64,
    pub ignore_label: i64,
    pub classes: u32,
    pub label_type: u32,
    pub reduction: u32,
    pub flags: u32,
    pub slope: f32,
    pub focal_gamma: f32,
    pub gradient_factor: f32,
    pub parts: u32,
    pub part_vectors: u32,
    pub launch: u32,
    pub skipped_upstream: f32,
    pub rows_32: u32,
    pub sure_rows: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaParams"][::core::mem::size_of::<AlaParams>() - 200usize];
    ["Alignment of AlaParams"][::core::mem::align_of::<AlaParams>() - 8usize];
    ["Offset of field: AlaParams::logits"][::core::mem::offset_of!(AlaParams, logits) - 0usize];
    ["Offset of field: AlaParams::gradient"][::core::mem::offset_of!(AlaParams, gradient) - 8usize];
    ["Offset of field: AlaParams::labels"][::core::mem::offset_of!(AlaParams, labels) - 16usize];
    ["Offset of field: AlaParams::targets"][::core::mem::offset_of!(AlaParams, targets) - 24usize];
    ["Offset of field: AlaParams::others"][::core::mem::offset_of!(AlaParams, others) - 32usize];
    ["Offset of field: AlaParams::exact"][::core::mem::offset_of!(AlaParams, exact) - 40usize];
    ["Offset of field: AlaParams::upstream"]
        [::core::mem::offset_of!(AlaParams, upstream) - 48usize];
    ["Offset of field: AlaParams::row_losses"]
        [::core::mem::offset_of!(AlaParams, row_losses) - 56usize];
    ["Offset of field: AlaParams::hits"][::core::mem::offset_of!(AlaParams, hits) - 64usize];
    ["Offset of field: AlaParams::loss"][::core::mem::offset_of!(AlaParams, loss) - 72usize];
    ["Offset of field: AlaParams::divisor"][::core::mem::offset_of!(AlaParams, divisor) - 80usize];
    ["Offset of field: AlaParams::given"][::core::mem::offset_of!(AlaParams, given) - 88usize];
    ["Offset of field: AlaParams::state"][::core::mem::offset_of!(AlaParams, state) - 96usize];
    ["Offset of field: AlaParams::blocks"][::core::mem::offset_of!(AlaParams, blocks) - 104usize];
    ["Offset of field: AlaParams::rows"][::core::mem::offset_of!(AlaParams, rows) - 112usize];
    ["Offset of field: AlaParams::logits_stride"]
        [::core::mem::offset_of!(AlaParams, logits_stride) - 120usize];
    ["Offset of field: AlaParams::gradient_stride"]
        [::core::mem::offset_of!(AlaParams, gradient_stride) - 128usize];
    ["Offset of field: AlaParams::ignore_label"]
        [::core::mem::offset_of!(AlaParams, ignore_label) - 136usize];
    ["Offset of field: AlaParams::classes"][::core::mem::offset_of!(AlaParams, classes) - 144usize];
    ["Offset of field: AlaParams::label_type"]
        [::core::mem::offset_of!(AlaParams, label_type) - 148usize];
    ["Offset of field: AlaParams::reduction"]
        [::core::mem::offset_of!(AlaParams, reduction) - 152usize];
    ["Offset of field: AlaParams::flags"][::core::mem::offset_of!(AlaParams, flags) - 156usize];
    ["Offset of field: AlaParams::slope"][::core::mem::offset_of!(AlaParams, slope) - 160usize];
    ["Offset of field: AlaParams::focal_gamma"]
        [::core::mem::offset_of!(AlaParams, focal_gamma) - 164usize];
    ["Offset of field: AlaParams::gradient_factor"]
        [::core::mem::offset_of!(AlaParams, gradient_factor) - 168usize];
    ["Offset of field: AlaParams::parts"][::core::mem::offset_of!(AlaParams, parts) - 172usize];
    ["Offset of field: AlaParams::part_vectors"]
        [::core::mem::offset_of!(AlaParams, part_vectors) - 176usize];
    ["Offset of field: AlaParams::launch"][::core::mem::offset_of!(AlaParams, launch) - 180usize];
    ["Offset of field: AlaParams::skipped_upstream"]
        [::core::mem::offset_of!(AlaParams, skipped_upstream) - 184usize];
    ["Offset of field: AlaParams::rows_32"][::core::mem::offset_of!(AlaParams, rows_32) - 188usize];
    ["Offset of field: AlaParams::sure_rows"]
        [::core::mem::offset_of!(AlaParams, sure_rows) - 192usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaRecipe {
    pub step: AlaParams,
    pub second_labels: u64,
    pub lambda: u64,
    pub row_weights: u64,
    pub predictions: u64,
    pub class_rows: u64,
    pub class_hits: u64,
    pub weighed: u64,
    pub all_classes: u64,
    pub lambda_of_all: f32,
    pub own: f32,
    pub each: f32,
    pub second_label_type: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaRecipe"][::core::mem::size_of::<AlaRecipe>() - 288usize];
    ["Alignment of AlaRecipe"][::core::mem::align_of::<AlaRecipe>() - 8usize];
    ["Offset of field: AlaRecipe::step"][::core::mem::offset_of!(AlaRecipe, step) - 0usize];
    ["Offset of field: AlaRecipe::second_labels"]
        [::core::mem::offset_of!(AlaRecipe, second_labels) - 200usize];
    ["Offset of field: AlaRecipe::lambda"][::core::mem::offset_of!(AlaRecipe, lambda) - 208usize];
    ["Offset of field: AlaRecipe::row_weights"]
        [::core::mem::offset_of!(AlaRecipe, row_weights) - 216usize];
    ["Offset of field: AlaRecipe::predictions"]
        [::core::mem::offset_of!(AlaRecipe, predictions) - 224usize];
    ["Offset of field: AlaRecipe::class_rows"]
        [::core::mem::offset_of!(AlaRecipe, class_rows) - 232usize];
    ["Offset of field: AlaRecipe::class_hits"]
        [::core::mem::offset_of!(AlaRecipe, class_hits) - 240usize];
    ["Offset of field: AlaRecipe::weighed"][::core::mem::offset_of!(AlaRecipe, weighed) - 248usize];
    ["Offset of field: AlaRecipe::all_classes"]
        [::core::mem::offset_of!(AlaRecipe, all_classes) - 256usize];
    ["Offset of field: AlaRecipe::lambda_of_all"]
        [::core::mem::offset_of!(AlaRecipe, lambda_of_all) - 264usize];
    ["Offset of field: AlaRecipe::own"][::core::mem::offset_of!(AlaRecipe, own) - 268usize];
    ["Offset of field: AlaRecipe::each"][::core::mem::offset_of!(AlaRecipe, each) - 272usize];
    ["Offset of field: AlaRecipe::second_label_type"]
        [::core::mem::offset_of!(AlaRecipe, second_label_type) - 276usize];
    ["Offset of field: AlaRecipe::reserved"]
        [::core::mem::offset_of!(AlaRecipe, reserved) - 280usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaShard {
    pub recipe: AlaRecipe,
    pub records: u64,
    pub gathered: u64,
    pub slope: f64,
    pub inverse_slope: f64,
    pub exact_slope: f64,
    pub bias: f64,
    pub shards: u32,
    pub first_class: u32,
    pub classes: u32,
    pub record_len: u32,
    pub columns: u32,
    pub common_weight: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaShard"][::core::mem::size_of::<AlaShard>() - 360usize];
    ["Alignment of AlaShard"][::core::mem::align_of::<AlaShard>() - 8usize];
    ["Offset of field: AlaShard::recipe"][::core::mem::offset_of!(AlaShard, recipe) - 0usize];
    ["Offset of field: AlaShard::records"][::core::mem::offset_of!(AlaShard, records) - 288usize];
    ["Offset of field: AlaShard::gathered"][::core::mem::offset_of!(AlaShard, gathered) - 296usize];
    ["Offset of field: AlaShard::slope"][::core::mem::offset_of!(AlaShard, slope) - 304usize];
    ["Offset of field: AlaShard::inverse_slope"]
        [::core::mem::offset_of!(AlaShard, inverse_slope) - 312usize];
    ["Offset of field: AlaShard::exact_slope"]
        [::core::mem::offset_of!(AlaShard, exact_slope) - 320usize];
    ["Offset of field: AlaShard::bias"][::core::mem::offset_of!(AlaShard, bias) - 328usize];
    ["Offset of field: AlaShard::shards"][::core::mem::offset_of!(AlaShard, shards) - 336usize];
    ["Offset of field: AlaShard::first_class"]
        [::core::mem::offset_of!(AlaShard, first_class) - 340usize];
    ["Offset of field: AlaShard::classes"][::core::mem::offset_of!(AlaShard, classes) - 344usize];
    ["Offset of field: AlaShard::record_len"]
        [::core::mem::offset_of!(AlaShard, record_len) - 348usize];
    ["Offset of field: AlaShard::columns"][::core::mem::offset_of!(AlaShard, columns) - 352usize];
    ["Offset of field: AlaShard::common_weight"]
        [::core::mem::offset_of!(AlaShard, common_weight) - 356usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AlaScratch {
    pub values: u64,
    pub row_values: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AlaScratch"][::core::mem::size_of::<AlaScratch>() - 16usize];
    ["Alignment of AlaScratch"][::core::mem::align_of::<AlaScratch>() - 8usize];
    ["Offset of field: AlaScratch::values"][::core::mem::offset_of!(AlaScratch, values) - 0usize];
    ["Offset of field: AlaScratch::row_values"]
        [::core::mem::offset_of!(AlaScratch, row_values) - 8usize];
};
