//! Training batches in an order that is a pure function of the seed and the position, so that a run resumes at any
//! step without a saved state.

use super::Dataset;
use crate::rng::{Address, Purpose, permutation};
use crate::{Error, Result};

/// Cuts the shuffled training images into batches.
///
/// Place `p = step·batch + i` lies in epoch `p / n`, `n` being the number of training images, and holds the image
/// `train[order_epoch[p mod n]]`, where `order_epoch` is the permutation of [`Purpose::Shuffle`] at step `epoch`. A
/// batch may straddle two epochs: none is cut short, and every epoch holds every image once.
///
/// # Example
/// ```
/// # fn main() -> tweedie::Result<()> {
/// use tweedie::data::{Dataset, Loader};
/// let digits = Dataset::load("digits", 0)?;
/// let mut loader = Loader::new(&digits, 7, 2)?;
/// let (mut images, mut labels) = (vec![0.0; 2 * 64], vec![0; 2]);
/// loader.fill(1000, &mut images, &mut labels)?;
/// assert!(images.iter().all(|x| (-1.0..=1.0).contains(x)) && labels.iter().all(|k| *k < 10));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Loader<'a> {
    dataset: &'a Dataset,
    seed: u64,
    batch: usize,
    /// The permutation of `epoch`, shuffled in place when the epoch changes.
    order: Vec<u32>,
    epoch: u64,
    /// Scratch of [`Loader::fill`].
    indices: Vec<u32>,
}

