//! What the fields of a step give, as their kinds say. A field that its kind does not take must be
//! 0: nothing that is given is ignored.

use std::ffi::c_void;

use ala_loss::{Divisor, Lambda};

use crate::numbers::{AlaDivisor, AlaLabel, AlaLambda, entry};
use crate::status::{AlaStatus, Failure};

/// A number or an address; 0 where it is not given.
pub(crate) trait Field: Copy {
    fn is_given(self) -> bool;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn is_given(self) -> bool {
                self != <$number>::default()
            }
        }
    )*};
}
numbers!(u32, u64, f32, f64);

impl Field for *const c_void {
    fn is_given(self) -> bool {
        !self.is_null()
    }
}

/// Refuses what is given beside a kind that does not take it.
pub(crate) fn none_given(kind: &str, fields: &[(&str, bool)]) -> Result<(), Failure> {
    match fields.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::new(
            AlaStatus::Call,
            format!("{name} is given, and {kind}"),
        )),
    }
}

/// What a mean divides by: its kind, and the number or its address.
pub(crate) fn divisor<G: Field>(kind: u32, given: G) -> Result<Divisor<G>, Failure> {
    let fields = [("divisor", given.is_given())];
    match entry("divisor_kind", AlaDivisor::ALL, kind)? {
        AlaDivisor::Weights => {
            none_given("divisor_kind is ALA_DIVISOR_WEIGHTS", &fields)?;
            Ok(Divisor::Weights)
        }
        AlaDivisor::Rows => {
            none_given("divisor_kind is ALA_DIVISOR_ROWS", &fields)?;
            Ok(Divisor::Rows)
        }
        AlaDivisor::Given => Ok(Divisor::Given(given)),
    }
}

/// A step's fields about second labels: addresses `A`, and a lambda `S`.
pub(crate) struct SecondLabels<S, A> {
    pub(crate) labels: A,
    pub(crate) label: u32,
    pub(crate) lambda_kind: u32,
    pub(crate) lambda: S,
    pub(crate) lambdas: A,
}

/// The second labels' type, and how much is the first ones'.
pub(crate) type Second<S, A> = (AlaLabel, Lambda<S, A>);

impl<S: Field, A: Field> SecondLabels<S, A> {
    /// `None` where rows have one label.
    pub(crate) fn read(self) -> Result<Option<Second<S, A>>, Failure> {
        let label = entry("second_label", AlaLabel::ALL, self.label)?;
        let lambda = ("lambda", self.lambda.is_given());
        let lambdas = ("lambdas", self.lambdas.is_given());
        match entry("lambda_kind", AlaLambda::ALL, self.lambda_kind)? {
            AlaLambda::None => {
                let labels = ("second_labels", self.labels.is_given());
                let label = ("second_label", self.label.is_given());
                none_given(
                    "lambda_kind is ALA_LAMBDA_NONE",
                    &[labels, label, lambda, lambdas],
                )?;
                Ok(None)
            }
            AlaLambda::Scalar => {
                none_given("lambda_kind is ALA_LAMBDA_SCALAR", &[lambdas])?;
                Ok(Some((label, Lambda::Scalar(self.lambda))))
            }
            AlaLambda::PerRow => {
                none_given("lambda_kind is ALA_LAMBDA_PER_ROW", &[lambda])?;
                Ok(Some((label, Lambda::PerRow(self.lambdas))))
            }
        }
    }
}
