//! `ldmatrix` and `stmatrix`: 8×8 matrices of halves between shared memory and registers.

use super::access::Writing;
use super::block::{Block, Step, Warp};
use crate::decode::{Access, Ins};
use crate::mma;

impl<const CHECK: bool> Block<'_, CHECK> {
    /// Lane 8q + r gives the address of row r of matrix q.
    pub(crate) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        ins: &Ins,
        pc: u32,
        from: &Access,
        transposed: bool,
        mask: u32,
    ) -> Step<()> {
        self.want_all(warp, pc, mask);
        let addresses = self.addresses(warp, from);
        for (matrix, &slot) in ins.targets().iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = (matrix * 8 + r) as u32;
                let place = self.shared_place(warp, pc, lane, addresses[lane as usize], 16)?;
                if CHECK {
                    self.note_read(warp, pc, lane, &place, 16, false);
                }
                // SAFETY: `place` has 16 bytes, aligned so.
                *row = unsafe { place.data.cast::<[u16; 8]>().read() };
            }
            warp.regs.put(slot, mma::fragment(&rows, transposed), mask);
            if CHECK {
                let offsets: [u32; 8] = std::array::from_fn(|r| addresses[matrix * 8 + r] as u32);
                self.counters.shared(&offsets, 16);
            }
        }
        Ok(())
    }

    pub(crate) fn store_matrix(
        &mut self,
        warp: &mut Warp,
        ins: &Ins,
        pc: u32,
        to: &Access,
        transposed: bool,
        mask: u32,
    ) -> Step<()> {
        self.want_all(warp, pc, mask);
        let addresses = self.addresses(warp, to);
        let count = ins.sources().len() - 1;
        for (matrix, &slot) in ins.sources()[..count].iter().enumerate() {
            let rows = mma::rows(&warp.regs.get(slot), transposed);
            for (r, row) in rows.iter().enumerate() {
                let lane = (matrix * 8 + r) as u32;
                let place = self.shared_place(warp, pc, lane, addresses[lane as usize], 16)?;
                if CHECK {
                    self.note_write(warp, pc, lane, &place, 16, Writing::Plain { same: false });
                }
                // SAFETY: `place` has 16 bytes, aligned so.
                unsafe { place.data.cast::<[u16; 8]>().write(*row) };
            }
            if CHECK {
                let offsets: [u32; 8] = std::array::from_fn(|r| addresses[matrix * 8 + r] as u32);
                self.counters.shared(&offsets, 16);
            }
        }
        Ok(())
    }
}
