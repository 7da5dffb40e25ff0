//! Losses and gradients against automatic differentiation in float64 (see `golden/README.md`).

use ala_loss::{
    Ala, ClassCounts, CpuElement, DifficultyGradient, Lambda, Loss, Objective, Options,
    QuantityLog, Reduction, reference,
};
use half::{bf16, f16};
use serde_json::Value;

mod problem;
use problem::{assert_within, gradient_bound, loss_bound, slope, widen, widen_real};

struct Golden {
    json: Value,
}

struct Case {
    name: String,
    loss: Loss,
    logits: Vec<f64>,
    labels: Vec<u64>,
    row_losses: Vec<f64>,
    columns: Vec<usize>,
    gradient: Vec<Vec<f64>>,
    gradient_dot: Vec<f64>,
}

fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("an array");
    values
        .iter()
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

fn integers(value: &Value) -> Vec<u64> {
    let values = value.as_array().expect("an array");
    values
        .iter()
        .map(|v| v.as_u64().expect("an integer"))
        .collect()
}

fn objective(value: &Value) -> Objective {
    let number = |key: &str| {
        value[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key} in {value}"))
    };
    let log = || match value["log"].as_str() {
        Some("2") => QuantityLog::Base2,
        Some("e") => QuantityLog::Natural,
        other => panic!("log {other:?}"),
    };
    let gradient = || match value["difficulty"].as_str() {
        Some("detached") => DifficultyGradient::Detached,
        Some("attached") => DifficultyGradient::Attached,
        other => panic!("difficulty {other:?}"),
    };
    match value["name"].as_str().expect("a name") {
        "cross_entropy" | "weighted_ce" => Objective::CrossEntropy,
        "class_balanced" => Objective::ClassBalanced {
            beta: number("beta"),
        },
        "focal" => Objective::Focal {
            gamma: number("gamma"),
        },
        "balanced_softmax" => Objective::BalancedSoftmax,
        "logit_adjustment" => Objective::LogitAdjustment { tau: number("tau") },
        "vector_scaling" => Objective::VectorScaling {
            gamma: number("gamma"),
            tau: number("tau"),
        },
        "ldam" => Objective::Ldam {
            max_margin: number("max_margin"),
        },
        "cosface" => Objective::CosFace {
            margin: number("margin"),
        },
        "ala" => Objective::Ala(Ala {
            log: log(),
            gradient: gradient(),
            log_prior_tau: number("prior_tau"),
        }),
        "quantity_only" => Objective::QuantityOnly { log: log() },
        "difficulty_only" => Objective::DifficultyOnly {
            k: number("k"),
            gradient: gradient(),
        },
        other => panic!("unknown objective {other}"),
    }
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    let rows = value.as_array().expect("rows");
    rows.iter().map(floats).collect()
}

fn columns(value: &Value) -> Vec<usize> {
    integers(value).into_iter().map(|j| j as usize).collect()
}

impl Golden {
    fn read() -> Self {
        let text = include_str!("golden/golden.json");
        Self {
            json: serde_json::from_str(text).expect("golden.json is JSON"),
        }
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        let cases = self.json["cases"].as_array().expect("cases");
        cases.iter().map(|case| self.case(case, &case["at"]))
    }

    /// Of a case of one of the problems; `at` has the columns of its gradient, null for all.
    fn case(&self, case: &Value, at: &Value) -> Case {
        let problem = self.json["problems"]
            .as_array()
            .expect("problems")
            .iter()
            .find(|problem| problem["classes"] == case["classes"])
            .expect("the case's problem");
        let counts = ClassCounts::new(integers(&problem["counts"])).expect("counts");
        let mut builder = Loss::builder(objective(&case["objective"]), &counts)
            .scale(case["scale"].as_f64().expect("scale"))
            .label_smoothing(case["smoothing"].as_f64().unwrap_or(0.0))
            .reduction(Reduction::None);
        if case["objective"]["name"] == "weighted_ce" {
            builder = builder.class_weights(floats(&problem["class_weights"]));
        }
        Case {
            name: format!(
                "{} s={} C={}",
                case["objective"], case["scale"], case["classes"]
            ),
            loss: builder.build().expect("a valid loss"),
            logits: rows(&problem["logits"]).concat(),
            labels: integers(&problem["labels"]),
            row_losses: floats(&case["loss"]),
            columns: match at {
                Value::Null => (0..counts.classes()).collect(),
                at => columns(at),
            },
            gradient: rows(&case["gradient"]),
            gradient_dot: floats(&case["gradient_dot"]),
        }
    }
}

