//! The embedded data sets, and what is chosen for each of them.

use clap::ValueEnum;

use crate::data::{DataError, Split};
use crate::embedded;

/// Images that are embedded in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dataset {
    /// Fashion-MNIST, 10 classes of 14x14 images
    Fashion,
    /// Symbols of LaTeX drawn by hand, 815 classes of 24x24 images
    Symbols,
}

/// What is done to training images before a network sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AugmentationKind {
    /// Nothing
    None,
    /// Shifted by up to 2 pixels along each axis, scaled by 0.85 to 1.15
    ShiftScale,
}

/// Widths of the hidden layers for images.
pub(crate) const HIDDEN: [usize; 2] = [256, 128];

impl Dataset {
    pub(crate) fn read(self) -> Result<Split, DataError> {
        match self {
            Self::Fashion => embedded::fashion_mnist(),
            Self::Symbols => embedded::symbols(),
        }
    }

    /// Training steps where none are asked for.
    pub(crate) fn steps(self) -> u64 {
        match self {
            Self::Fashion => 1000,
            Self::Symbols => 6000,
        }
    }

    /// Ratio of the most to the least frequent class where none is asked for.
    pub(crate) fn imbalance(self) -> f64 {
        match self {
            Self::Fashion => 100.0,
            // From 44 images down to 4.
            Self::Symbols => 10.0,
        }
    }

    pub(crate) fn augmentation(self) -> AugmentationKind {
        match self {
            Self::Fashion => AugmentationKind::None,
            Self::Symbols => AugmentationKind::ShiftScale,
        }
    }

    /// Training images of each class on which a sweep validates.
    pub(crate) fn held_out(self) -> usize {
        match self {
            Self::Fashion => 200,
            Self::Symbols => 5,
        }
    }
}
