//! What a launch did, in numbers that are exact and the same in every run.

/// Sums over a launch. Those of memory are taken in check mode only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) launches: u64,
    /// Instructions issued, by warp and by active lane.
    pub(crate) warp_instructions: u64,
    pub(crate) lane_instructions: u64,
    pub(crate) mma_instructions: u64,
    pub(crate) mma_flops: u64,
    pub(crate) divergent_branches: u64,
    pub(crate) barriers: u64,
    /// Warp-wide accesses to global memory, the 32-byte sectors they touch, and how few would hold the same bytes.
    pub(crate) global_requests: u64,
    pub(crate) sectors: u64,
    pub(crate) ideal_sectors: u64,
    /// Passes through the 32 banks of shared memory, and how few there would be without conflicts.
    pub(crate) shared_waves: u64,
    pub(crate) ideal_waves: u64,
    /// Bytes that lanes asked for and wrote, each time counted.
    pub(crate) bytes_loaded: u64,
    pub(crate) bytes_stored: u64,
    /// Different bytes of global memory.
    pub(crate) unique_read: u64,
    pub(crate) unique_written: u64,
    pub(crate) atomics: u64,
    /// Warp instructions by opcode, as indices of the kernel's names.
    pub(crate) opcodes: Vec<u64>,
}

macro_rules! sums {
    ($($field:ident),+ $(,)?) => {
        impl Counters {
            pub(crate) fn add(&mut self, other: &Counters) {
                $(self.$field += other.$field;)+
                self.opcodes.resize(self.opcodes.len().max(other.opcodes.len()), 0);
                for (sum, count) in self.opcodes.iter_mut().zip(&other.opcodes) {
                    *sum += count;
                }
            }

            /// Names and values, in the order above.
            pub(crate) fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field)),+]
            }
        }
    };
}
sums!(
    launches,
    warp_instructions,
    lane_instructions,
    mma_instructions,
    mma_flops,
    divergent_branches,
    barriers,
    global_requests,
    sectors,
    ideal_sectors,
    shared_waves,
    ideal_waves,
    bytes_loaded,
    bytes_stored,
    unique_read,
    unique_written,
    atomics,
);

impl Counters {
    /// Adds one access of a warp to global memory: the lanes' addresses, each `bytes` long.
    pub(crate) fn global(&mut self, addresses: &mut [u64], bytes: u64) {
        self.global_requests += 1;
        let (Some(&first), count) = (addresses.first(), addresses.len() as u64) else { return };
        if addresses.iter().zip(0..).all(|(&address, k)| address == first + k * bytes) {
            let length = count * bytes;
            self.sectors += (first + length - 1) / 32 - first / 32 + 1;
            self.ideal_sectors += length.div_ceil(32);
            return;
        }
        addresses.sort_unstable();
        let (mut end, mut distinct, mut next_sector) = (0, 0, 0);
        for &address in addresses.iter() {
            distinct += (address + bytes).saturating_sub(end.max(address));
            end = end.max(address + bytes);
            let (low, high) = ((address / 32).max(next_sector), (address + bytes - 1) / 32);
            self.sectors += (high + 1).saturating_sub(low);
            next_sector = next_sector.max(high + 1);
        }
        self.ideal_sectors += distinct.div_ceil(32);
    }

    /// Adds one access to shared memory. Eight-byte accesses go by half warps, sixteen-byte ones by quarters; lanes that want
    /// the same word of a bank share it.
    pub(crate) fn shared(&mut self, offsets: &[u32], bytes: u32) {
        for phase in offsets.chunks((128 / bytes.max(4)) as usize) {
            let mut count = [0u8; 32];
            let mut words = [[u32::MAX; 32]; 32];
            for word in phase.iter().flat_map(|offset| offset / 4..offset / 4 + bytes.div_ceil(4)) {
                let bank = (word % 32) as usize;
                let known = &words[bank][..count[bank] as usize];
                if !known.contains(&word) {
                    words[bank][count[bank] as usize] = word;
                    count[bank] += 1;
                }
            }
            self.shared_waves += u64::from(count.into_iter().max().unwrap_or(0));
            self.ideal_waves += 1;
        }
    }
}
