//! The embedded images, thinned out to a long tail.

use std::io::{self, Read};

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{Device, Int, Tensor, TensorData};
use flate2::read::GzDecoder;

/// The example of the candle adapter has them, with their source and licence.
macro_rules! embedded {
    ($name:literal) => {
        include_bytes!(concat!(
            "../../../candle/examples/long_tail/data/fashion_mnist/",
            $name
        ))
    };
}

/// An image and its class.
#[derive(Clone, Debug)]
pub struct Image {
    pixels: Vec<u8>,
    label: u8,
}

/// Images of one size.
#[derive(Clone, Debug)]
pub struct Images {
    pub items: Vec<Image>,
    /// Pixels of one image.
    pub pixels: usize,
}

/// A part of the images.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[N, pixels]`, with mean about 0.
    pub images: Tensor<2>,
    /// `[N]`.
    pub labels: Tensor<1, Int>,
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Images {
    /// Training and test images.
    pub fn embedded() -> io::Result<(Self, Self)> {
        let train = Self::read(
            embedded!("train-images-idx3-ubyte.gz"),
            embedded!("train-labels-idx1-ubyte.gz"),
        )?;
        let test = Self::read(
            embedded!("t10k-images-idx3-ubyte.gz"),
            embedded!("t10k-labels-idx1-ubyte.gz"),
        )?;
        Ok((train, test))
    }

    /// IDX files: 16 and 8 bytes of header, of which the files' own test knows that they fit.
    fn read(images: &[u8], labels: &[u8]) -> io::Result<Self> {
        let (images, labels) = (unpack(images)?, unpack(labels)?);
        let (images, labels) = (&images[16..], &labels[8..]);
        let pixels = images.len() / labels.len();
        let items = images.chunks_exact(pixels).zip(labels);
        Ok(Self {
            items: items
                .map(|(pixels, &label)| Image {
                    pixels: pixels.to_vec(),
                    label,
                })
                .collect(),
            pixels,
        })
    }

    /// Keeps of class `j` the first `n_0 r^(-j/(C-1))` images, `r` the imbalance, and says how many
    /// each has.
    pub fn thin(&mut self, imbalance: f64) -> Vec<u64> {
        let classes = self.items.iter().map(|image| image.label).max();
        let classes = classes.map_or(0, |last| usize::from(last) + 1);
        let most = self.items.len() as f64 / classes as f64;
        let wanted: Vec<u64> = (0..classes)
            .map(|class| {
                let rank = class as f64 / (classes - 1) as f64;
                (most * imbalance.powf(-rank)).round().max(1.0) as u64
            })
            .collect();
        let mut kept = vec![0; classes];
        self.items.retain(|image| {
            let class = usize::from(image.label);
            kept[class] += 1;
            kept[class] <= wanted[class]
        });
        wanted
    }

    /// In an order that the seed decides.
    pub fn shuffle(&mut self, seed: u64) {
        fastrand::Rng::with_seed(seed).shuffle(&mut self.items);
    }
}

/// Puts images into tensors.
#[derive(Clone, Debug)]
pub struct ImageBatcher;

impl Batcher<Image, Batch> for ImageBatcher {
    fn batch(&self, items: Vec<Image>, device: &Device) -> Batch {
        let (rows, pixels) = (
            items.len(),
            items.first().map_or(0, |item| item.pixels.len()),
        );
        let values: Vec<f32> = (items.iter().flat_map(|item| &item.pixels))
            .map(|&pixel| (f32::from(pixel) / 255.0 - 0.29) / 0.33)
            .collect();
        let labels: Vec<i64> = items.iter().map(|item| i64::from(item.label)).collect();
        Batch {
            images: Tensor::from_data(TensorData::new(values, [rows, pixels]), device),
            labels: Tensor::from_data(TensorData::new(labels, [rows]), device),
        }
    }
}
