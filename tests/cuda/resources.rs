//! What ptxas says of every kernel on every architecture.

use ala_loss::cuda::instruments::{TIERS, Tier, ptxas_report};
use softcuda::device::{SMS, Sm};
use softcuda::occupancy::Block;
use softcuda::ptxas::{Usage, parse};

fn usages() -> Vec<Usage> {
    parse(&ptxas_report())
}

fn sm(usage: &Usage) -> &'static Sm {
    let number = usage.architecture.strip_prefix("sm_");
    number
        .and_then(|number| Sm::of(number.parse().ok()?))
        .unwrap_or_else(|| panic!("{} is not among {SMS:?}", usage.architecture))
}

/// The tier of a fused kernel, `ala_<tier>_<element>_<map>`, or a recipe's.
fn tier(usage: &Usage) -> Option<&'static Tier> {
    let name = usage.kernel.strip_prefix("ala_")?;
    let name = name.strip_prefix("recipe_").unwrap_or(name);
    TIERS.iter().find(|tier| {
        name.strip_prefix(tier.name)
            .is_some_and(|rest| rest.starts_with('_'))
    })
}

#[test]
fn no_kernel_spills_or_has_a_stack() {
    let usages = usages();
    assert!(
        usages.len() >= 52,
        "the report names {} kernels",
        usages.len()
    );
    for usage in &usages {
        let what = format!("{} on {}", usage.kernel, usage.architecture);
        // 512 lanes and a row of 16 to 32 elements each leave a recipe's scalars no more registers:
        // without a spill there would be one block an SM. Of some staged and streamed ones nvcc
        // spills words for 8.0. Spills are stores and loads together.
        let (stack, spills) = match usage.kernel.strip_prefix("ala_recipe_") {
            Some(recipe) if recipe.starts_with("row512x") => (64, 320),
            Some(recipe) if recipe.starts_with("st") => (16, 48),
            _ => (0, 0),
        };
        assert!(
            usage.stack <= stack && usage.spills <= spills,
            "{what}: {usage:?}"
        );
    }
}

/// By registers and static shared memory; what a launch adds is in its counts (`counts.rs`).
#[test]
fn an_sm_holds_half_its_warps_of_every_fused_kernel() {
    let usages = usages();
    let fused = usages
        .iter()
        .filter_map(|usage| tier(usage).map(|tier| (usage, tier)));
    let mut seen = 0;
    let mut low = Vec::new();
    for (usage, tier) in fused {
        let block = Block {
            threads: tier.threads,
            registers: usage.registers,
            shared: usage.smem,
        };
        seen += 1;
        let occupancy = sm(usage).occupancy(block);
        // A recipe's rows have more to keep (`kernels/kernel.h`).
        let is_recipe = usage.kernel.starts_with("ala_recipe_");
        if occupancy < if is_recipe { 0.3125 } else { 0.5 } {
            low.push(format!(
                "{} on {}: {:.0} % with {block:?}",
                usage.kernel,
                usage.architecture,
                100.0 * occupancy
            ));
        }
    }
    // Three element types, at least one architecture.
    let kernels = TIERS
        .iter()
        .flat_map(|tier| [false, true].map(|per_class| tier.most_classes(per_class)))
        .filter(|&most| most > 0)
        .count();
    assert!(
        seen >= 3 * kernels,
        "{seen} fused kernels in the report, {kernels} in the table"
    );
    assert!(low.is_empty(), "{low:#?}");
}
