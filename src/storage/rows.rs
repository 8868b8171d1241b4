//! Rows of the table that a scan will fetch soon, on their way into shared
//! buffers and into the processor's cache.
//!
//! Nothing is pinned or locked: what is read of a page without that only decides
//! what to prefetch, and a prefetch of a wrong address does no harm.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use ann::HeapTid;
use pgrx::pg_sys;

use super::prefetch_descriptor;

/// The pages of rows are looked for this far ahead. How many rows a scan will be asked
/// for is not known, so what is farther ahead may be for nothing.
const NEAR: usize = 2;
/// Where pages are not in shared buffers, they are asked for this far ahead.
const FAR: usize = 8;
/// A longer row is read in order, which processors foresee themselves.
const MOST: usize = 2048;

/// A row on its way.
struct Ahead {
    buffer: pg_sys::Buffer,
    offset: u16,
}

/// The next rows of a scan, in the order in which it returns them.
#[derive(Default)]
pub struct RowsAhead {
    rows: VecDeque<Ahead>,
    /// Whether there was a page that is not in shared buffers.
    is_cold: bool,
}

impl RowsAhead {
    /// A row was returned, the first of those that were looked at before, if there are
    /// any. Looks ahead in `rows`, which come next; what else was looked at before is
    /// still at their beginning.
    ///
    /// # Safety
    ///
    /// `heap` is open, and the rows are or were its.
    pub unsafe fn advance(&mut self, heap: pg_sys::Relation, rows: impl Iterator<Item = HeapTid>) {
        self.rows.pop_front();
        let far = if self.is_cold { FAR } else { NEAR };
        // SAFETY: the table is open. While it is scanned it is not truncated, so
        // the rows' blocks are there.
        unsafe {
            for tid in rows.take(far).skip(self.rows.len()) {
                let block = (tid.0 >> 16) as pg_sys::BlockNumber;
                let main = pg_sys::ForkNumber::MAIN_FORKNUM;
                let found = pg_sys::PrefetchBuffer(heap, main, block);
                let offset = tid.0 as u16;
                self.is_cold |= found.recent_buffer <= 0;
                if found.recent_buffer > 0 {
                    prefetch_descriptor(found.recent_buffer);
                    let page = page(found.recent_buffer);
                    ann::simd::prefetch(page, size_of::<pg_sys::PageHeaderData>());
                    ann::simd::prefetch(line_pointer(page, offset).cast(), 4);
                }
                self.rows.push_back(Ahead {
                    buffer: found.recent_buffer,
                    offset,
                });
            }
            // The page of the next one was looked for a row ago.
            if let Some(next) = self.rows.front()
                && next.buffer > 0
            {
                prefetch_row(page(next.buffer), next.offset);
            }
        }
    }
}

/// # Safety
///
/// The buffer is a shared one.
unsafe fn page(buffer: pg_sys::Buffer) -> *const u8 {
    // SAFETY: shared buffers stay where they are.
    unsafe { pg_sys::BufferGetPage(buffer).cast::<u8>() }
}

/// Where the line pointer of an offset number is, or would be.
fn line_pointer(page: *const u8, offset: u16) -> *const u32 {
    let index = usize::from(offset.saturating_sub(1)) % (pg_sys::BLCKSZ as usize / 8);
    page.wrapping_add(std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp) + 4 * index)
        .cast()
}

/// # Safety
///
/// `page` is that of a shared buffer.
unsafe fn prefetch_row(page: *const u8, offset: u16) {
    let line = line_pointer(page, offset).cast_mut();
    // SAFETY: the line pointer lies within the page, aligned. Another process may be
    // writing it, or another page into the buffer: any value will do.
    let line = unsafe { AtomicU32::from_ptr(line) }.load(Ordering::Relaxed);
    // ItemIdData of PostgreSQL's itemid.h: 15 bits of offset, 2 of state, 15
    // of length.
    let (at, len) = ((line & 0x7fff) as usize, (line >> 17) as usize);
    if at < pg_sys::BLCKSZ as usize {
        let end = (at + len.min(MOST)).min(pg_sys::BLCKSZ as usize);
        ann::simd::prefetch(page.wrapping_add(at), end - at);
    }
}
