//! The results as tables and as JSON.

use ala_loss::ClassCounts;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Serialize, Serializer};

use crate::difficulty::FIFTHS;
use crate::method::{Method, Setting};
use crate::task::{Groups, Measured, Task};
use crate::training::{Outcome, Recipe};

/// The result of one setting with one seed; accuracies in per cent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    #[serde(flatten, serialize_with = "setting")]
    pub(crate) setting: Setting,
    pub(crate) measured: Measured,
    pub(crate) seed: u64,
    pub(crate) overall: f64,
    /// `None` (JSON null) for a group without test samples, here and below.
    pub(crate) many: Option<f64>,
    pub(crate) medium: Option<f64>,
    pub(crate) few: Option<f64>,
    /// Accuracy of the fifths of the test samples, the hardest first; `None` until they are known,
    /// and where no method of the run tells them.
    pub(crate) by_difficulty: Option<[f64; FIFTHS]>,
    /// Epochs, and the overall accuracy after them; empty on validation samples.
    pub(crate) by_epoch: Vec<(f64, f64)>,
    /// Accuracy of each class, most frequent first; `None` where the test set lacks the class.
    #[serde(skip)]
    pub(crate) by_rank: Vec<Option<f64>>,
    /// Of each test sample, whether its class was predicted.
    #[serde(skip)]
    pub(crate) hits: Vec<bool>,
    /// The cosine of each test sample's own class, of a cosine head.
    #[serde(skip)]
    pub(crate) target_cosines: Option<Vec<f32>>,
}

/// A setting's two keys.
fn setting<S: Serializer>(setting: &Setting, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Keys {
        method: &'static str,
        setting: String,
    }
    Keys {
        method: setting.method.name(),
        setting: setting.shown(),
    }
    .serialize(serializer)
}

