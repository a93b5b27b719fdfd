//! Loads and stores: where an address points, whether it may, and what the race checks and counters learn of it.

use super::block::{Block, Cached, Step, Warp};
use super::step::lanes;
use crate::check::Kind;
use crate::decode::{Access, Ins};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::Space;
use crate::shadow::{Cell, Conflict};

/// A lane's access, checked: the bytes, their marks, their cells.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) data: *mut u8,
    pub(crate) marks: *mut u8,
    pub(crate) cells: *const Cell,
    pub(crate) cell_count: u32,
    pub(crate) space: Space,
    pub(crate) address: u64,
}

impl<const CHECK: bool> Block<'_, CHECK> {
    #[inline(always)]
    pub(crate) fn addresses(&self, warp: &Warp, access: &Access) -> [u64; 32] {
        let base = if access.wide_base {
            warp.regs.get::<u64>(access.base)
        } else {
            warp.regs.get::<u32>(access.base).map(u64::from)
        };
        // A 32-bit address wraps in 32 bits.
        let bits = if access.wide_base { !0 } else { 0xffff_ffff };
        let mut moved = base;
        for address in &mut moved {
            *address = address.wrapping_add(access.offset as u64) & bits;
        }
        moved
    }

    /// The place of `bytes` at `address`, or the end of the launch.
    #[inline(always)]
    pub(crate) fn place(
        &mut self,
        warp: &Warp,
        pc: u32,
        lane: u32,
        space: Space,
        address: u64,
        bytes: u32,
    ) -> Step<Place> {
        if space == Space::Global {
            let cached = self.cached[pc as usize];
            let at = address.wrapping_sub(cached.base);
            if at < cached.bytes && at + u64::from(bytes) <= cached.bytes && address.is_multiple_of(u64::from(bytes)) {
                return Ok(self.global_place(&cached, at, address, bytes));
            }
        }
        self.place_slowly(warp, pc, lane, space, address, bytes)
    }

    #[inline(always)]
    fn global_place(&self, cached: &Cached, at: u64, address: u64, bytes: u32) -> Place {
        let granule = self.shared.launch.kernel.global_granule;
        let cell = if CHECK { (at / u64::from(granule)) as usize } else { 0 };
        // SAFETY: `at + bytes` lies inside the allocation, and its cells cover it.
        let (data, marks, cells) =
            unsafe { (cached.data.add(at as usize), cached.written.add(at as usize), cached.cells.wrapping_add(cell)) };
        Place { data, marks, cells, cell_count: bytes / granule, space: Space::Global, address }
    }

    fn place_slowly(&mut self, warp: &Warp, pc: u32, lane: u32, space: Space, address: u64, bytes: u32) -> Step<Place> {
        if !address.is_multiple_of(u64::from(bytes)) {
            let text = format!("{bytes} bytes at {address:#x} of {space:?} memory");
            return self.stop(warp, pc, lane, Kind::Misaligned, text);
        }
        match space {
            Space::Generic => {
                let window = address & !(WINDOW_BYTES - 1);
                let (space, start) = match window {
                    SHARED_WINDOW => (Space::Shared, SHARED_WINDOW),
                    LOCAL_WINDOW => (Space::Local, LOCAL_WINDOW),
                    PARAM_WINDOW => (Space::Param, PARAM_WINDOW),
                    _ => (Space::Global, 0),
                };
                self.place(warp, pc, lane, space, address - start, bytes)
            }
            Space::Global | Space::Const => {
                let memory = self.shared.launch.memory;
                let Some(found) = memory.find(address, u64::from(bytes)) else {
                    let text = format!("{bytes} bytes at {address:#x} of global memory: {}", memory.describe(address));
                    return self.stop(warp, pc, lane, Kind::OutOfBounds, text);
                };
                let cells = if CHECK { self.shared.cells(found) } else { std::ptr::null() };
                let cached =
                    Cached { base: found.base, bytes: found.bytes, data: found.data, written: found.written, cells };
                self.cached[pc as usize] = cached;
                Ok(self.global_place(&cached, address - cached.base, address, bytes))
            }
            Space::Shared => self.shared_place(warp, pc, lane, address, bytes),
            Space::Local => {
                if address + u64::from(bytes) > u64::from(self.shared.launch.kernel.local_bytes) {
                    let text = format!("{bytes} bytes at {address:#x} of local memory");
                    return self.stop(warp, pc, lane, Kind::OutOfBounds, text);
                }
                let at = ((warp.first_thread + lane) * self.lmem_stride) as usize + address as usize;
                // SAFETY: every thread of the last warp has its stride of local memory.
                let data = unsafe { self.lmem().add(at) };
                let marks = self.lmem_marks.as_mut_ptr().wrapping_add(at);
                Ok(Place { data, marks, cells: std::ptr::null(), cell_count: 0, space, address })
            }
            Space::Param => {
                let params = self.shared.launch.params;
                if address + u64::from(bytes) > params.len() as u64 {
                    let text = format!("{bytes} bytes at {address:#x} of {} bytes of parameters", params.len());
                    return self.stop(warp, pc, lane, Kind::OutOfBounds, text);
                }
                // Only ever read: `store` refuses the space.
                let data = params.as_ptr().wrapping_add(address as usize).cast_mut();
                Ok(Place { data, marks: std::ptr::null_mut(), cells: std::ptr::null(), cell_count: 0, space, address })
            }
        }
    }

    #[inline(always)]
    pub(crate) fn shared_place(&mut self, warp: &Warp, pc: u32, lane: u32, address: u64, bytes: u32) -> Step<Place> {
        if !address.is_multiple_of(u64::from(bytes)) {
            let text = format!("{bytes} bytes at {address:#x} of shared memory");
            return self.stop(warp, pc, lane, Kind::Misaligned, text);
        }
        if address + u64::from(bytes) > u64::from(self.smem_bytes) {
            let text = format!("{bytes} bytes at {address:#x} of {:#x} bytes of shared memory", self.smem_bytes);
            return self.stop(warp, pc, lane, Kind::OutOfBounds, text);
        }
        let granule = self.shared.launch.kernel.shared_granule;
        let at = address as usize;
        // SAFETY: the range was checked just now.
        let data = unsafe { self.smem().add(at) };
        let marks = self.smem_marks.as_mut_ptr().wrapping_add(at);
        let cells = self.smem_cells.as_ptr().wrapping_add(at / granule as usize);
        Ok(Place { data, marks, cells, cell_count: bytes / granule, space: Space::Shared, address })
    }

    // ---- what a check learns ----

    pub(crate) fn note_read(&mut self, warp: &Warp, pc: u32, lane: u32, place: &Place, bytes: u32, strong: bool) {
        if place.space == Space::Param {
            return;
        }
        // SAFETY: `place` covers `bytes` marks.
        let marks = unsafe { std::slice::from_raw_parts(place.marks, bytes as usize) };
        if !all_written(marks)
            && let Some(bad) = marks.iter().position(|&mark| mark != 1)
        {
            let kind = match place.space {
                Space::Shared if marks[bad] == 2 => Kind::CopyInFlight,
                Space::Shared => Kind::UninitialisedShared,
                Space::Local => Kind::UninitialisedLocal,
                _ => Kind::UninitialisedGlobal,
            };
            let address = place.address + bad as u64;
            self.report(warp, pc, lane, kind, || format!("reads the byte at {address:#x}"));
        }
        let now = self.stamp(warp, lane);
        let mut conflict = None;
        for k in 0..place.cell_count {
            // SAFETY: the cells cover the access.
            let (first, found) = unsafe { &*place.cells.add(k as usize) }.read(now, strong);
            conflict = conflict.or(found);
            if first && place.space == Space::Global {
                self.counters.unique_read += u64::from(self.shared.launch.kernel.global_granule);
            }
        }
        if let Some(conflict) = conflict {
            self.report_race(warp, pc, lane, place, "reads", conflict);
        }
    }

    /// Before the write: `same` says it leaves the bytes as they are.
    pub(crate) fn note_write(&mut self, warp: &Warp, pc: u32, lane: u32, place: &Place, bytes: u32, how: Writing) {
        // SAFETY: `place` covers `bytes` marks.
        let marks = unsafe { std::slice::from_raw_parts_mut(place.marks, bytes as usize) };
        marks.fill(if matches!(how, Writing::Later) { 2 } else { 1 });
        let now = self.stamp(warp, lane);
        let mut conflict = None;
        for k in 0..place.cell_count {
            // SAFETY: the cells cover the access.
            let cell = unsafe { &*place.cells.add(k as usize) };
            let (first, found) = match how {
                Writing::Plain { same } => cell.write(now, same),
                Writing::Strong => cell.write(now.atomic(), false),
                Writing::Update => cell.update(now),
                Writing::Later => cell.write(now, false),
            };
            conflict = conflict.or(found);
            if first && place.space == Space::Global {
                self.counters.unique_written += u64::from(self.shared.launch.kernel.global_granule);
            }
        }
        if let Some(conflict) = conflict {
            self.report_race(warp, pc, lane, place, "writes", conflict);
        }
    }

    #[cold]
    #[inline(never)]
    fn report_race(&mut self, warp: &Warp, pc: u32, lane: u32, place: &Place, does: &str, conflict: Conflict) {
        let kind = if place.space == Space::Shared { Kind::SharedRace } else { Kind::GlobalRace };
        let address = place.address;
        self.report(warp, pc, lane, kind, || {
            let (did, other) = match conflict {
                Conflict::WrittenBy(other) => ("wrote", other),
                Conflict::ReadBy(other) => ("read", other),
            };
            format!("{does} {address:#x}, which {} {did} with no barrier between", other.describe())
        });
    }

    /// Counts a warp's access by where its first lane went.
    pub(crate) fn count(&mut self, touched: &[(Space, u64)], bytes: u32) {
        let Some(&(space, _)) = touched.first() else { return };
        match space {
            Space::Global => {
                let mut addresses = [0u64; 32];
                for (address, touched) in addresses.iter_mut().zip(touched) {
                    *address = touched.1;
                }
                self.counters.global(&mut addresses[..touched.len()], u64::from(bytes));
            }
            Space::Shared => {
                let mut offsets = [0u32; 32];
                for (offset, touched) in offsets.iter_mut().zip(touched) {
                    *offset = touched.1 as u32;
                }
                self.counters.shared(&offsets[..touched.len()], bytes);
            }
            _ => {}
        }
    }

    // ---- ld, st ----

    /// Without checks: the offsets of all lanes into the allocation that the instruction touched last, if they lie there.
    #[inline(always)]
    fn whole_warp(
        &self,
        pc: u32,
        access: &Access,
        addresses: &[u64; 32],
        bytes: u32,
        mask: u32,
    ) -> Option<(*mut u8, [usize; 32])> {
        if CHECK || access.space != Space::Global || mask == 0 || access.signed {
            return None;
        }
        let cached = &self.cached[pc as usize];
        let first = addresses[mask.trailing_zeros() as usize];
        let (mut furthest, mut odd) = (0, 0);
        // A lane that takes no part reads what the first one does.
        let mut offsets = [0usize; 32];
        for lane in 0..32 {
            let address = if mask >> lane & 1 != 0 { addresses[lane] } else { first };
            let offset = address.wrapping_sub(cached.base);
            furthest = offset.max(furthest);
            odd |= address & u64::from(bytes - 1);
            offsets[lane] = offset as usize;
        }
        let fits = furthest < cached.bytes && furthest + u64::from(bytes) <= cached.bytes;
        (fits && odd == 0).then_some((cached.data, offsets))
    }

    /// Loads for a whole warp at once; whether it could.
    #[inline(always)]
    fn load_whole(
        &mut self,
        warp: &mut Warp,
        ins: &Ins,
        pc: u32,
        access: &Access,
        addresses: &[u64; 32],
        mask: u32,
    ) -> bool {
        let bytes = u32::from(access.width) * u32::from(access.count);
        let Some((data, offsets)) = self.whole_warp(pc, access, addresses, bytes, mask) else { return false };
        for (k, &slot) in ins.targets().iter().enumerate() {
            let at = k * access.width as usize;
            // SAFETY: `whole_warp` checked every lane's range and alignment.
            unsafe {
                match (access.width, access.wide_registers) {
                    (4, false) => {
                        warp.regs.put(slot, offsets.map(|offset| data.add(offset + at).cast::<u32>().read()), mask)
                    }
                    (8, true) => {
                        warp.regs.put(slot, offsets.map(|offset| data.add(offset + at).cast::<u64>().read()), mask)
                    }
                    (2, false) => {
                        warp.regs.put(slot, offsets.map(|offset| data.add(offset + at).cast::<u16>().read()), mask)
                    }
                    _ => return false,
                }
            }
        }
        true
    }

    /// Stores for a whole warp at once; whether it could.
    #[inline(always)]
    fn store_whole(
        &mut self,
        warp: &Warp,
        ins: &Ins,
        pc: u32,
        access: &Access,
        addresses: &[u64; 32],
        mask: u32,
    ) -> bool {
        let bytes = u32::from(access.width) * u32::from(access.count);
        if !matches!((access.width, access.wide_registers), (4, false) | (8, true) | (2, false)) {
            return false;
        }
        let Some((data, offsets)) = self.whole_warp(pc, access, addresses, bytes, mask) else { return false };
        for (k, &slot) in ins.sources()[..access.count as usize].iter().enumerate() {
            let at = k * access.width as usize;
            for lane in lanes(mask) {
                let lane = lane as usize;
                // SAFETY: `whole_warp` checked every lane's range and alignment.
                unsafe {
                    let place = data.add(offsets[lane] + at);
                    match access.width {
                        4 => place.cast::<u32>().write(warp.regs.lane(slot, lane)),
                        8 => place.cast::<u64>().write(warp.regs.lane(slot, lane)),
                        _ => place.cast::<u16>().write(warp.regs.lane(slot, lane)),
                    }
                }
            }
        }
        true
    }

    /// A parameter by its name: read once for all lanes.
    fn load_param(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, access: &Access, mask: u32) -> Step<()> {
        let (width, bytes) = (u32::from(access.width), u32::from(access.width) * u32::from(access.count));
        let place = self.place(warp, pc, mask.trailing_zeros(), Space::Param, access.offset as u64, bytes)?;
        for (k, &slot) in ins.targets().iter().enumerate() {
            // SAFETY: `place` covers the access.
            let value = unsafe { read(place.data.add(k * width as usize), width, access.signed) };
            if access.wide_registers {
                warp.regs.put(slot, [value; 32], mask);
            } else {
                warp.regs.put(slot, [value as u32; 32], mask);
            }
        }
        Ok(())
    }

    pub(crate) fn load(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, access: &Access, mask: u32) -> Step<()> {
        if access.fixed && access.space == Space::Param {
            return self.load_param(warp, ins, pc, access, mask);
        }
        let addresses = self.addresses(warp, access);
        if self.load_whole(warp, ins, pc, access, &addresses, mask) {
            return Ok(());
        }
        let (width, bytes) = (u32::from(access.width), u32::from(access.width) * u32::from(access.count));
        let mut touched = [(Space::Global, 0); 32];
        let mut count = 0;
        for lane in lanes(mask) {
            let place = self.place(warp, pc, lane, access.space, addresses[lane as usize], bytes)?;
            if CHECK {
                self.note_read(warp, pc, lane, &place, bytes, access.strong);
                touched[count] = (place.space, place.address);
                count += 1;
            }
            for (k, &slot) in ins.targets().iter().enumerate() {
                // SAFETY: `place` covers the access, and it is aligned.
                let value = unsafe { read(place.data.add(k * width as usize), width, access.signed) };
                if access.wide_registers {
                    warp.regs.set_lane(slot, lane as usize, value);
                } else {
                    warp.regs.set_lane(slot, lane as usize, value as u32);
                }
            }
        }
        if CHECK {
            self.counters.bytes_loaded +=
                if touched[0].0 == Space::Global { u64::from(bytes) * count as u64 } else { 0 };
            self.count(&touched[..count], bytes);
        }
        Ok(())
    }

    pub(crate) fn store(&mut self, warp: &mut Warp, ins: &Ins, pc: u32, access: &Access, mask: u32) -> Step<()> {
        let addresses = self.addresses(warp, access);
        let (width, bytes) = (u32::from(access.width), u32::from(access.width) * u32::from(access.count));
        let mut touched = [(Space::Global, 0); 32];
        let mut count = 0;
        if self.store_whole(warp, ins, pc, access, &addresses, mask) {
            return Ok(());
        }
        let sources = &ins.sources()[..access.count as usize];
        for lane in lanes(mask) {
            let place = self.place(warp, pc, lane, access.space, addresses[lane as usize], bytes)?;
            if place.space == Space::Param {
                return self.stop(warp, pc, lane, Kind::OutOfBounds, "writes to the parameters".into());
            }
            let mut value = [0u8; 64];
            for (k, &slot) in sources.iter().enumerate() {
                let element = if access.wide_registers {
                    warp.regs.lane::<u64>(slot, lane as usize)
                } else {
                    u64::from(warp.regs.lane::<u32>(slot, lane as usize))
                };
                value[k * width as usize..][..8].copy_from_slice(&element.to_le_bytes());
            }
            let value = &value[..bytes as usize];
            if CHECK {
                // SAFETY: `place` covers the access.
                let same = unsafe { std::slice::from_raw_parts(place.data, bytes as usize) } == value;
                let how = if access.strong { Writing::Strong } else { Writing::Plain { same } };
                self.note_write(warp, pc, lane, &place, bytes, how);
                touched[count] = (place.space, place.address);
                count += 1;
            }
            // SAFETY: `place` covers the access.
            unsafe { place.data.copy_from_nonoverlapping(value.as_ptr(), bytes as usize) };
        }
        if CHECK {
            self.counters.bytes_stored +=
                if touched[0].0 == Space::Global { u64::from(bytes) * count as u64 } else { 0 };
            self.count(&touched[..count], bytes);
        }
        Ok(())
    }
}