/// A case with smoothed labels, mixed targets or both.
struct Recipe {
    case: Case,
    smoothing: f64,
    /// Lambda and the rows' second labels.
    mix: Option<(f64, Vec<usize>)>,
}

/// On the problems of golden.json.
fn recipes() -> Vec<Recipe> {
    let text = include_str!("golden/recipes.json");
    let json: Value = serde_json::from_str(text).expect("recipes.json is JSON");
    let golden = Golden::read();
    let cases = json["cases"].as_array().expect("cases");
    let recipe = |case: &Value| {
        let lambda = case["lambda"].as_f64();
        let mut recipe = Recipe {
            case: golden.case(case, &json["at"][case["classes"].to_string()]),
            smoothing: case["smoothing"].as_f64().expect("smoothing"),
            mix: lambda.map(|lambda| (lambda, columns(&case["partners"]))),
        };
        recipe.case.name += &format!(" smoothing={} mix={:?}", recipe.smoothing, recipe.mix);
        recipe
    };
    cases.iter().map(recipe).collect()
}

/// Checks losses, the stored gradient columns and the whole gradient's dot product with a fixed
/// vector.
fn assert_case(
    case: &Case,
    row_losses: &[f64],
    gradient: &[f64],
    loss_bound: impl Fn(f64) -> f64,
    gradient_bound: impl Fn(f64) -> f64,
) {
    let classes = case.loss.classes();
    for (row, exact) in case.row_losses.iter().enumerate() {
        let what = |part: &str| format!("{} row {row} {part}", case.name);
        assert_within(row_losses[row], *exact, loss_bound(*exact), &|| {
            what("loss")
        });
        let gradient = &gradient[row * classes..][..classes];
        for (&j, &exact) in case.columns.iter().zip(&case.gradient[row]) {
            assert_within(gradient[j], exact, gradient_bound(exact), &|| {
                what(&format!("gradient {j}"))
            });
        }
        let weigh = |j: usize| ((j * 37) % 101) as f64 / 101.0 - 0.5;
        let dot: f64 = gradient.iter().enumerate().map(|(j, g)| g * weigh(j)).sum();
        let bound: f64 = gradient
            .iter()
            .enumerate()
            .map(|(j, &g)| gradient_bound(g) * weigh(j).abs())
            .sum();
        assert_within(dot, case.gradient_dot[row], bound + 1e-12, &|| what("dot"));
    }
}

fn assert_cpu<T: CpuElement>(loss_bound: impl Fn(f64) -> f64, bound: impl Fn(f64, f64) -> f64) {
    for case in Golden::read().cases() {
        let logits: Vec<T> = case.logits.iter().map(|&x| T::from_f64(x)).collect();
        assert_eq!(
            widen(&logits),
            case.logits,
            "golden logits are exact in every type"
        );
        let outcome = case
            .loss
            .evaluate(&logits, &case.labels)
            .expect("a valid batch");
        let slope = slope(case.loss.table());
        assert_case(
            &case,
            &widen_real::<T>(&outcome.row_losses),
            &widen(&outcome.gradient),
            &loss_bound,
            |exact| bound(exact, slope),
        );
    }
}

#[test]
fn every_objective_class_count_and_scale_is_there() {
    let golden = Golden::read();
    assert_eq!(golden.cases().count(), 5 * 4 * 20);
}

#[test]
fn the_reference_matches_automatic_differentiation() {
    for case in Golden::read().cases() {
        let exact = reference::batch(&case.loss, &case.logits, &case.labels, &[1.0; 2]);
        assert_case(
            &case,
            &exact.row_losses,
            &exact.gradient,
            |loss| 1e-12 * loss,
            |g| 1e-12 * g.abs(),
        );
    }
}