impl Trial {
    pub(crate) fn new(
        setting: Setting,
        measured: Measured,
        seed: u64,
        task: &Task,
        outcome: Outcome,
    ) -> Self {
        let per_cent = |fraction: f64| 100.0 * fraction;
        let Outcome {
            accuracy,
            by_epoch,
            answers,
        } = outcome;
        let answered = answers.predictions.iter().zip(&task.test_labels);
        Self {
            setting,
            measured,
            seed,
            // The readers refuse a test set without samples.
            overall: accuracy.overall.map_or(f64::NAN, per_cent),
            many: accuracy.many.map(per_cent),
            medium: accuracy.medium.map(per_cent),
            few: accuracy.few.map(per_cent),
            by_difficulty: None,
            by_epoch: by_epoch
                .into_iter()
                .map(|(epochs, fraction)| (epochs, per_cent(fraction)))
                .collect(),
            by_rank: ranked(&task.counts)
                .iter()
                .map(|&class| accuracy.per_class[class].map(per_cent))
                .collect(),
            hits: answered
                .map(|(predicted, label)| predicted == label)
                .collect(),
            target_cosines: answers.target_cosines,
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
/// Where `settings` have more than one of a method, each row says which it is.
pub(crate) fn table(trials: &[Trial], settings: &[Setting], baseline: Method) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    let heads = std::iter::once("method").chain(COLUMNS.map(|(_, head)| head));
    table.set_header(heads);
    for &setting in settings {
        let mut row = vec![Cell::new(label(setting, settings))];
        for (column, _) in COLUMNS {
            let values: Vec<f64> = of(trials, setting)
                .filter_map(|trial| trial.group(column))
                .collect();
            let mut text = spread(&values, false);
            if setting.method != baseline {
                let of_seed = |seed: u64| {
                    trials
                        .iter()
                        .find(|other| other.setting.method == baseline && other.seed == seed)
                };
                let differences: Vec<f64> = of(trials, setting)
                    .filter_map(|trial| {
                        Some(trial.group(column)? - of_seed(trial.seed)?.group(column)?)
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

fn label(setting: Setting, settings: &[Setting]) -> String {
    let of_method = settings
        .iter()
        .filter(|other| other.method == setting.method);
    if of_method.count() > 1 {
        setting.named()
    } else {
        setting.method.name().to_owned()
    }
}

/// Mean and standard deviation over seeds of the accuracy in each fifth of the test samples;
/// nothing where no trial knows them.
pub(crate) fn difficulty_table(trials: &[Trial], settings: &[Setting]) -> Option<String> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    let ordinals = [
        "hardest fifth",
        "second",
        "third",
        "fourth",
        "easiest fifth",
    ];
    table.set_header(std::iter::once("method").chain(ordinals));
    for &setting in settings {
        let mut row = vec![Cell::new(label(setting, settings))];
        for fifth in 0..FIFTHS {
            let values: Vec<f64> = of(trials, setting)
                .filter_map(|trial| Some(trial.by_difficulty?[fifth]))
                .collect();
            if values.is_empty() {
                return None;
            }
            row.push(Cell::new(spread(&values, false)).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    Some(table.to_string())
}

/// What a sweep tried, with the accuracy over all validation samples; the chosen ones are marked.
pub(crate) fn sweep_table(tried: &[Trial], chosen: &[Setting], candidates: &[Setting]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    table.set_header(["method", "setting", "validation", "chosen"]);
    for &candidate in candidates {
        let mark = if chosen.contains(&candidate) { "*" } else { "" };
        table.add_row([
            Cell::new(candidate.method.name()),
            Cell::new(candidate.shown()),
            Cell::new(spread(&overall(tried, candidate), false))
                .set_alignment(CellAlignment::Right),
            Cell::new(mark).set_alignment(CellAlignment::Center),
        ]);
    }
    table.to_string()
}

/// The accuracy over all samples, of each seed.
pub(crate) fn overall(trials: &[Trial], setting: Setting) -> Vec<f64> {
    of(trials, setting).map(|trial| trial.overall).collect()
}

/// The trials of a setting.
pub(crate) fn of(trials: &[Trial], setting: Setting) -> impl Iterator<Item = &Trial> {
    trials.iter().filter(move |trial| trial.setting == setting)
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
impl Trial {
    /// A test's trial that has the same accuracy in every group but an empty one.
    pub(crate) fn of_test(setting: Setting, seed: u64, overall: f64) -> Self {
        Self {
            setting,
            measured: Measured::Test,
            seed,
            overall,
            many: Some(overall),
            medium: Some(overall),
            few: None,
            by_difficulty: None,
            by_epoch: Vec::new(),
            by_rank: Vec::new(),
            hits: Vec::new(),
            target_cosines: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The differences' means are 2 and 5, and each pair's differ by 1 and 3 of it; unpaired, the
    /// deviation would be far larger.
    #[test]
    fn differences_are_paired_by_seed() {
        let tuned = Setting {
            scale: 10.0,
            ..Method::Ala.untuned(30.0)
        };
        let settings = [
            Method::CrossEntropy.untuned(30.0),
            Method::Ala.untuned(30.0),
            tuned,
        ];
        let trials = [
            Trial::of_test(settings[0], 0, 50.0),
            Trial::of_test(settings[0], 1, 80.0),
            Trial::of_test(settings[1], 1, 83.0),
            Trial::of_test(settings[1], 0, 51.0),
            Trial::of_test(tuned, 0, 54.0),
            Trial::of_test(tuned, 1, 86.0),
        ];
        let text = table(&trials, &settings, Method::CrossEntropy);
        for difference in ["+2.0 ± 1.4", "+5.0 ± 1.4"] {
            assert!(text.contains(difference), "{text}");
        }
        // Two of a method say which they are.
        assert!(text.contains("ala (s 10, log2)"), "{text}");
        assert!(text.contains("│ ce "), "{text}");
        let text = table(&trials, &settings[..2], Method::CrossEntropy);
        assert!(text.contains("│ ala "), "{text}");
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
        let mut trial = Trial::of_test(Method::Ala.untuned(30.0), 2, 75.5);
        trial.by_epoch = vec![(0.5, 40.0), (1.0, 75.5)];
        let json = |trial: &Trial| serde_json::to_string(trial).expect("plain numbers");
        let expected = r#"{"method":"ala","setting":"s 30, log2","measured":"test","seed":2,"overall":75.5,"many":75.5,"medium":75.5,"few":null,"by_difficulty":null,"by_epoch":[[0.5,40.0],[1.0,75.5]]}"#;
        assert_eq!(json(&trial), expected);
        trial.by_difficulty = Some([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(json(&trial).contains(r#""by_difficulty":[1.0,2.0,3.0,4.0,5.0]"#));
        trial.measured = Measured::Validation;
        assert!(json(&trial).contains(r#""measured":"validation""#));
    }

    #[test]
    fn the_chosen_settings_are_marked() {
        let candidates = Method::BalancedSoftmax.candidates(30.0);
        let tried: Vec<Trial> = candidates
            .iter()
            .enumerate()
            .map(|(at, &setting)| Trial::of_test(setting, 0, at as f64))
            .collect();
        let text = sweep_table(&tried, &candidates[2..3], &candidates);
        let marked: Vec<&str> = text.lines().filter(|line| line.contains('*')).collect();
        assert!(marked.len() == 1 && marked[0].contains("tau 1.5"), "{text}");
        assert!(marked[0].contains("2.0"), "{text}");
    }

    #[test]
    fn there_is_no_table_by_difficulty_where_nothing_tells_it() {
        let setting = Method::Ala.untuned(30.0);
        let mut trial = Trial::of_test(setting, 0, 50.0);
        assert_eq!(difficulty_table(&[trial.clone()], &[setting]), None);
        trial.by_difficulty = Some([11.0, 22.0, 33.0, 44.0, 55.0]);
        let text = difficulty_table(&[trial], &[setting]).expect("it is known");
        let columns = ["11.0", "22.0", "33.0", "44.0", "55.0"].map(|x| text.find(x));
        assert!(columns[0].is_some() && columns.is_sorted(), "{text}");
    }

    #[test]
    fn classes_are_ranked_from_frequent_to_rare() {
        let counts = ClassCounts::new(vec![5, 50, 20]).expect("all are positive");
        assert_eq!(ranked(&counts), [1, 2, 0]);
    }
}
