//! The images that are embedded in this program.

use crate::data::{DataError, Split};
use crate::idx::Embedded;

macro_rules! embedded {
    ($folder:literal, $labels:literal) => {
        Embedded {
            train_images: include_bytes!(concat!("data/", $folder, "/train-images-idx3-ubyte.gz")),
            train_labels: include_bytes!(concat!(
                "data/",
                $folder,
                "/train-labels-idx1-",
                $labels,
                ".gz"
            )),
            test_images: include_bytes!(concat!("data/", $folder, "/t10k-images-idx3-ubyte.gz")),
            test_labels: include_bytes!(concat!(
                "data/",
                $folder,
                "/t10k-labels-idx1-",
                $labels,
                ".gz"
            )),
        }
    };
}

const FASHION_MNIST: Embedded = embedded!("fashion_mnist", "ubyte");
const SYMBOLS: Embedded = embedded!("symbols", "short");

/// The reduced Fashion-MNIST in `data/fashion_mnist`: 20,000 training and 10,000 test images of
/// 14x14, 10 balanced classes.
pub(crate) fn fashion_mnist() -> Result<Split, DataError> {
    FASHION_MNIST.read()
}

/// The hand-drawn symbols in `data/symbols`: 28,575 training images of 24x24, 15 to 45 of each of
/// 815 classes, and 5 test images of each.
pub(crate) fn symbols() -> Result<Split, DataError> {
    SYMBOLS.read()
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;

    use crate::data::{Samples, refusal};
    use crate::idx::{TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, from_idx_dir};

    use super::*;

    type TestResult = Result<(), Box<dyn Error>>;

    fn class_sizes(samples: &Samples) -> Vec<u64> {
        let mut sizes = vec![0; samples.classes];
        for &label in &samples.labels {
            sizes[label as usize] += 1;
        }
        sizes
    }

    #[test]
    fn fashion_mnist_is_balanced_and_of_the_documented_shape() -> TestResult {
        let split = fashion_mnist()?;
        for (samples, per_class) in [(&split.train, 2000), (&split.test, 1000)] {
            assert_eq!((samples.width, samples.classes), (196, 10));
            assert_eq!(class_sizes(samples), [per_class; 10]);
            assert_eq!(samples.features.len(), samples.labels.len() * 196);
        }
        Ok(())
    }

    #[test]
    fn symbols_are_of_the_documented_shape() -> TestResult {
        let split = symbols()?;
        let (train, test) = (&split.train, &split.test);
        assert_eq!((train.width, train.classes), (576, 815));
        assert_eq!((train.labels.len(), test.labels.len()), (28_575, 4075));
        assert_eq!(class_sizes(test), [5; 815]);
        let sizes = class_sizes(train);
        let range = (sizes.iter().min(), sizes.iter().max());
        assert_eq!(range, (Some(&15), Some(&45)));
        Ok(())
    }

    /// Else what a network has learnt by heart would count as right, or two classes be one.
    #[test]
    fn no_symbol_comes_twice() -> TestResult {
        let split = symbols()?;
        let mut images = std::collections::HashSet::new();
        for samples in [&split.train, &split.test] {
            for image in samples.features.chunks_exact(samples.width) {
                let bits: Vec<u32> = image.iter().map(|x| x.to_bits()).collect();
                assert!(images.insert(bits));
            }
        }
        assert_eq!(images.len(), 28_575 + 4075);
        Ok(())
    }

    /// The four greys, and where they are: `black` is what surrounds a drawing.
    #[test]
    fn a_symbol_is_drawn_on_black() -> TestResult {
        let split = symbols()?;
        let image = split.image.ok_or("images have a shape")?;
        assert_eq!((image.rows, image.columns), (24, 24));
        let mut values: Vec<f32> = split.test.features.clone();
        assert!(values.chunks_exact(576).all(|pixels| {
            let edge = pixels[..24].iter().chain(&pixels[552..]);
            edge.into_iter().all(|&x| x == image.black)
        }));
        values.sort_by(f32::total_cmp);
        values.dedup();
        assert_eq!((values.len(), values[0]), (4, image.black));
        Ok(())
    }

    #[test]
    fn embedded_training_pixels_have_mean_0_and_variance_1() -> TestResult {
        for split in [fashion_mnist()?, symbols()?] {
            let features = split.train.features;
            let count = features.len() as f64;
            let mean = features.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let square = features.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / count;
            assert!(mean.abs() < 1e-6, "mean {mean}");
            assert!((square - 1.0).abs() < 1e-6, "mean square {square}");
        }
        Ok(())
    }

    #[test]
    fn packed_files_in_a_folder_read_like_the_embedded_ones() -> TestResult {
        let dir = tempfile::tempdir()?;
        for (name, bytes) in [
            (TRAIN_IMAGES, FASHION_MNIST.train_images),
            (TRAIN_LABELS, FASHION_MNIST.train_labels),
            (TEST_IMAGES, FASHION_MNIST.test_images),
            (TEST_LABELS, FASHION_MNIST.test_labels),
        ] {
            fs::write(dir.path().join(format!("{name}.gz")), bytes)?;
        }
        assert!(from_idx_dir(dir.path(), 0)? == fashion_mnist()?);

        let cut = &FASHION_MNIST.test_images[..FASHION_MNIST.test_images.len() / 2];
        fs::write(dir.path().join(format!("{TEST_IMAGES}.gz")), cut)?;
        let message = refusal(dir.path(), from_idx_dir(dir.path(), 0))?;
        assert!(
            message.starts_with("t10k-images-idx3-ubyte.gz: truncated: ")
                && message.ends_with(" bytes, expected 1960016"),
            "{message}"
        );
        Ok(())
    }
}