/// What kind of write it is.
#[derive(Clone, Copy)]
pub(crate) enum Writing {
    Plain {
        same: bool,
    },
    /// Ordered by the memory model.
    Strong,
    /// An atomic read-modify-write.
    Update,
    /// By a `cp.async` that has yet to arrive.
    Later,
}

/// Whether all marks are 1; exact for the sizes of accesses, "perhaps not" for others.
#[inline(always)]
fn all_written(marks: &[u8]) -> bool {
    match *marks {
        [a] => a == 1,
        [a, b] => [a, b] == [1; 2],
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]) == 0x0101_0101,
        [..] => marks.chunks(4).all(|four| *four == [1; 4]),
    }
}

/// An element of `width` bytes, extended to 64 bits.
///
/// # Safety
/// `data` has `width` readable bytes. (Parameters may lie anywhere.)
#[inline(always)]
unsafe fn read(data: *const u8, width: u32, signed: bool) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match (width, signed) {
            (4, false) => u64::from(data.cast::<u32>().read_unaligned()),
            (2, false) => u64::from(data.cast::<u16>().read_unaligned()),
            (8, _) => data.cast::<u64>().read_unaligned(),
            (1, false) => u64::from(data.read()),
            (4, true) => i64::from(data.cast::<i32>().read_unaligned()).cast_unsigned(),
            (2, true) => i64::from(data.cast::<i16>().read_unaligned()).cast_unsigned(),
            _ => i64::from(data.cast::<i8>().read()).cast_unsigned(),
        }
    }
}
