//! The division into training and held-out images.

use crate::rng::{Address, Purpose, permutation};

/// Which images are held out.
pub(super) enum Split {
    /// The last ones, this many.
    Last(usize),
    /// A tenth by this seed, and at least one if there are two images or more.
    Seeded(u64),
}

impl Split {
    /// Training and held-out indices, each in rising order.
    pub(super) fn indices(self, count: usize) -> (Vec<u32>, Vec<u32>) {
        let mut order: Vec<u32> = (0..count as u32).collect();
        let held_out = match self {
            Split::Last(held_out) => held_out.min(count),
            Split::Seeded(seed) => {
                permutation(Address::new(seed, Purpose::Split), &mut order);
                (count / 10).max(usize::from(count > 1))
            }
        };
        let mut held_out = order.split_off(count - held_out);
        order.sort_unstable();
        held_out.sort_unstable();
        (order, held_out)
    }
}