#[test]
fn every_objective_and_class_count_has_its_recipes() {
    let all = recipes();
    let count = |part: &dyn Fn(&Recipe) -> bool| all.iter().filter(|recipe| part(recipe)).count();
    // C = 2 and 7 at both scales, 33 and 1000 at one; focal (2 of 20 objectives) is never smoothed.
    let basic = |objectives: usize| (2 + 2 + 1 + 1) * objectives;
    // At C = 7 and both scales; 9 objectives, of which 1 is focal.
    let further = |objectives: usize, recipes: usize| 2 * objectives * recipes;
    let mixed = |r: &Recipe| r.mix.is_some();
    assert_eq!(count(&|r| !mixed(r)), basic(18) + further(8, 2));
    assert_eq!(
        count(&|r| mixed(r) && r.smoothing == 0.0),
        basic(20) + further(9, 3)
    );
    assert_eq!(
        count(&|r| mixed(r) && r.smoothing > 0.0),
        basic(18) + further(8, 4)
    );
}

#[test]
fn the_reference_smooths_and_mixes_as_automatic_differentiation_does() {
    for Recipe {
        case,
        smoothing,
        mix,
    } in recipes()
    {
        let solve = |i: usize, x: &[f64]| {
            let (table, y) = (case.loss.table(), case.labels[i] as usize);
            match &mix {
                None => reference::smoothed_row(table, x, y, smoothing),
                Some((lambda, partners)) => {
                    let targets = [(y, *lambda), (partners[i], 1.0 - lambda)];
                    reference::mixed_row(table, x, &targets, smoothing)
                }
            }
        };
        let logits = case.logits.chunks_exact(case.loss.classes());
        let solved: Vec<_> = logits.enumerate().map(|(i, x)| solve(i, x)).collect();
        let row_losses: Vec<f64> = solved.iter().map(|row| row.loss).collect();
        let gradient: Vec<f64> = solved.into_iter().flat_map(|row| row.gradient).collect();
        assert_case(
            &case,
            &row_losses,
            &gradient,
            |loss| 1e-12 * loss,
            |g| 1e-12 * g.abs(),
        );
    }
}

fn assert_cpu_recipes<T: CpuElement>(
    bound: impl Fn(f64, f64) -> f64,
    of_loss: impl Fn(f64) -> f64,
) {
    for Recipe { case, mix, .. } in recipes() {
        let logits: Vec<T> = case.logits.iter().map(|&x| T::from_f64(x)).collect();
        let mut options = Options::new();
        if let Some((lambda, partners)) = &mix {
            options = options.mixed_with(partners, Lambda::Scalar(*lambda));
        }
        let outcome = case.loss.evaluate_with(&logits, &case.labels, &options);
        let outcome = outcome.expect("a valid batch");
        let slope = slope(case.loss.table());
        assert_case(
            &case,
            &widen_real::<T>(&outcome.row_losses),
            &widen(&outcome.gradient),
            &of_loss,
            |exact| bound(exact, slope),
        );
    }
}

#[test]
fn every_type_smooths_and_mixes_as_automatic_differentiation_does() {
    // Where two labels meet, and where a label is spread, terms are added that differ in sign.
    let double = |g: f64, slope: f64| 1e-12 * g.abs() + 1e-15 * slope;
    assert_cpu_recipes::<f64>(double, |loss| 1e-12 * loss);
    assert_cpu_recipes::<f32>(gradient_bound::<f32>, loss_bound);
    assert_cpu_recipes::<f16>(gradient_bound::<f16>, loss_bound);
    assert_cpu_recipes::<bf16>(gradient_bound::<bf16>, loss_bound);
}

#[test]
fn f64_matches_automatic_differentiation() {
    assert_cpu::<f64>(|loss| 1e-12 * loss, |g, _| 1e-12 * g.abs());
}

#[test]
fn f32_matches_automatic_differentiation() {
    assert_cpu::<f32>(loss_bound, gradient_bound::<f32>);
}

#[test]
fn f16_matches_automatic_differentiation() {
    assert_cpu::<f16>(loss_bound, gradient_bound::<f16>);
}

#[test]
fn bf16_matches_automatic_differentiation() {
    assert_cpu::<bf16>(loss_bound, gradient_bound::<bf16>);
}