impl<'a> Loader<'a> {
    /// A loader of batches of `batch` training images, 1 to their number.
    ///
    /// # Errors
    /// [`Error::Data`] if `batch` is 0 or exceeds the number of training images: a batch would hold an image twice.
    pub fn new(dataset: &'a Dataset, seed: u64, batch: usize) -> Result<Loader<'a>> {
        let n = dataset.train().len();
        if batch == 0 || batch > n {
            return Err(Error::Data(format!(
                "data set \"{}\": expected a batch of 1 to {n}, the number of training images, got {batch}; choose a \
                 smaller --batch",
                dataset.name()
            )));
        }
        let mut order = vec![0; n];
        permutation(Address::new(seed, Purpose::Shuffle), &mut order);
        Ok(Loader { dataset, seed, batch, order, epoch: 0, indices: vec![0; batch] })
    }

    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The data set the batches come from.
    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// How many times each training image has been seen, on average, before `step`.
    pub fn epochs_before(&self, step: u64) -> f64 {
        step as f64 * self.batch as f64 / self.order.len() as f64
    }

    /// Writes the indices (into the data set) of batch `step` into `out`, `[batch]`.
    ///
    /// Cheap within an epoch; another epoch costs one shuffle in place.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` is not one batch long.
    pub fn batch_indices(&mut self, step: u64, out: &mut [u32]) -> Result<()> {
        check_len("indices", out.len(), self.batch)?;
        self.write_indices(step, out);
        Ok(())
    }

    fn write_indices(&mut self, step: u64, out: &mut [u32]) {
        let n = self.order.len() as u64;
        let first = step * self.batch as u64;
        for (i, index) in out.iter_mut().enumerate() {
            let place = first + i as u64;
            self.shuffle_for(place / n);
            *index = self.dataset.train()[self.order[(place % n) as usize] as usize];
        }
    }

    fn shuffle_for(&mut self, epoch: u64) {
        if epoch != self.epoch {
            permutation(Address::new(self.seed, Purpose::Shuffle).step(epoch as usize), &mut self.order);
            self.epoch = epoch;
        }
    }

    /// Writes batch `step`: its images in [-1, 1] and their labels.
    ///
    /// * `images` — `[batch, h, w, c]`
    /// * `labels` — `[batch]`, or empty if they are not wanted
    ///
    /// Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] if a length is wrong; [`Error::Data`] if labels are wanted of a data set without.
    pub fn fill(&mut self, step: u64, images: &mut [f32], labels: &mut [u32]) -> Result<()> {
        let image_len = self.dataset.image_len();
        check_len("image values", images.len(), self.batch * image_len)?;
        if !labels.is_empty() {
            check_len("labels", labels.len(), self.batch)?;
        }
        // Taken out, so that `self` can be borrowed; an empty vector owns no memory.
        let mut indices = std::mem::take(&mut self.indices);
        self.write_indices(step, &mut indices);
        for (index, image) in indices.iter().zip(images.chunks_exact_mut(image_len)) {
            self.dataset.copy_image(*index as usize, image);
        }
        let result = self.copy_labels(&indices, labels);
        self.indices = indices;
        result
    }

    fn copy_labels(&self, indices: &[u32], labels: &mut [u32]) -> Result<()> {
        for (index, label) in indices.iter().zip(labels) {
            let Some(class) = self.dataset.label(*index as usize) else {
                return Err(Error::Data(format!(
                    "data set \"{}\": expected labels, got none; train without classes",
                    self.dataset.name()
                )));
            };
            *label = class;
        }
        Ok(())
    }
}

fn check_len(what: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::Shape(format!("loader: expected room for {want} {what}, got {got}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` images of one pixel that is their own index, labelled by its remainder by 3.
    fn counted(n: usize, held_out: usize) -> Dataset {
        let labels = (0..n as u32).map(|i| i % 3).collect();
        Dataset::from_pixels("counted", (0..n as u8).collect(), [n, 1, 1, 1], labels, 255, held_out).unwrap()
    }

    fn batches(loader: &mut Loader, steps: impl Iterator<Item = u64>) -> Vec<u32> {
        let mut out = vec![0; loader.batch()];
        steps
            .flat_map(|step| {
                loader.batch_indices(step, &mut out).unwrap();
                out.clone()
            })
            .collect()
    }

    #[test]
    fn every_epoch_holds_every_training_image_once_in_another_order() {
        let dataset = counted(30, 7);
        // 23 images in batches of 5: 23 steps are 5 epochs, and batches straddle them.
        let mut loader = Loader::new(&dataset, 3, 5).unwrap();
        let seen = batches(&mut loader, 0..23);
        let epochs: Vec<&[u32]> = seen.chunks(23).collect();
        for (i, epoch) in epochs.iter().enumerate() {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, dataset.train(), "epoch {i}");
            assert!(i == 0 || epochs[i - 1] != *epoch, "epochs {} and {i} have one order", i - 1);
        }
        assert_eq!(epochs.len(), 5);
    }

    #[test]
    fn a_loader_resumes_from_any_step_identically() {
        let dataset = counted(23, 0);
        let whole = batches(&mut Loader::new(&dataset, 3, 5).unwrap(), 0..40);
        for start in 0..40 {
            let mut resumed = Loader::new(&dataset, 3, 5).unwrap();
            let rest = batches(&mut resumed, start..40);
            assert_eq!(rest, whole[start as usize * 5..], "from step {start}");
            assert_eq!(batches(&mut resumed, 0..1), whole[..5], "and back");
        }
        assert_ne!(batches(&mut Loader::new(&dataset, 4, 5).unwrap(), 0..40), whole, "another seed");
    }

    #[test]
    fn the_order_of_places_does_not_depend_on_the_batch_size() {
        let dataset = counted(20, 0);
        let by_four = batches(&mut Loader::new(&dataset, 1, 4).unwrap(), 0..15);
        let by_twenty = batches(&mut Loader::new(&dataset, 1, 20).unwrap(), 0..3);
        assert_eq!(by_four, by_twenty);
    }

    #[test]
    fn labels_and_pixels_follow_the_images() {
        let dataset = counted(23, 3);
        let mut loader = Loader::new(&dataset, 3, 6).unwrap();
        let (mut indices, mut images, mut labels) = ([0; 6], [0.0; 6], [0; 6]);
        for step in 0..10 {
            loader.batch_indices(step, &mut indices).unwrap();
            loader.fill(step, &mut images, &mut labels).unwrap();
            for i in 0..6 {
                assert_eq!(images[i], (f64::from(indices[i]) / 127.5 - 1.0) as f32, "step {step}, image {i}");
                assert_eq!(labels[i], indices[i] % 3, "step {step}, label {i}");
                assert!(indices[i] < 20, "held-out image {} in a batch", indices[i]);
            }
        }
        images.fill(9.0);
        loader.fill(0, &mut images, &mut []).unwrap();
        assert!(images.iter().all(|x| *x <= 1.0), "images come without labels too");
        assert_eq!(loader.epochs_before(10), 3.0);
    }

    #[test]
    fn wrong_batches_and_lengths_are_refused() {
        let dataset = counted(5, 2);
        for batch in [0, 4] {
            let text = Loader::new(&dataset, 0, batch).unwrap_err().to_string();
            let want = "expected a batch of 1 to 3, the number of training images";
            assert!(text.contains(want) && text.contains(&format!("got {batch}; choose")), "{text}");
        }
        let mut loader = Loader::new(&dataset, 0, 3).unwrap();
        let text = loader.fill(0, &mut [0.0; 2], &mut [0; 3]).unwrap_err().to_string();
        assert_eq!(text, "loader: expected room for 3 image values, got 2");
        assert!(loader.fill(0, &mut [0.0; 3], &mut [0; 2]).is_err());
        assert!(loader.batch_indices(0, &mut [0; 2]).is_err());
        let unlabelled = Dataset::from_pixels("bare", vec![0; 3], [3, 1, 1, 1], vec![], 255, 0).unwrap();
        let mut loader = Loader::new(&unlabelled, 0, 3).unwrap();
        let text = loader.fill(0, &mut [0.0; 3], &mut [0; 3]).unwrap_err().to_string();
        assert!(text.contains("expected labels, got none"), "{text}");
        loader.fill(0, &mut [0.0; 3], &mut []).unwrap();
    }
}
