//! One batch by every call: owned, into buffers, in place, on other thread pools.

use std::sync::OnceLock;

use ala_loss::{
    Element, Error, Label, Loss, NO_CLASS, Options, Outcome, Outputs, Reduction, Upstream,
};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use rayon::ThreadPool;

use crate::bits::{self, LogitBits};
use crate::guarded::Guarded;
use crate::held::Held;
use crate::numbers::{float, logit, many, rarely, row_count};
use crate::{rules, shards};

/// Rows of a matrix, and whether the call has to take them.
struct Layout {
    stride: Option<usize>,
    length: usize,
    fits: bool,
}

impl Layout {
    fn any(input: &mut Unstructured<'_>, rows: usize, classes: usize) -> Result<Self> {
        let stride = match input.arbitrary::<u8>()? {
            0 => Some(input.arbitrary()?),
            1 => Some(classes - 1),
            choice @ 2..=99 => Some(classes + usize::from(choice % 10)),
            _ => None,
        };
        let step = stride.unwrap_or(classes);
        let needed = match rows {
            0 => Some(0),
            _ => (rows - 1)
                .checked_mul(step)
                .and_then(|before| before.checked_add(classes)),
        };
        // Buffers beyond this are not tried, but strides that would need them are.
        let affordable = needed.filter(|&needed| needed <= rows * (classes + 10));
        let exact = affordable.unwrap_or(rows * classes);
        let length = match input.arbitrary::<u8>()? {
            0 => exact.saturating_sub(1),
            1..=32 => exact + 1,
            _ => exact,
        };
        let enough = needed.is_some_and(|needed| match stride {
            Some(_) => length >= needed,
            None => length == needed,
        });
        Ok(Self {
            stride,
            length,
            fits: step >= classes && enough,
        })
    }
}

/// Whether an element of a buffer belongs to a row.
fn in_rows(rows: usize, classes: usize, stride: usize) -> impl Fn(usize) -> bool {
    move |at| at / stride < rows && at % stride < classes
}

fn guard<E: Element>() -> E {
    E::from_f64(77.0)
}

pub fn check<T: LogitBits, L: Label + TryFrom<i128> + for<'a> Arbitrary<'a>>(
    input: &mut Unstructured<'_>,
    loss: &Loss,
    labels: &[L],
) -> Result<()> {
    let (rows, classes) = (labels.len(), loss.classes());
    let layout = Layout::any(input, rows, classes)?;
    let shift = usize::from(input.arbitrary::<u8>()? % 16);
    let values = many(input, layout.length, logit::<T>)?;
    let logits = Guarded::new(&values, guard::<T>(), shift);
    let stride = layout.stride.unwrap_or(classes);

    let mut options = Options::new();
    if let Some(stride) = layout.stride {
        options = options.stride(stride);
    }
    let scale = if rarely(input, 4)? {
        float(input)?
    } else {
        1.0
    };
    let per_row: Vec<T::Real>;
    let mut upstream_fits = true;
    let upstream = match input.int_in_range(0..=3u8)? {
        0 => Upstream::Scalar(float(input)?),
        1 => {
            let count = row_count(input, rows)?;
            let one = |input: &mut Unstructured<'_>| Ok(Element::from_f64(float(input)?));
            per_row = many(input, count, one)?;
            upstream_fits = count == rows && loss.reduction() == Reduction::None;
            Upstream::PerRow(per_row.as_slice())
        }
        _ => Upstream::One,
    };
    options = options.upstream(upstream).gradient_scale(scale);
    let held = Held::any(input, loss, labels)?;
    let single = held.single_onto(options);
    let options = held.onto(options);
    held.hold_divisor(&options);

    let call_fits = layout.fits && upstream_fits;
    let call = |options: Options<'_, _>| {
        loss.evaluate_with(logits.get(), labels, &options.hits().predictions())
    };
    let owned = call(options);
    logits.held();
    assert_eq!(owned.is_ok(), call_fits && held.fits(), "{:?}", owned.err());
    if let (Err(error), true) = (&owned, call_fits) {
        assert!(held.is_named_by(error), "{error}");
    }
    if let Err(error) = &owned {
        assert!(!error.to_string().is_empty());
    }
    if let Ok(owned) = &owned {
        let outside = |row: usize| match upstream {
            Upstream::One => [1.0, scale],
            Upstream::Scalar(upstream) => [upstream, scale],
            Upstream::PerRow(upstream) => [Element::to_f64(upstream[row]), scale],
        };
        rules::hold(loss, logits.get(), stride, &held, outside, owned);
        let alone = call(single);
        for options in held.alike(single) {
            match (call(options), &alone) {
                (Ok(alike), Ok(alone)) => same(&alike, alone),
                (alike, alone) => assert_eq!(alike.is_ok(), alone.is_ok(), "{alone:?}"),
            }
        }
    }

    if call_fits {
        let cut = shards::cut(input, classes)?;
        // The columns of a shard begin within a row.
        let strided = options.stride(stride);
        let over_shards = shards::outcome(loss, &cut, logits.get(), labels, &strided);
        match (&over_shards, &owned) {
            (Ok(over_shards), Ok(_)) => {
                let outside = |row: usize| match upstream {
                    Upstream::One => [1.0, scale],
                    Upstream::Scalar(upstream) => [upstream, scale],
                    Upstream::PerRow(upstream) => [Element::to_f64(upstream[row]), scale],
                };
                rules::hold(loss, logits.get(), stride, &held, outside, over_shards);
            }
            (Ok(_), Err(error)) => panic!("shards take what is refused: {error}"),
            (Err(Error::Misplaced { .. }), _) if loss.label_smoothing() > 0.0 => {}
            // Every row's weight is multiplied by the heaviest class's.
            (Err(Error::RowParameter { name: "weight", .. }), _) => {}
            (Err(error), Ok(_)) => panic!("shards refuse what is taken: {error}"),
            (Err(_), Err(_)) => {}
        }
    }

    into(
        input,
        loss,
        (labels, &held),
        &logits,
        stride,
        &options,
        owned.as_ref().ok(),
    )?;
    in_place(
        input,
        loss,
        labels,
        logits.clone(),
        stride,
        &options,
        owned.as_ref().ok(),
    )?;
    if let Ok(owned) = &owned {
        // Smaller ones never ask a pool.
        if rows * classes > 1 << 13 {
            for pool in pools() {
                let again = pool.install(|| call(options));
                same(&again.expect("as without a pool"), owned);
            }
        }
    }
    Ok(())
}

