//! A warp's registers: 32 lanes side by side, a 32-bit register in one slot, a 64-bit register in two.

/// 32 lanes of 32 bits.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Slot([u32; 32]);

pub(crate) struct Regs {
    slots: Vec<Slot>,
}

/// A value of one lane, and how it lies in a register: narrow ones are zero-extended to 32 bits.
pub(crate) trait Lane: Copy + Default {
    type Raw: Copy + Default;
    fn from_raw(raw: Self::Raw) -> Self;
    fn into_raw(self) -> Self::Raw;
}

macro_rules! whole {
    ($($t:ty),+) => { $(impl Lane for $t {
        type Raw = $t;
        #[inline(always)]
        fn from_raw(raw: $t) -> $t { raw }
        #[inline(always)]
        fn into_raw(self) -> $t { self }
    })+ };
}
whole!(u32, i32, f32, u64, i64, f64);

impl Lane for u16 {
    type Raw = u32;
    #[inline(always)]
    fn from_raw(raw: u32) -> u16 {
        raw as u16
    }
    #[inline(always)]
    fn into_raw(self) -> u32 {
        u32::from(self)
    }
}

impl Lane for i16 {
    type Raw = u32;
    #[inline(always)]
    fn from_raw(raw: u32) -> i16 {
        raw as i16
    }
    #[inline(always)]
    fn into_raw(self) -> u32 {
        u32::from(self as u16)
    }
}

impl Regs {
    pub(crate) fn new(slots: usize) -> Self {
        // One more, so that a 64-bit read of the last slot stays inside.
        Regs { slots: vec![Slot([0; 32]); slots + 1] }
    }

    #[inline(always)]
    fn check<T: Lane>(&self, slot: u32) {
        assert!((slot as usize) < self.slots.len() - 1 && size_of::<T::Raw>() <= 8);
    }

    #[inline(always)]
    pub(crate) fn get<T: Lane>(&self, slot: u32) -> [T; 32] {
        self.check::<T>(slot);
        // SAFETY: `check` leaves two slots of room, a `Raw` is a plain number of at most 8 bytes, and slots are aligned to 128.
        let raw = unsafe { &*self.slots.as_ptr().add(slot as usize).cast::<[T::Raw; 32]>() };
        // Loops, here and below: `map` is not always inlined, and then not vectorised.
        let mut values = [T::default(); 32];
        for lane in 0..32 {
            values[lane] = T::from_raw(raw[lane]);
        }
        values
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn put<T: Lane>(&mut self, slot: u32, values: [T; 32], mask: u32) {
        self.check::<T>(slot);
        // SAFETY: as in `get`.
        let place = unsafe { &mut *self.slots.as_mut_ptr().add(slot as usize).cast::<[T::Raw; 32]>() };
        if mask == !0 {
            for lane in 0..32 {
                place[lane] = values[lane].into_raw();
            }
        } else {
            for lane in 0..32 {
                place[lane] = if mask >> lane & 1 != 0 { values[lane].into_raw() } else { place[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn lane<T: Lane>(&self, slot: u32, lane: usize) -> T {
        self.check::<T>(slot);
        // SAFETY: as in `get`; the index is checked.
        T::from_raw(unsafe { (&*self.slots.as_ptr().add(slot as usize).cast::<[T::Raw; 32]>())[lane] })
    }

    #[inline(always)]
    pub(crate) fn set_lane<T: Lane>(&mut self, slot: u32, lane: usize, value: T) {
        self.check::<T>(slot);
        // SAFETY: as in `lane`.
        unsafe { (&mut *self.slots.as_mut_ptr().add(slot as usize).cast::<[T::Raw; 32]>())[lane] = value.into_raw() }
    }
}
