//! Class counts from any annotation file, any labels and any numbers: an error or the right counts,
//! which a plain recount gives too.

#![no_main]

use std::io::BufReader;

use ala_loss::{ClassCounts, Error, GroupThresholds, Label, ZeroCounts};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Where no number of classes is given, a label from here on is refused.
const MOST_CLASSES: usize = 1 << 24;
/// From here up to that it is taken, and so many counts make a slow run: not tried.
const MOST_CLASSES_TRIED: usize = 1 << 12;
const MOST_COUNT: u64 = 1 << 53;

fuzz_target!(|data: &[u8]| {
    // What is left of the bytes is as good as none.
    let _ = check(&mut Unstructured::new(data));
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let zero = match input.arbitrary()? {
        true => ZeroCounts::Reject,
        false => ZeroCounts::TreatAsOne,
    };
    match input.int_in_range(0..=9u8)? {
        0 => numbers(input, zero),
        1 => labels::<u8>(input, zero),
        2 => labels::<i16>(input, zero),
        3 => labels::<i64>(input, zero),
        4 => labels::<u64>(input, zero),
        _ => annotations(input, zero),
    }
}

fn annotations(input: &mut Unstructured<'_>, zero: ZeroCounts) -> Result<()> {
    let classes = match input.int_in_range(0..=3u8)? {
        0 | 1 => None,
        2 => Some(usize::from(input.arbitrary::<u8>()?)),
        // No memory has room for so many counts.
        _ => Some(usize::MAX - usize::from(input.arbitrary::<u8>()?)),
    };
    let first = usize::from(input.arbitrary::<u8>()? / 64);
    let buffered = usize::from(input.arbitrary::<u8>()?);
    let file = input.bytes(input.len())?;
    let recount = read(file, first);
    let largest = |classes: &[usize]| classes.iter().copied().max();
    if classes.is_none() {
        let read = match &recount {
            Ok(read) => read,
            Err((_, read)) => read,
        };
        let slow = MOST_CLASSES_TRIED..MOST_CLASSES;
        if read.iter().any(|class| slow.contains(class)) {
            return Ok(());
        }
    }
    // A reader may have any part of a line at hand.
    let lines = BufReader::with_capacity(1 + buffered, file);
    let counts = ClassCounts::from_annotations_starting_at(first, lines, classes, zero);
    if first == 0 {
        assert_eq!(ClassCounts::from_annotations(file, classes, zero), counts);
    }

    let most = classes.unwrap_or(MOST_CLASSES);
    if most > isize::MAX as usize {
        assert_eq!(counts, Err(Error::TooManyClasses { classes: most }));
        return Ok(());
    }
    let (read, bad_line) = match recount {
        Ok(read) => (read, None),
        Err((line, read)) => (read, Some(line)),
    };
    let outside = read.iter().any(|&class| class >= most);
    if outside || bad_line.is_some() {
        let Err(Error::Annotation { line, .. }) = counts else {
            panic!("{counts:?} of a file with a bad line");
        };
        assert!(
            outside || bad_line == Some(line),
            "line {line} of {bad_line:?}"
        );
        return Ok(());
    }
    let classes = classes.unwrap_or(largest(&read).map_or(0, |class| class + 1));
    held(&counts, &recounted(&read, classes), zero, true);
    Ok(())
}

/// The class of each line, as the documentation says; of a bad line its number, and what was before
/// it.
fn read(file: &[u8], first: usize) -> std::result::Result<Vec<usize>, (usize, Vec<usize>)> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut read = Vec::new();
    for (line, text) in file.split(|&byte| byte == b'\n').enumerate() {
        let mut fields = text
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let (path, label) = (fields.next(), fields.next_back());
        if path.is_none() {
            continue;
        }
        let label = label.and_then(|label| str::from_utf8(label).ok()?.parse::<usize>().ok());
        match label.and_then(|label| label.checked_sub(first)) {
            Some(class) => read.push(class),
            None => return Err((line + 1, read)),
        }
    }
    Ok(read)
}