fn into<T: LogitBits, L: Label>(
    input: &mut Unstructured<'_>,
    loss: &Loss,
    (labels, held): (&[L], &Held<'_, L, T::Real>),
    logits: &Guarded<T>,
    stride: usize,
    options: &Options<'_, T::Real>,
    owned: Option<&Outcome<T>>,
) -> Result<()> {
    let (rows, classes) = (labels.len(), loss.classes());
    let layout = Layout::any(input, rows, classes)?;
    let shift = usize::from(input.arbitrary::<u8>()? % 16);
    let mut gradient = Guarded::new(&vec![guard::<T>(); layout.length], guard(), shift);
    let mut losses = Guarded::new(
        &vec![guard::<T::Real>(); row_count(input, rows)?],
        guard(),
        0,
    );
    let mut hits = Guarded::new(&vec![true; row_count(input, rows)?], true, 0);
    let given: u16 = input.arbitrary()?;
    let (with_gradient, with_losses, with_hits) = (given & 3 != 0, given & 4 != 0, given & 8 != 0);
    let with_predictions = given & 0x100 != 0;
    let guards = vec![NO_CLASS - 1; row_count(input, rows)?];
    let mut predictions = Guarded::new(&guards, NO_CLASS - 1, 0);

    let mut outputs = Outputs::new();
    if with_gradient {
        outputs = match layout.stride {
            Some(stride) => outputs.gradient_strided(gradient.get_mut(), stride),
            None => outputs.gradient(gradient.get_mut()),
        };
    }
    let losses_fit = losses.get().len() == rows;
    if with_losses {
        outputs = outputs.row_losses(losses.get_mut());
    }
    let hits_fit = hits.get().len() == rows;
    if with_hits {
        outputs = outputs.hits(hits.get_mut());
    }
    let predictions_fit = predictions.get().len() == rows;
    if with_predictions {
        outputs = outputs.predictions(predictions.get_mut());
    }
    // Only a call that allocates them may be asked for them without a buffer.
    let (hits_asked, predictions_asked) = (given & 0xf0 == 0, given & 0xe00 == 0xe00);
    let mut options = *options;
    if hits_asked {
        options = options.hits();
    }
    if predictions_asked {
        options = options.predictions();
    }
    let fits = (!with_gradient || layout.fits)
        && (!with_losses || losses_fit)
        && (if with_hits { hits_fit } else { !hits_asked })
        && (match with_predictions {
            true => predictions_fit,
            false => !predictions_asked,
        });

    let summary = loss.evaluate_into(logits.get(), labels, &options, outputs);
    logits.held();
    assert_eq!(
        summary.is_ok(),
        fits && owned.is_some(),
        "{:?}",
        summary.err()
    );
    let (Ok(summary), Some(owned)) = (summary, owned) else {
        gradient.held();
        losses.held();
        hits.held();
        predictions.held();
        return Ok(());
    };
    assert_eq!(summary.loss.to_bits(), owned.loss.to_bits());
    assert_eq!(summary.counted_rows, owned.counted_rows);
    assert_eq!(summary.total_weight, held.total_weight());
    if with_gradient {
        let own = layout.stride.unwrap_or(classes);
        gradient.held_but(in_rows(rows, classes, own));
        assert_eq!(
            gradient.rows(rows, classes, own),
            bits::all(&owned.gradient),
            "{stride}"
        );
    } else {
        gradient.held();
    }
    if with_losses {
        losses.held_but(|_| true);
        assert_eq!(bits::all(losses.get()), bits::all(&owned.row_losses));
    } else {
        losses.held();
    }
    if with_hits {
        hits.held_but(|_| true);
        assert_eq!(Some(hits.get()), owned.hits.as_deref());
    } else {
        hits.held();
    }
    if with_predictions {
        predictions.held_but(|_| true);
        assert_eq!(Some(predictions.get()), owned.predictions.as_deref());
    } else {
        predictions.held();
    }
    Ok(())
}

fn in_place<T: LogitBits, L: Label>(
    input: &mut Unstructured<'_>,
    loss: &Loss,
    labels: &[L],
    mut logits: Guarded<T>,
    stride: usize,
    options: &Options<'_, T::Real>,
    owned: Option<&Outcome<T>>,
) -> Result<()> {
    let (rows, classes) = (labels.len(), loss.classes());
    let mut losses = Guarded::new(&vec![guard::<T::Real>(); rows], guard(), 0);
    let given: u8 = input.arbitrary()?;
    let mut outputs = Outputs::new();
    if given & 1 != 0 {
        outputs = outputs.row_losses(losses.get_mut());
    }
    let (mut hits, mut predictions) = (vec![true; rows], vec![NO_CLASS - 1; rows]);
    if given & 2 != 0 {
        outputs = outputs.hits(&mut hits);
    }
    if given & 4 != 0 {
        outputs = outputs.predictions(&mut predictions);
    }
    let mut gradient = [guard::<T>()];
    let with_gradient = given & 0xf0 == 0;
    if with_gradient {
        outputs = outputs.gradient(&mut gradient);
    }
    let summary = loss.evaluate_in_place(logits.get_mut(), labels, options, outputs);
    assert_eq!(
        summary.is_ok(),
        !with_gradient && owned.is_some(),
        "{:?}",
        summary.err()
    );
    let (Ok(summary), Some(owned)) = (summary, owned) else {
        logits.held();
        losses.held();
        return Ok(());
    };
    assert_eq!(summary.loss.to_bits(), owned.loss.to_bits());
    logits.held_but(in_rows(rows, classes, stride));
    assert_eq!(
        logits.rows(rows, classes, stride),
        bits::all(&owned.gradient)
    );
    if given & 1 != 0 {
        losses.held_but(|_| true);
        assert_eq!(bits::all(losses.get()), bits::all(&owned.row_losses));
    }
    if given & 2 != 0 {
        assert_eq!(Some(hits), owned.hits);
    }
    if given & 4 != 0 {
        assert_eq!(Some(predictions), owned.predictions);
    }
    Ok(())
}

fn same<T: LogitBits>(a: &Outcome<T>, b: &Outcome<T>) {
    assert_eq!(a.loss.to_bits(), b.loss.to_bits());
    assert_eq!(bits::all(&a.row_losses), bits::all(&b.row_losses));
    assert_eq!(bits::all(&a.gradient), bits::all(&b.gradient));
    assert_eq!((a.counted_rows, &a.hits), (b.counted_rows, &b.hits));
    assert_eq!(a.predictions, b.predictions);
}

/// Of one thread and of three, made once.
fn pools() -> &'static [ThreadPool; 2] {
    static POOLS: OnceLock<[ThreadPool; 2]> = OnceLock::new();
    POOLS.get_or_init(|| {
        [1, 3].map(|threads| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            builder.build().expect("a thread pool")
        })
    })
}
