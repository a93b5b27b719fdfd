//! `cp.async`: the bytes are read when it is issued and arrive when the lane waits for their group; in between nobody may look.

use super::access::Writing;
use super::block::{Block, Copying, Step, Warp};
use super::step::{commit, lanes};
use crate::decode::{ALWAYS, Access, Ins};
use crate::ptx::Space;

/// `cp.async.wait_all`, which also commits.
pub(crate) const ALL: u32 = u32::MAX;

impl<const CHECK: bool> Block<'_, CHECK> {
    pub(crate) fn copy_async(
        &mut self,
        warp: &mut Warp,
        ins: &Ins,
        pc: u32,
        to: &Access,
        from: &Access,
        mask: u32,
    ) -> Step<()> {
        let (targets, sources) = (self.addresses(warp, to), self.addresses(warp, from));
        let filled: [u32; 32] = warp.regs.get(ins.r[2]);
        let ignored = if ins.preds[2].index == ALWAYS { 0 } else { warp.pred(ins.preds[2]) };
        let size = u32::from(to.width);
        let mut touched = ([(Space::Global, 0); 32], 0);
        let mut written = ([(Space::Shared, 0); 32], 0);
        for lane in lanes(mask) {
            let at = lane as usize;
            let target = self.shared_place(warp, pc, lane, targets[at], size)?;
            if CHECK {
                self.note_write(warp, pc, lane, &target, size, Writing::Later);
                written.0[written.1] = (Space::Shared, target.address);
                written.1 += 1;
            }
            let mut data = [0u8; 16];
            let bytes = if ignored >> lane & 1 != 0 { 0 } else { filled[at].min(size) };
            if bytes > 0 {
                // The whole source must be aligned, and what is read of it must exist.
                let place = self.place(warp, pc, lane, Space::Global, sources[at], bytes.next_power_of_two())?;
                if CHECK {
                    self.note_read(warp, pc, lane, &place, bytes, false);
                    touched.0[touched.1] = (Space::Global, place.address);
                    touched.1 += 1;
                    self.counters.bytes_loaded += u64::from(bytes);
                }
                // SAFETY: `place` covers the bytes, and `data` has 16.
                unsafe { place.data.copy_to_nonoverlapping(data.as_mut_ptr(), bytes as usize) };
            }
            warp.copying.push(Copying {
                lane: lane as u8,
                group: None,
                to: targets[at] as u32,
                bytes: size as u8,
                data,
            });
        }
        if CHECK {
            self.count(&touched.0[..touched.1], size);
            self.count(&written.0[..written.1], size);
        }
        Ok(())
    }

    /// Lets arrive what the lanes committed, but for their last `left` groups.
    pub(crate) fn wait(&mut self, warp: &mut Warp, left: u32, mask: u32) {
        let left = if left == ALL {
            commit(warp, mask);
            0
        } else {
            left
        };
        let committed = warp.committed;
        let arrived: Vec<Copying> = warp
            .copying
            .extract_if(.., |copying| {
                let done = |group: u32| group + left < committed[copying.lane as usize];
                mask >> copying.lane & 1 != 0 && copying.group.is_some_and(done)
            })
            .collect();
        for copying in arrived {
            let (at, bytes) = (copying.to as usize, copying.bytes as usize);
            // SAFETY: `copy_async` checked the range.
            unsafe { self.smem().add(at).copy_from_nonoverlapping(copying.data.as_ptr(), bytes) };
            if CHECK {
                self.smem_marks[at..at + bytes].fill(1);
                let now = self.stamp(warp, u32::from(copying.lane));
                let granule = self.shared.launch.kernel.shared_granule as usize;
                for cell in &self.smem_cells[at / granule..(at + bytes) / granule] {
                    // Whoever looked in between was reported then.
                    cell.write(now, true);
                }
            }
        }
    }
}
