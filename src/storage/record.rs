//! One WAL record for the changes of several pages.
//!
//! The records are those of Generic WAL (PostgreSQL's
//! src/backend/access/transam/generic_xlog.c), which every server can replay: for each
//! page, pieces of an offset and a length, two bytes each, and as many bytes of content.
//! `GenericXLogFinish` finds the pieces by comparing whole pages a byte at a time. That
//! took a quarter of an insert into inverted lists, so they are found by
//! [`ann::page::changes`] here.

use std::cell::RefCell;
use std::ops::Range;

use ann::page::{Body, MAX_PAGES_PER_RECORD, changes};
use pgrx::pg_sys;

use super::{BODY_AT, Buffer, init_page};

const PAGE_LEN: usize = pg_sys::BLCKSZ as usize;

/// A page as it will be.
#[repr(C, align(64))]
struct Image([u8; PAGE_LEN]);

/// What is written about a page.
struct Draft {
    image: Box<Image>,
    /// The page is new: its image is written whole.
    is_whole: bool,
    pieces: Vec<Range<usize>>,
    delta: Vec<u8>,
}

impl Draft {
    fn new() -> Self {
        Draft {
            image: Box::new(Image([0; PAGE_LEN])),
            is_whole: false,
            pieces: Vec::new(),
            delta: Vec::new(),
        }
    }

    /// Begins with the page as it is.
    ///
    /// # Safety
    ///
    /// The page is locked.
    unsafe fn begin(&mut self, page: &mut Buffer<'_>) {
        self.is_whole = std::mem::take(&mut page.is_new);
        let image = self.image.0.as_mut_ptr();
        // SAFETY: both are pages.
        unsafe {
            if self.is_whole {
                init_page(image, pg_sys::BufferGetBlockNumber(page.buffer));
            } else {
                image.copy_from_nonoverlapping(page.page, PAGE_LEN);
            }
        }
    }

    fn body(&mut self) -> &mut Body {
        bytemuck::from_bytes_mut(&mut self.image.0[BODY_AT..])
    }

    /// Finds out what differs from the page.
    ///
    /// # Safety
    ///
    /// The page is locked for nobody else.
    unsafe fn compare(&mut self, page: &Buffer<'_>) {
        self.pieces.clear();
        self.delta.clear();
        if self.is_whole {
            self.pieces.push(0..PAGE_LEN);
            return;
        }
        // SAFETY: a page has as many bytes, and nobody writes to it.
        let before = unsafe { &*page.page.cast::<[u8; PAGE_LEN]>() };
        changes(before, &self.image.0, &mut self.pieces);
        for piece in &self.pieces {
            // OffsetNumber of off.h; a page has 8192 bytes.
            for number in [piece.start, piece.len()] {
                self.delta.extend_from_slice(&(number as u16).to_ne_bytes());
            }
            self.delta.extend_from_slice(&self.image.0[piece.clone()]);
        }
    }

    /// Changes the page.
    ///
    /// # Safety
    ///
    /// The page is locked for nobody else, in a critical section.
    unsafe fn apply(&self, page: &Buffer<'_>) {
        for piece in &self.pieces {
            let from = &self.image.0[piece.clone()];
            // SAFETY: the piece is inside of the page.
            unsafe {
                let to = page.page.add(piece.start);
                to.copy_from_nonoverlapping(from.as_ptr(), from.len());
            }
        }
    }
}

/// Changes pages as `edit` does, which is given copies, in one record if
/// `is_logged`. If `edit` panics, no page has changed.
///
/// # Safety
///
/// The pages are distinct pages of one relation, pinned and locked for nobody else.
pub(super) unsafe fn write(
    pages: &mut [&mut Buffer<'_>],
    is_logged: bool,
    edit: &mut dyn FnMut(&mut [&mut Body]),
) {
    thread_local! {
        static DRAFTS: RefCell<[Draft; MAX_PAGES_PER_RECORD]> =
            RefCell::new(std::array::from_fn(|_| Draft::new()));
    }
    DRAFTS.with_borrow_mut(|drafts| {
        let drafts = &mut drafts[..pages.len()];
        // SAFETY: the caller holds the locks. What happens from the beginning of the
        // critical section to its end can't panic; an ERROR there ends the server.
        unsafe {
            for (draft, page) in drafts.iter_mut().zip(pages.iter_mut()) {
                draft.begin(page);
            }
            let mut bodies: Vec<&mut Body> = drafts.iter_mut().map(Draft::body).collect();
            edit(&mut bodies);
            for (draft, page) in drafts.iter_mut().zip(pages.iter()) {
                draft.compare(page);
            }

            if is_logged {
                pg_sys::XLogBeginInsert();
            }
            enter_critical_section();
            for (draft, page) in drafts.iter().zip(pages.iter()) {
                draft.apply(page);
                pg_sys::MarkBufferDirty(page.buffer);
            }
            if is_logged {
                log(drafts, pages);
            }
            leave_critical_section();
        }
    });
}

/// Inserts the record that was begun.
///
/// # Safety
///
/// In a critical section, after the changes of the pages.
unsafe fn log(drafts: &mut [Draft], pages: &[&mut Buffer<'_>]) {
    // SAFETY: the pages are dirty and locked, and what is registered lives on until
    // the record is inserted.
    unsafe {
        for (number, (draft, page)) in (0_u8..).zip(drafts.iter_mut().zip(pages)) {
            let mut flags = pg_sys::REGBUF_STANDARD;
            if draft.is_whole {
                flags |= pg_sys::REGBUF_FORCE_IMAGE;
            }
            pg_sys::XLogRegisterBuffer(number, page.buffer, flags as u8);
            if !draft.delta.is_empty() {
                let len = draft.delta.len();
                let data = draft.delta.as_mut_ptr().cast();
                pg_sys::XLogRegisterBufData(number, data, len as _);
            }
        }
        let end = pg_sys::XLogInsert(pg_sys::RmgrIds::RM_GENERIC_ID as u8, 0);
        for page in pages {
            let header = page.page.cast::<pg_sys::PageHeaderData>();
            (*header).pd_lsn.xlogid = (end >> 32) as u32;
            (*header).pd_lsn.xrecoff = end as u32;
        }
    }
}

/// START_CRIT_SECTION of miscadmin.h.
unsafe fn enter_critical_section() {
    // SAFETY: this thread alone writes to it.
    unsafe {
        let count = &raw mut pg_sys::CritSectionCount;
        count.write_volatile(count.read_volatile() + 1);
    }
}

/// END_CRIT_SECTION of miscadmin.h.
unsafe fn leave_critical_section() {
    // SAFETY: as above.
    unsafe {
        let count = &raw mut pg_sys::CritSectionCount;
        count.write_volatile(count.read_volatile() - 1);
    }
}
