//! The results as a table and as JSON.

use ala_loss::ClassCounts;
use ala_loss::metrics::Accuracy;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::method::Method;
use crate::task::Groups;
use crate::training::Recipe;

/// The result of one method with one seed; accuracies in per cent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    pub(crate) method: &'static str,
    pub(crate) seed: u64,
    pub(crate) overall: f64,
    /// `None` (JSON null) for a group without test samples, here and below.
    pub(crate) many: Option<f64>,
    pub(crate) medium: Option<f64>,
    pub(crate) few: Option<f64>,
    /// Accuracy of each class, most frequent first; `None` where the test set lacks the class.
    #[serde(skip)]
    pub(crate) by_rank: Vec<Option<f64>>,
}

impl Trial {
    pub(crate) fn new(
        method: Method,
        seed: u64,
        counts: &ClassCounts,
        accuracy: &Accuracy,
    ) -> Self {
        let per_cent = |fraction: f64| 100.0 * fraction;
        Self {
            method: method.name(),
            seed,
            // The readers refuse a test set without samples.
            overall: accuracy.overall.map_or(f64::NAN, per_cent),
            many: accuracy.many.map(per_cent),
            medium: accuracy.medium.map(per_cent),
            few: accuracy.few.map(per_cent),
            by_rank: ranked(counts)
                .iter()
                .map(|&class| accuracy.per_class[class].map(per_cent))
                .collect(),
        }
    }

    fn group(&self, column: Column) -> Option<f64> {
        match column {
            Column::Overall => Some(self.overall),
            Column::Many => self.many,
            Column::Medium => self.medium,
            Column::Few => self.few,
        }
    }
}

/// Classes from the most frequent to the rarest.
pub(crate) fn ranked(counts: &ClassCounts) -> Vec<usize> {
    let counts = counts.as_slice();
    let mut classes: Vec<usize> = (0..counts.len()).collect();
    classes.sort_by_key(|&class| std::cmp::Reverse(counts[class]));
    classes
}

#[derive(Clone, Copy)]
enum Column {
    Overall,
    Many,
    Medium,
    Few,
}

const COLUMNS: [(Column, &str); 4] = [
    (Column::Overall, "overall"),
    (Column::Many, "many"),
    (Column::Medium, "medium"),
    (Column::Few, "few"),
];

/// The classes in each group, as a line above the table.
pub(crate) fn group_line(counts: &ClassCounts, groups: Groups) -> String {
    let Groups {
        many_over,
        few_under,
    } = groups;
    let of = |belongs: &dyn Fn(u64) -> bool| {
        let classes = counts.as_slice().iter().filter(|&&n| belongs(n)).count();
        format!("{classes} class{}", if classes == 1 { "" } else { "es" })
    };
    let origin = if groups == Groups::FIELD {
        "the field's thresholds"
    } else {
        "split by rank, see --help"
    };
    format!(
        "Groups by training samples a class ({origin}): many over {many_over} ({}), medium {few_under} to {many_over} ({}), few under {few_under} ({}).",
        of(&|n| n > many_over),
        of(&|n| (few_under..=many_over).contains(&n)),
        of(&|n| n < few_under),
    )
}

/// What is not as in a plain training, a sentence each.
pub(crate) fn recipe(recipe: Recipe) -> String {
    let mut text = String::new();
    if let Some(alpha) = recipe.mixup {
        text += &format!(" Mixup with alpha {alpha}.");
    }
    if recipe.label_smoothing > 0.0 {
        text += &format!(" Label smoothing {}.", recipe.label_smoothing);
    }
    if recipe.parts > 1 {
        text += &format!(" Each batch in {} parts.", recipe.parts);
    }
    text
}

/// Mean and standard deviation over seeds, below them the difference to `baseline` paired by seed.
pub(crate) fn table(trials: &[Trial], methods: &[Method], baseline: Method) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    let heads = std::iter::once("method").chain(COLUMNS.map(|(_, head)| head));
    table.set_header(heads);
    for &method in methods {
        let mut row = vec![Cell::new(method.name())];
        for (column, _) in COLUMNS {
            let values: Vec<f64> = of(trials, method)
                .filter_map(|trial| trial.group(column))
                .collect();
            let mut text = spread(&values, false);
            if method != baseline {
                let differences: Vec<f64> = of(trials, method)
                    .filter_map(|trial| {
                        let paired = of(trials, baseline).find(|other| other.seed == trial.seed)?;
                        Some(trial.group(column)? - paired.group(column)?)
                    })
                    .collect();
                if !differences.is_empty() {
                    text = format!("{text}\n{}", spread(&differences, true));
                }
            }
            row.push(Cell::new(text).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    table.to_string()
}

fn of(trials: &[Trial], method: Method) -> impl Iterator<Item = &Trial> {
    trials
        .iter()
        .filter(move |trial| trial.method == method.name())
}

/// `mean ± standard deviation`; a single value has no deviation.
fn spread(values: &[f64], signed: bool) -> String {
    let Some((mean, deviation)) = mean_and_deviation(values) else {
        return "-".to_owned();
    };
    let mean = if signed {
        format!("{mean:+.1}")
    } else {
        format!("{mean:.1}")
    };
    match deviation {
        Some(deviation) => format!("{mean} ± {deviation:.1}"),
        None => mean,
    }
}

/// Mean, and the standard deviation of a sample (n - 1) where there are at least two values.
fn mean_and_deviation(values: &[f64]) -> Option<(f64, Option<f64>)> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((
        mean,
        (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(method: Method, seed: u64, overall: f64) -> Trial {
        Trial {
            method: method.name(),
            seed,
            overall,
            many: Some(overall),
            medium: Some(overall),
            few: None,
            by_rank: Vec::new(),
        }
    }

    #[test]
    fn differences_are_paired_by_seed() {
        // The means differ by 2 and each pair by 1 and 3; unpaired, the deviation would be far
        // larger.
        let trials = [
            trial(Method::CrossEntropy, 0, 50.0),
            trial(Method::CrossEntropy, 1, 80.0),
            trial(Method::Ala, 1, 83.0),
            trial(Method::Ala, 0, 51.0),
        ];
        let text = table(
            &trials,
            &[Method::CrossEntropy, Method::Ala],
            Method::CrossEntropy,
        );
        assert!(text.contains("+2.0 ± 1.4"), "{text}");
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(
            mean_and_deviation(&[1.0, 3.0]),
            Some((2.0, Some(2f64.sqrt())))
        );
        assert_eq!(mean_and_deviation(&[4.0]), Some((4.0, None)));
        assert_eq!(mean_and_deviation(&[]), None);
    }

    #[test]
    fn json_has_the_documented_keys_and_null_for_an_empty_group() {
        let json = serde_json::to_string(&[trial(Method::Ala, 2, 75.5)]).expect("plain numbers");
        assert_eq!(
            json,
            r#"[{"method":"ala","seed":2,"overall":75.5,"many":75.5,"medium":75.5,"few":null}]"#
        );
    }

    #[test]
    fn classes_are_ranked_from_frequent_to_rare() {
        let counts = ClassCounts::new(vec![5, 50, 20]).expect("all are positive");
        assert_eq!(ranked(&counts), [1, 2, 0]);
    }
}
