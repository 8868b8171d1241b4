//! Memory that is there whatever the system says: pages of the library itself, which
//! take none before they are written to.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a reserve.
const LEN: usize = 4 << 20;
/// What is handed out is a multiple of this, and at a multiple of this.
const UNIT: usize = 64;
const UNITS: usize = LEN / UNIT;

#[repr(align(4096))]
struct Pages(UnsafeCell<[MaybeUninit<u8>; LEN]>);

struct Used {
    /// Of each unit, whether it was handed out.
    units: [u64; UNITS / 64],
    /// Where the last search ended.
    next: usize,
}

/// Pieces of memory, first come, first served.
pub struct Reserve {
    pages: Pages,
    used: UnsafeCell<Used>,
    is_locked: AtomicBool,
}

// SAFETY: `used` is touched under the lock only; a piece of `pages` belongs to whom it
// was handed out to, and nothing else of them is touched.
unsafe impl Sync for Reserve {}

impl Reserve {
    pub const fn new() -> Self {
        Reserve {
            pages: Pages(UnsafeCell::new([MaybeUninit::uninit(); LEN])),
            used: UnsafeCell::new(Used {
                units: [0; UNITS / 64],
                next: 0,
            }),
            is_locked: AtomicBool::new(false),
        }
    }

    fn with_used<R>(&self, work: impl FnOnce(&mut Used) -> R) -> R {
        while self.is_locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: nobody else has the lock, and `work` does not come back here.
        let result = work(unsafe { &mut *self.used.get() });
        self.is_locked.store(false, Ordering::Release);
        result
    }

    /// Whether a piece of memory is of this reserve.
    pub fn has(&self, piece: *const u8) -> bool {
        let first = self.pages.0.get() as usize;
        (piece as usize).wrapping_sub(first) < LEN
    }

    /// A piece of memory, with whatever was in it.
    pub fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        let units = layout.size().div_ceil(UNIT).max(1);
        let step = layout.align().div_ceil(UNIT);
        // The first unit is at a multiple of a page.
        if units > UNITS || layout.align() > 4096 {
            return None;
        }
        let first = self.with_used(|used| used.take(units, step))?;
        // SAFETY: the unit is one of the pages'.
        let piece = unsafe { self.pages.0.get().cast::<u8>().add(first * UNIT) };
        NonNull::new(piece)
    }

    /// Takes a piece back.
    ///
    /// # Safety
    ///
    /// [`Reserve::take`] gave it for this layout, and nobody uses it any more.
    pub unsafe fn give_back(&self, piece: *mut u8, layout: Layout) {
        let first = (piece as usize - self.pages.0.get() as usize) / UNIT;
        let units = layout.size().div_ceil(UNIT).max(1);
        self.with_used(|used| (first..first + units).for_each(|unit| used.set(unit, false)));
    }
}

impl Used {
    fn has(&self, unit: usize) -> bool {
        self.units[unit / 64] >> (unit % 64) & 1 != 0
    }

    fn set(&mut self, unit: usize, is_used: bool) {
        let bit = 1 << (unit % 64);
        match is_used {
            true => self.units[unit / 64] |= bit,
            false => self.units[unit / 64] &= !bit,
        }
    }

    /// So many units that follow each other, the first of them at a multiple of `step`.
    fn take(&mut self, count: usize, step: usize) -> Option<usize> {
        let found = self.find(self.next, count, step);
        let first = found.or_else(|| self.find(0, count, step))?;
        (first..first + count).for_each(|unit| self.set(unit, true));
        self.next = first + count;
        Some(first)
    }

    fn find(&self, from: usize, count: usize, step: usize) -> Option<usize> {
        let mut first = from.next_multiple_of(step);
        while first + count <= UNITS {
            match (first..first + count).rfind(|&unit| self.has(unit)) {
                None => return Some(first),
                Some(used) => first = (used + 1).next_multiple_of(step),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_nothing_in_common_and_come_back() {
        static RESERVE: Reserve = Reserve::new();
        let layouts: Vec<Layout> = (0..2000_usize)
            .map(|i| Layout::from_size_align(i * 37 % 3000 + 1, 1 << (i % 13)).unwrap())
            .collect();
        for round in 0..20 {
            let mut pieces: Vec<(usize, NonNull<u8>, Layout)> = Vec::new();
            for (i, &layout) in layouts.iter().enumerate() {
                let Some(piece) = RESERVE.take(layout) else {
                    break;
                };
                assert_eq!(piece.as_ptr() as usize % layout.align(), 0);
                assert!(RESERVE.has(piece.as_ptr()));
                // SAFETY: the piece has so many bytes.
                unsafe { piece.as_ptr().write_bytes(i as u8, layout.size()) };
                pieces.push((i, piece, layout));
            }
            assert!(pieces.len() > 500, "{round}: {}", pieces.len());
            for (i, piece, layout) in pieces {
                // SAFETY: written above, and given back once.
                unsafe {
                    let bytes = std::slice::from_raw_parts(piece.as_ptr(), layout.size());
                    assert!(bytes.iter().all(|&byte| byte == i as u8));
                    RESERVE.give_back(piece.as_ptr(), layout);
                }
            }
        }
        let all = Layout::from_size_align(LEN, 4096).unwrap();
        let piece = RESERVE.take(all).unwrap();
        assert_eq!(RESERVE.take(Layout::new::<u8>()), None);
        // SAFETY: taken above.
        unsafe { RESERVE.give_back(piece.as_ptr(), all) };
        assert!(RESERVE.take(Layout::new::<u8>()).is_some());
        assert_eq!(RESERVE.take(all), None);
        assert!(!RESERVE.has(&raw const all as *const u8));
    }
}
