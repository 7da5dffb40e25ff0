//! Training images shifted and scaled at random.

use candle_core::{Device, Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::{Image, Samples};

/// The largest shift along each axis, in pixels.
const SHIFT: f32 = 2.0;
/// The smallest and largest factor by which an image is scaled.
const ZOOM: (f32, f32) = (0.85, 1.15);

/// Training images on the host, to be drawn anew for each batch.
#[derive(Clone)]
pub(crate) struct Images {
    samples: Samples,
    image: Image,
}

/// The draws of one trial: the same ones for every method.
pub(crate) struct Augmentation {
    random: ChaCha8Rng,
}

/// Where an image goes: about its middle scaled, then shifted, in pixels.
#[derive(Clone, Copy, Debug)]
struct Placement {
    zoom: f32,
    down: f32,
    right: f32,
}

impl Images {
    pub(crate) fn new(samples: Samples, image: Image) -> Self {
        Self { samples, image }
    }

    fn pixels(&self, row: u32) -> &[f32] {
        let width = self.samples.width;
        &self.samples.features[row as usize * width..][..width]
    }
}

impl Augmentation {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The streams before it are listed in `tail`.
        random.set_stream(4);
        Self { random }
    }

    fn draw(&mut self) -> Placement {
        Placement {
            zoom: self.random.random_range(ZOOM.0..=ZOOM.1),
            down: self.random.random_range(-SHIFT..=SHIFT),
            right: self.random.random_range(-SHIFT..=SHIFT),
        }
    }

    /// The images of these rows, `[N, width]`, each placed by a draw of its own.
    pub(crate) fn batch(
        &mut self,
        images: &Images,
        rows: &[u32],
        device: &Device,
    ) -> Result<Tensor> {
        let width = images.samples.width;
        let mut pixels = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            place(images.pixels(row), images.image, self.draw(), &mut pixels);
        }
        Tensor::from_vec(pixels, (rows.len(), width), device)
    }
}

/// Appends the placed image: between pixels values are interpolated in both directions, and outside
/// all is black.
fn place(pixels: &[f32], image: Image, placement: Placement, placed: &mut Vec<f32>) {
    let Image {
        rows,
        columns,
        black,
    } = image;
    let from = |to: usize, side: usize, shift: f32| {
        let middle = (side as f32 - 1.0) / 2.0;
        let at = (to as f32 - middle - shift) / placement.zoom + middle;
        (at.floor(), at - at.floor())
    };
    let pixel = |row: f32, column: f32| {
        let inside = |at: f32, side: usize| at >= 0.0 && at < side as f32;
        if inside(row, rows) && inside(column, columns) {
            pixels[row as usize * columns + column as usize]
        } else {
            black
        }
    };
    for row in 0..rows {
        let (above, below_share) = from(row, rows, placement.down);
        for column in 0..columns {
            let (left, right_share) = from(column, columns, placement.right);
            let along = |row: f32| {
                let (a, b) = (pixel(row, left), pixel(row, left + 1.0));
                a + right_share * (b - a)
            };
            let (a, b) = (along(above), along(above + 1.0));
            placed.push(a + below_share * (b - a));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Image = Image {
        rows: 5,
        columns: 4,
        black: -1.0,
    };

    fn placed(pixels: &[f32], zoom: f32, down: f32, right: f32) -> Vec<f32> {
        let mut found = Vec::new();
        let placement = Placement { zoom, down, right };
        place(pixels, IMAGE, placement, &mut found);
        found
    }

    #[test]
    fn nothing_moves_without_shift_and_zoom() {
        let pixels: Vec<f32> = (0..20_u8).map(f32::from).collect();
        assert_eq!(placed(&pixels, 1.0, 0.0, 0.0), pixels);
    }

    #[test]
    fn a_shift_moves_down_and_right_and_leaves_black_behind() {
        let pixels: Vec<f32> = (0..20_u8).map(f32::from).collect();
        #[rustfmt::skip]
        let expected = [
            -1.0, -1.0, -1.0, -1.0,
            -1.0, -1.0, -1.0, -1.0,
            -1.0,  0.0,  1.0,  2.0,
            -1.0,  4.0,  5.0,  6.0,
            -1.0,  8.0,  9.0, 10.0,
        ];
        assert_eq!(placed(&pixels, 1.0, 2.0, 1.0), expected);
        let half = placed(&pixels, 1.0, 0.0, -0.5);
        assert_eq!(half[..4], [0.5, 1.5, 2.5, 1.0]);
    }

    /// The middle of 5 rows is a row, of 4 columns none.
    #[test]
    fn an_image_is_scaled_about_its_middle() {
        let rows: Vec<f32> = (0..20_u8).map(|i| f32::from(i / 4)).collect();
        let twice = placed(&rows, 2.0, 0.0, 0.0);
        let column: Vec<f32> = twice.iter().skip(1).step_by(4).copied().collect();
        assert_eq!(column, [1.0, 1.5, 2.0, 2.5, 3.0]);
        let columns: Vec<f32> = (0..20_u8).map(|i| f32::from(i % 4)).collect();
        assert_eq!(
            placed(&columns, 2.0, 0.0, 0.0)[..4],
            [0.75, 1.25, 1.75, 2.25]
        );
    }

    #[test]
    fn a_seed_repeats_its_draws_within_their_bounds() -> Result<()> {
        let samples = Samples {
            features: (0..40_u8).map(f32::from).collect(),
            width: 20,
            labels: vec![0, 1],
            classes: 2,
        };
        let images = Images::new(samples, IMAGE);
        let batches = |seed: u64| {
            let mut augmentation = Augmentation::new(seed);
            let mut batch = || augmentation.batch(&images, &[1, 0, 1], &Device::Cpu);
            Ok::<_, candle_core::Error>([batch()?.to_vec2::<f32>()?, batch()?.to_vec2::<f32>()?])
        };
        let [first, second] = batches(3)?;
        assert_eq!([first.clone(), second.clone()], batches(3)?);
        assert!(first != second && first[0] != first[2] && first != batches(4)?[0]);
        let mut augmentation = Augmentation::new(0);
        for _ in 0..1000 {
            let Placement { zoom, down, right } = augmentation.draw();
            assert!((ZOOM.0..=ZOOM.1).contains(&zoom));
            assert!(down.abs() <= SHIFT && right.abs() <= SHIFT);
        }
        Ok(())
    }
}
