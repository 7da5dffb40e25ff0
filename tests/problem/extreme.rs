//! The rows of `tests/golden/extreme.json`, as they are and spread over more classes, which are
//! masked.

use ala_loss::{ClassCounts, Element, Loss, Objective, Reduction};
use serde_json::Value;

/// One row and its exact solution.
#[derive(Debug)]
pub struct Case {
    objective: Objective,
    counts: Vec<u64>,
    scale: f64,
    logits: Vec<f64>,
    label: usize,
    /// Types that hold the logits exactly.
    pub types: Vec<String>,
    pub loss: f64,
    pub gradient: Vec<f64>,
}

pub fn cases() -> Vec<Case> {
    let text = include_str!("../golden/extreme.json");
    let cases: Vec<Value> = serde_json::from_str(text).expect("JSON");
    assert!(cases.len() >= 25);
    cases.iter().map(case).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::INFINITY)
}

fn case(value: &Value) -> Case {
    let list = |key: &str| value[key].as_array().expect("a list");
    let numbers = |key: &str| list(key).iter().map(number).collect();
    let objective = list("objective");
    let parameter = |index: usize| number(&objective[index]);
    Case {
        objective: match objective[0].as_str().expect("a name") {
            "ce" => Objective::CrossEntropy,
            "ala" => Objective::ala(),
            "balanced" => Objective::BalancedSoftmax,
            "adjusted" => Objective::LogitAdjustment { tau: parameter(1) },
            "vector" => Objective::VectorScaling {
                gamma: parameter(1),
                tau: parameter(2),
            },
            other => panic!("no objective {other}"),
        },
        counts: list("counts")
            .iter()
            .map(|n| n.as_u64().expect("a count"))
            .collect(),
        scale: number(&value["scale"]),
        logits: numbers("logits"),
        label: number(&value["label"]) as usize,
        types: list("types")
            .iter()
            .map(|t| t.as_str().expect("a name").to_owned())
            .collect(),
        loss: number(&value["loss"]),
        gradient: numbers("gradient"),
    }
}

impl Case {
    /// Where its classes lie among `classes`: the first, the last, and far from either.
    pub fn places(&self, classes: usize) -> impl Iterator<Item = usize> + use<> {
        let last = self.logits.len() - 1;
        (0..=last).map(move |class| class * (classes - 1) / last)
    }

    /// The row among `classes`, of which the others have a logit of -inf and a count that changes
    /// no constant of its own but a common offset; the loss's rows are not reduced.
    pub fn spread<T: Element>(&self, classes: usize) -> (Loss, Vec<T>, usize) {
        let least = *self.counts.iter().min().expect("a class");
        let mut counts = vec![least; classes];
        let mut logits = vec![T::from_f64(f64::NEG_INFINITY); classes];
        for (class, place) in self.places(classes).enumerate() {
            counts[place] = self.counts[class];
            logits[place] = T::from_f64(self.logits[class]);
        }
        let counts = ClassCounts::new(counts).expect("valid");
        let loss = Loss::builder(self.objective, &counts)
            .scale(self.scale)
            .reduction(Reduction::Sum)
            .build()
            .expect("valid");
        let label = self.places(classes).nth(self.label).expect("a class");
        (loss, logits, label)
    }
}
