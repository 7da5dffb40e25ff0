//! Accuracy from the hits that the loss knows of anyway, over all classes or over some.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Bool, Int, Tensor, TensorReadError};
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

/// A batch's hits and labels, `[N]` each.
#[derive(Debug)]
pub struct HitInput {
    pub hits: Tensor<1, Bool>,
    pub labels: Tensor<1, Int>,
}

/// The share of hits, in percent.
#[derive(Clone)]
pub struct HitMetric {
    name: MetricName,
    /// The classes that count; all where there are none.
    classes: Option<Vec<i64>>,
    state: NumericMetricState,
    /// Of the clones' last epoch: the learner keeps those to itself.
    last: Arc<Mutex<Option<NumericEntry>>>,
}

impl HitMetric {
    pub fn new(name: &str, classes: Option<Vec<i64>>) -> Self {
        Self {
            name: MetricName::new(name.to_string()),
            classes,
            state: NumericMetricState::default(),
            last: Arc::default(),
        }
    }

    /// What the last epoch came to; the test images' follows the training images'.
    pub fn last_epoch(&self) -> NumericEntry {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().unwrap_or(NumericEntry::Value(f64::NAN))
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).unit("%").precision(1)
    }
}

impl Metric for HitMetric {
    type Input = HitInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Some("%".to_string()),
            higher_is_better: true,
        }
        .into()
    }

    fn update(
        &mut self,
        input: &HitInput,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let hits: Vec<i64> = input.hits.clone().int().try_into_data()?.iter().collect();
        let labels: Vec<i64> = input.labels.clone().try_into_data()?.iter().collect();
        let counts = |label| (self.classes.as_ref()).is_none_or(|all| all.contains(label));
        let counted: Vec<i64> = (hits.into_iter().zip(&labels))
            .filter(|(_, label)| counts(label))
            .map(|(hit, _)| hit)
            .collect();
        // A batch without a rare class says nothing about them.
        if !counted.is_empty() {
            let share = counted.iter().sum::<i64>() as f64 / counted.len() as f64;
            self.state.update(100.0 * share, counted.len());
        }
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(self.state.final_value());
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for HitMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