fn labels<L: Label + for<'a> Arbitrary<'a>>(
    input: &mut Unstructured<'_>,
    zero: ZeroCounts,
) -> Result<()> {
    let classes = usize::from(input.arbitrary::<u8>()?);
    // Half of the inputs are of classes only, or hardly one would be.
    let within: bool = input.arbitrary()?;
    let mut labels = Vec::new();
    for label in input.arbitrary_iter::<L>()? {
        let label = label?;
        let is_class = (0..classes as i128).contains(&label.value());
        if !within || is_class {
            labels.push(label);
        }
    }
    let counts = ClassCounts::from_labels(&labels, classes, zero);
    let bad = labels
        .iter()
        .position(|label| !(0..classes as i128).contains(&label.value()));
    if let Some(row) = bad {
        let label = labels[row].value();
        assert_eq!(
            counts,
            Err(Error::Label {
                row,
                label,
                classes
            })
        );
        return Ok(());
    }
    let read: Vec<usize> = labels.iter().map(|label| label.value() as usize).collect();
    held(&counts, &recounted(&read, classes), zero, true);
    Ok(())
}

fn numbers(input: &mut Unstructured<'_>, zero: ZeroCounts) -> Result<()> {
    let beta: f64 = input.arbitrary()?;
    let (many, few) = (input.arbitrary()?, input.arbitrary()?);
    let mut numbers = Vec::new();
    for number in input.arbitrary_iter::<(u8, u64)>()? {
        let (size, number) = number?;
        numbers.push(number >> (size % 64));
    }
    let counts = ClassCounts::with_zero_policy(numbers.clone(), zero);
    if zero == ZeroCounts::Reject {
        assert_eq!(ClassCounts::new(numbers.clone()), counts);
    }
    held(&counts, &numbers, zero, false);
    let Ok(counts) = counts else { return Ok(()) };

    let weights = counts.class_balanced_weights(beta);
    assert_eq!(weights.is_ok(), (0.0..1.0).contains(&beta), "beta {beta}");
    if let Ok(weights) = weights {
        assert!(
            weights.iter().all(|&w| w.is_finite() && w > 0.0),
            "{weights:?}"
        );
        let (sum, classes) = (weights.iter().sum::<f64>(), counts.classes() as f64);
        assert!(
            (sum - classes).abs() <= 1e-9 * classes,
            "weights sum to {sum}"
        );
    }
    if let Ok(thresholds) = GroupThresholds::new(many, few) {
        assert_eq!(counts.groups(thresholds).len(), counts.classes());
    }
    Ok(())
}

fn recounted(classes_read: &[usize], classes: usize) -> Vec<u64> {
    let mut counts = vec![0; classes];
    for &class in classes_read {
        counts[class] += 1;
    }
    counts
}

/// Holds a result against the numbers that it is of; `labels` where they were counted.
fn held(
    counts: &std::result::Result<ClassCounts, Error>,
    numbers: &[u64],
    zero: ZeroCounts,
    labels: bool,
) {
    let missing = numbers.iter().filter(|&&number| number == 0).count();
    let reject = zero == ZeroCounts::Reject;
    let too_large = numbers.iter().any(|&number| number > MOST_COUNT);
    match counts {
        Err(Error::NoClasses) => assert!(numbers.is_empty()),
        Err(Error::CountTooLarge { class, count }) => {
            assert!(numbers[*class] == *count && *count > MOST_COUNT);
        }
        Err(Error::ZeroCount { class }) => {
            // Where labels are counted, only if there is none at all.
            assert!(reject && numbers[*class] == 0 && (!labels || missing == numbers.len()));
        }
        Err(Error::MissingClasses {
            smallest,
            missing: told,
            classes,
            ..
        }) => {
            assert!(reject && labels && (*told, *classes) == (missing, numbers.len()));
            assert_eq!(
                Some(*smallest),
                numbers.iter().position(|&number| number > 0)
            );
        }
        Err(error) => panic!("{error}"),
        Ok(counts) => {
            assert!(!numbers.is_empty() && !too_large && (missing == 0 || !reject));
            let expected: Vec<u64> = numbers.iter().map(|&number| number.max(1)).collect();
            assert_eq!(counts.as_slice(), expected);
            assert_eq!(
                counts.total(),
                expected.iter().map(|&count| u128::from(count)).sum()
            );
            let (least, most) = (expected.iter().min(), expected.iter().max());
            assert_eq!((Some(&counts.min()), Some(&counts.max())), (least, most));
            assert!(counts.imbalance_ratio() >= 1.0);
            assert!((counts.priors().iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }
    if let Err(error) = counts {
        assert!(!error.to_string().is_empty());
    }
}
