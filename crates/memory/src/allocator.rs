//! An allocator that has something left when the system has nothing.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::reserve::Reserve;
use crate::{OutOfMemory, check_available, is_asking};

/// The reserve serves no larger requests.
const LARGEST: usize = 1 << 20;

static RESERVE: Reserve = Reserve::new();

/// Bytes of the last request that the reserve served; 0 if none since [`refused`] looked.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Whether the system refused memory to somebody who could not do without it. The work
/// should come to an end, and its beginner look at [`refused`].
pub fn is_short() -> bool {
    REFUSED.load(Ordering::Relaxed) != 0
}

/// Whether work may go on, as far as [`is_short`] knows. Threads that work together ask
/// before each of many steps: so what all of them take from the reserve until they stop
/// is what one step of each takes.
///
/// # Errors
/// [`OutOfMemory`] if not.
#[inline]
pub fn check_short(what: &'static str) -> Result<(), OutOfMemory> {
    match REFUSED.load(Ordering::Relaxed) {
        0 => Ok(()),
        bytes => Err(OutOfMemory {
            bytes: Some(bytes),
            what,
        }),
    }
}

/// Bytes that the system refused, and would still refuse, to somebody who could not do
/// without them and got them from the reserve.
pub fn refused() -> Option<usize> {
    if !is_short() {
        return None;
    }
    let bytes = REFUSED.swap(0, Ordering::Relaxed);
    // Enough for all that the reserve would have served.
    let is_there_now = check_available(2 * LARGEST, "").is_ok();
    (!is_there_now).then_some(bytes)
}

/// Bytes that the system refused to somebody who got them from the reserve, whether it has
/// them now or not.
pub fn last_refused() -> Option<usize> {
    Some(REFUSED.swap(0, Ordering::Relaxed)).filter(|&bytes| bytes != 0)
}

/// The system's allocator, and what happens when that has no memory for somebody who is
/// not [`crate::asking`]: small requests are served from a reserve.
pub struct Allocator {
    /// Called with the bytes that neither has, on the thread that wants them. The process
    /// aborts where it returns.
    pub last_resort: fn(usize),
}

impl Allocator {
    /// Memory that the system does not have.
    #[cold]
    fn help(&self, layout: Layout) -> *mut u8 {
        if is_asking() {
            return ptr::null_mut();
        }
        let small = layout.size() <= LARGEST;
        if let Some(piece) = small.then(|| RESERVE.take(layout)).flatten() {
            REFUSED.store(layout.size().max(1), Ordering::Relaxed);
            return piece.as_ptr();
        }
        (self.last_resort)(layout.size());
        ptr::null_mut()
    }
}

// SAFETY: what the system's allocator gives goes back to it, and likewise what the
// reserve gives, whose pieces are as large and as aligned as was asked for. It does not
// unwind: `last_resort` must not, as for every function of an allocator.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let piece = unsafe { System.alloc(layout) };
        if piece.is_null() {
            return self.help(layout);
        }
        piece
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let piece = unsafe { System.alloc_zeroed(layout) };
        if piece.is_null() {
            let piece = self.help(layout);
            if !piece.is_null() {
                // SAFETY: the piece has so many bytes.
                unsafe { piece.write_bytes(0, layout.size()) };
            }
            return piece;
        }
        piece
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: passed on; each piece goes back to where it is from.
        unsafe {
            if RESERVE.has(piece) {
                RESERVE.give_back(piece, layout);
            } else {
                System.dealloc(piece, layout);
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on; the new layout is one because the caller says that `size`
        // is not 0 and does not overflow with the alignment.
        unsafe {
            let of_reserve = RESERVE.has(piece);
            if !of_reserve {
                let new = System.realloc(piece, layout, size);
                if !new.is_null() {
                    return new;
                }
            }
            let new_layout = Layout::from_size_align_unchecked(size, layout.align());
            let new = match of_reserve {
                true => self.alloc(new_layout),
                false => self.help(new_layout),
            };
            if !new.is_null() {
                ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            new
        }
    }
}
