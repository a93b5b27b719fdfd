//! A short name for a data set's content.

/// FNV-1a on 64-bit words, with a fold after each: the multiplication alone carries no bit downwards.
pub(super) struct Fnv(u64);

impl Fnv {
    pub(super) fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325) // Fowler, Noll & Vo: offset basis of 64 bits
    }

    pub(super) fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3); // and their prime
        self.0 = mixed ^ (mixed >> 32);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    /// 16 hexadecimal digits.
    pub(super) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
