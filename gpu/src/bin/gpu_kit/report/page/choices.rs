//! The crate's choice of tier and launch shape against the best.

use ala_loss_gpu::record::{Kind, Line};

use super::super::figures::tiers::{Choice, choices, median, shape};
use super::super::numbers::{percent, us};
use super::super::table::Table;

pub(super) fn section(lines: &[Line]) -> Option<String> {
    let choices = choices(lines);
    let mut table = Table::new([
        "batch",
        "N x C",
        "type",
        "the crate's",
        "us",
        "the best",
        "us",
        "more time",
        "best of another tier",
    ]);
    for choice in &choices {
        let (own, best) = (choice.own, choice.best);
        let kind = match own.batch {
            Kind::Large => "large",
            Kind::Small => "small",
        };
        table.row([
            kind.to_owned(),
            format!("{} x {}", own.n, own.c),
            own.dtype.clone(),
            shape(own),
            us(median(own)),
            shape(best),
            us(median(best)),
            percent(choice.regret()),
            choice.other.map_or_else(
                || "none near".into(),
                |other| format!("{}: {}", shape(other), us(median(other))),
            ),
        ]);
    }
    if table.is_empty() {
        return None;
    }
    let mut text = format!(
        "Every kernel that can take a batch, in every launch shape: tier, threads of a block x most blocks an SM / blocks \
         that share a row. Kernels far behind were not timed in all shapes. Small batches are in graphs. Differences below \
         the spread of the times mean nothing.\n\n{}",
        table.markdown()
    );
    text += &won_by_others(&choices);
    Some(text)
}

/// Where another tier than the crate's wins.
fn won_by_others(choices: &[Choice]) -> String {
    let won = choices.iter().filter(|choice| choice.other_wins());
    let won: Vec<_> = won
        .map(|choice| {
            let (own, best) = (choice.own, choice.best);
            let place = format!("{} {} x {}", own.dtype, own.n, own.c);
            let regret = percent(choice.regret());
            format!("{place}: {} instead of {} ({regret})", best.tier, own.tier)
        })
        .collect();
    match won.is_empty() {
        true => "\nNowhere does another tier than the crate's win.\n".into(),
        false => format!(
            "\nAnother tier than the crate's wins at {}.\n",
            won.join("; ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::tier;
    use super::*;

    #[test]
    fn another_tier_that_wins_is_named() {
        let mut lines = vec![
            tier(10, "packed", 128, true, 10.0),
            tier(10, "packed", 64, false, 9.0),
        ];
        let text = section(&lines).expect("tiers");
        assert!(text.contains("Nowhere does another tier"), "{text}");
        assert!(text.contains("| 11.1 % |"), "{text}");
        lines.push(tier(10, "row", 64, false, 8.0));
        let text = section(&lines).expect("tiers");
        assert!(
            text.contains("wins at f32 100 x 10: row instead of packed (25.0 %)"),
            "{text}"
        );
    }
}
