//! Index pages in the server's shared buffers: the only code of the project
//! that locks buffers and writes WAL.
//!
//! Each page is a standard page whose hole is closed (`pd_lower` = `pd_upper`),
//! so that WAL records keep all of its content. After the server's header come
//! eight bytes that say whose page it is and which one, in the same cache line,
//! because every visit looks at both. Changes are records of Generic WAL, see
//! [`record`].

#![allow(unsafe_code)]

mod record;
mod rows;

pub use rows::RowsAhead;

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use ann::Error;
use ann::page::{BODY_LEN, Block, Body, PageStore};
use pgrx::pg_sys;

use crate::allocator;
use crate::versions;

/// Tells pages of this extension from others.
const PAGE_ID: u32 = 0x4953_5455; // "ISTU"

/// Where [`PAGE_ID`] and the page's number are.
const MARKS_AT: usize = 24;
/// Where the content of a page begins.
const BODY_AT: usize = 32;
const _: () = assert!(MARKS_AT == std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp));
const _: () = assert!(BODY_AT + BODY_LEN == pg_sys::BLCKSZ as usize);

/// How changes of pages are made to survive a crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Logging {
    /// Each record in WAL, if the relation is logged.
    Records,
    /// Not at all: [`RelationPages::log_all`] follows.
    Later,
}

/// The pages of an index relation, which stays open for `'r`.
pub struct RelationPages<'r> {
    relation: pg_sys::Relation,
    fork: pg_sys::ForkNumber::Type,
    logging: Logging,
    /// Whether pages are found by [`Hints`].
    has_hints: bool,
    /// As many blocks as the relation had when last asked; it never shrinks.
    blocks: Cell<Block>,
    /// Pages that were recycled through this. They are also in the free space map, which
    /// shows them only after it was vacuumed.
    free: RefCell<Vec<Block>>,
    /// Called by [`PageStore::pause`].
    on_pause: fn(),
    _relation: PhantomData<&'r ()>,
}

/// Functions of PostgreSQL's bufmgr.c that every visit of a page calls, without what
/// pgrx does to catch an ERROR: of a buffer that is pinned or locked as they ask, they
/// raise none.
mod unguarded {
    use pgrx::pg_sys::Buffer;

    unsafe extern "C-unwind" {
        pub fn LockBuffer(buffer: Buffer, mode: core::ffi::c_int);
        pub fn UnlockReleaseBuffer(buffer: Buffer);
    }
}

/// A pinned and locked buffer, released when dropped.
///
/// When an ERROR unwinds, the server releases locks and pins itself, and must
/// not be called; then dropping does nothing.
pub struct Buffer<'s> {
    buffer: pg_sys::Buffer,
    page: *mut u8,
    is_new: bool,
    _store: PhantomData<&'s ()>,
}

impl Buffer<'_> {
    /// Takes over a buffer that the caller has pinned and locked.
    ///
    /// # Safety
    ///
    /// The buffer is pinned and locked by this backend, for nobody else.
    unsafe fn new(buffer: pg_sys::Buffer, is_new: bool) -> Self {
        Buffer {
            buffer,
            // SAFETY: the buffer is pinned, so its page stays in place.
            page: unsafe { pg_sys::BufferGetPage(buffer) }.cast(),
            is_new,
            _store: PhantomData,
        }
    }

    fn body(&self) -> *const Body {
        // SAFETY: the page has BLCKSZ bytes; pages are aligned to 8 at least.
        unsafe { self.page.add(BODY_AT).cast() }
    }
}

impl Deref for Buffer<'_> {
    type Target = Body;

    fn deref(&self) -> &Body {
        // SAFETY: the buffer is locked, so nobody writes to the page while the
        // reference lives; `commit` needs `&mut` to the guard.
        unsafe { &*self.body() }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the buffer is pinned and locked, see `new`.
            unsafe { unguarded::UnlockReleaseBuffer(self.buffer) }
        }
    }
}

/// Writes the header of an empty page: whose it is, and its number, so that
/// pages that changed places are told.
///
/// # Safety
///
/// `page` has BLCKSZ writable bytes.
unsafe fn init_page(page: *mut u8, block: Block) {
    // SAFETY: see above; the header says that the page has no hole.
    unsafe {
        pg_sys::PageInit(page.cast(), pg_sys::BLCKSZ as usize, 0);
        let header = page.cast::<pg_sys::PageHeaderData>();
        (*header).pd_lower = (*header).pd_upper;
        let marks = page.add(MARKS_AT).cast::<u32>();
        *marks = PAGE_ID;
        *marks.add(1) = block;
    }
}

impl<'r> RelationPages<'r> {
    /// The main fork of an index.
    ///
    /// # Safety
    ///
    /// The relation is open, and locked as the caller's use of it needs, for
    /// all of `'r`.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        // SAFETY: passed on.
        unsafe { Self::of_fork(relation, pg_sys::ForkNumber::MAIN_FORKNUM, Logging::Records) }
    }

    /// The main fork of an index that is being built: nothing is logged until
    /// [`RelationPages::log_all`].
    ///
    /// # Safety
    ///
    /// As [`RelationPages::new`]; nobody else uses the relation yet.
    pub unsafe fn for_build(relation: pg_sys::Relation) -> Self {
        // SAFETY: passed on.
        unsafe { Self::of_fork(relation, pg_sys::ForkNumber::MAIN_FORKNUM, Logging::Later) }
    }

    /// The init fork of an unlogged index.
    ///
    /// # Safety
    ///
    /// As [`RelationPages::for_build`].
    pub unsafe fn for_init_fork(relation: pg_sys::Relation) -> Self {
        // SAFETY: passed on.
        unsafe { Self::of_fork(relation, pg_sys::ForkNumber::INIT_FORKNUM, Logging::Later) }
    }

    unsafe fn of_fork(
        relation: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
        logging: Logging,
    ) -> Self {
        // SAFETY: the relation is open.
        let persistence = unsafe { (*(*relation).rd_rel).relpersistence } as u8;
        RelationPages {
            relation,
            fork,
            logging,
            has_hints: fork == pg_sys::ForkNumber::MAIN_FORKNUM
                && persistence != pg_sys::RELPERSISTENCE_TEMP,
            blocks: Cell::new(0),
            free: RefCell::default(),
            on_pause: || {
                pgrx::check_for_interrupts!();
                allocator::check();
            },
            _relation: PhantomData,
        }
    }

    /// Makes [`PageStore::pause`] also keep to vacuum's cost limit.
    pub fn throttled(mut self) -> Self {
        self.on_pause = || {
            // SAFETY: no lock is held when a pause is made.
            unsafe {
                versions::vacuum_delay_point();
            }
            allocator::check();
        };
        self
    }

    /// Logs all pages as full images: the end of a build.
    pub fn log_all(&self) {
        let blocks = self.block_count();
        // SAFETY: the relation is open; the pages were written by this backend.
        unsafe {
            let is_init = self.fork == pg_sys::ForkNumber::INIT_FORKNUM;
            if is_init || is_logged(self.relation) {
                pg_sys::log_newpage_range(self.relation, self.fork, 0, blocks, true);
            }
        }
    }

    /// Reads a buffer; `is_new` asks for one more page at the end.
    fn buffer(&self, block: Block, mode: pg_sys::ReadBufferMode::Type) -> pg_sys::Buffer {
        // SAFETY: the relation is open.
        unsafe {
            pg_sys::ReadBufferExtended(self.relation, self.fork, block, mode, std::ptr::null_mut())
        }
    }

    /// Pins a page. If it is still in the buffer where it was last, the server
    /// need not look for it.
    fn pin(&self, block: Block) -> pg_sys::Buffer {
        // A buffer that is only ever pinned by its hint looks unused to the server,
        // which would give it away before others (bufmgr.c, PinBuffer_Locked).
        let hint = self.hint(block).filter(|_| !Hints::with(Hints::is_turn));
        if let Some(buffer) = hint {
            // SAFETY: the relation is open; the server checks that the buffer
            // holds this page.
            unsafe {
                if versions::pin_recent(self.relation, self.fork, block, buffer) {
                    versions::count_hit(self.relation);
                    return buffer;
                }
            }
        }
        let buffer = self.buffer(block, pg_sys::ReadBufferMode::RBM_NORMAL);
        self.set_hint(block, buffer);
        buffer
    }

    /// The buffer that held a page when this backend last saw it. Of other forks, and
    /// of temporary relations, whose numbers are their own, nothing is known.
    fn hint(&self, block: Block) -> Option<pg_sys::Buffer> {
        if !self.has_hints {
            return None;
        }
        let known = Hints::with(|hints| hints.place(self.file(), block).copied());
        known.filter(|&buffer| buffer > 0)
    }

    fn set_hint(&self, block: Block, buffer: pg_sys::Buffer) {
        if !self.has_hints {
            return;
        }
        Hints::with(|hints| {
            if let Some(place) = hints.place(self.file(), block) {
                *place = buffer;
            }
        });
    }

    /// The number of the relation's file.
    fn file(&self) -> u32 {
        // SAFETY: the relation is open.
        unsafe { versions::file_number(self.relation) }
    }

    fn is_past_end(&self, block: Block) -> bool {
        block >= self.blocks.get() && block >= self.block_count()
    }

    /// Pins and locks a page of the index, after checking that it is one.
    fn get(&self, block: Block, lock: u32) -> Result<Buffer<'_>, Error> {
        if self.is_past_end(block) {
            return Err(Error::Corrupted {
                block,
                reason: "the block is past the end of the index".into(),
            });
        }
        pgrx::check_for_interrupts!();
        allocator::check();
        let buffer = self.pin(block);
        // SAFETY: the buffer was just pinned.
        unsafe {
            unguarded::LockBuffer(buffer, lock as i32);
            Self::locked(buffer, block)
        }
    }

    /// Takes over a page, after checking that it is one of an index.
    ///
    /// # Safety
    ///
    /// The buffer holds this block, and is pinned and locked by this backend.
    unsafe fn locked<'s>(buffer: pg_sys::Buffer, block: Block) -> Result<Buffer<'s>, Error> {
        // SAFETY: the buffer is locked. A page of zeros was added to the file but not yet
        // written, or not before a crash.
        let (guard, known) = unsafe {
            let mut guard = Buffer::new(buffer, false);
            let header = &*guard.page.cast::<pg_sys::PageHeaderData>();
            guard.is_new = header.pd_upper == 0;
            let marks = guard.page.add(MARKS_AT).cast::<u32>();
            let is_ours = *marks == PAGE_ID && *marks.add(1) == block;
            let no_hole = [header.pd_lower, header.pd_upper, header.pd_special]
                .iter()
                .all(|&at| u32::from(at) == pg_sys::BLCKSZ);
            let known = guard.is_new || is_ours && no_hole;
            (guard, known)
        };
        if !known {
            return Err(Error::Corrupted {
                block,
                reason: "the page is not this page of an index".into(),
            });
        }
        Ok(guard)
    }
}

/// Where pages of indexes were found in shared buffers, in memory of this
/// backend: a table that each page has one place in, by its number. A hint may
/// be wrong at any time, or of another page with the same place; whoever uses
/// it lets the server check.
struct Hints {
    buffers: Vec<pg_sys::Buffer>,
    /// Pins since the server last looked for a page itself.
    pins: u32,
}

impl Hints {
    /// Of so many pins, the server looks for the page itself in one.
    const TURN: u32 = 16;

    /// Places for the pages of an index of 16 GiB, in 8 MiB.
    const MOST: usize = 1 << 21;

    /// Uses the hints of this backend.
    fn with<R>(work: impl FnOnce(&mut Hints) -> R) -> R {
        thread_local! {
            static HINTS: RefCell<Hints> = const {
                RefCell::new(Hints { buffers: Vec::new(), pins: 0 })
            };
        }
        HINTS.with_borrow_mut(work)
    }

    /// Counts a pin, and tells whether it is one in which the server is to look for
    /// the page itself.
    fn is_turn(&mut self) -> bool {
        self.pins = (self.pins + 1) % Self::TURN;
        self.pins == 0
    }

    /// The place of a page, if there is one.
    fn place(&mut self, file: u32, block: Block) -> Option<&mut pg_sys::Buffer> {
        // Indexes that are searched in turns begin at different places.
        let number = block.wrapping_add(file.wrapping_mul(0x9e37_79b9)) as usize;
        let mask = self.buffers.len().wrapping_sub(1);
        self.buffers.get_mut(number & mask)
    }

    /// Makes room for the pages of an index.
    fn grow(&mut self, blocks: Block) {
        let len = (blocks as usize).next_power_of_two().min(Self::MOST);
        if self.buffers.len() < len {
            // What is known has other places in a larger table.
            self.buffers = vec![0; len];
        }
    }
}

/// BUFFERDESC_PAD_TO_SIZE of PostgreSQL's buf_internals.h.
const DESCRIPTOR_LEN: usize = 64;

/// What the server knows of a shared buffer: a BufferDesc of buf_internals.h.
fn descriptor(buffer: pg_sys::Buffer) -> *const u8 {
    unsafe extern "C" {
        /// Of PostgreSQL's buf_init.c.
        #[allow(non_upper_case_globals)]
        static BufferDescriptors: *const u8;
    }
    // SAFETY: reads a pointer that the server has set before any backend runs.
    let descriptors = unsafe { BufferDescriptors };
    descriptors.wrapping_add(DESCRIPTOR_LEN * (buffer as usize - 1))
}

/// Begins to bring the descriptor of a buffer, which a pin changes, into the
/// processor's cache.
fn prefetch_descriptor(buffer: pg_sys::Buffer) {
    ann::simd::prefetch(descriptor(buffer), DESCRIPTOR_LEN);
}

/// Whether a shared buffer seems to have a page of a file's main fork. Nothing is
/// locked: what it says is good for no more than a prefetch.
///
/// # Safety
///
/// There is a shared buffer of this number.
unsafe fn seems_to_have(buffer: pg_sys::Buffer, file: u32, block: Block) -> bool {
    // A descriptor begins with a BufferTag: the numbers of tablespace, database, file,
    // fork and block.
    let tag = descriptor(buffer).cast::<u32>().cast_mut();
    // SAFETY: the buffer exists, and its descriptor, which is aligned, stays where it is.
    // Another process may be writing the tag: any value of a number will do.
    let number = |at| unsafe { AtomicU32::from_ptr(tag.add(at)) }.load(Ordering::Relaxed);
    let [file_there, fork, block_there] = [2, 3, 4].map(number);
    (file_there, fork, block_there) == (file, pg_sys::ForkNumber::MAIN_FORKNUM as u32, block)
}

/// Whether this server replays the log of another.
pub fn is_standby() -> bool {
    // SAFETY: reads the server's state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether changes of the relation go to WAL (RelationNeedsWAL).
///
/// # Safety
///
/// The relation is open.
unsafe fn is_logged(relation: pg_sys::Relation) -> bool {
    // SAFETY: the relation is open. A relation created in this transaction is
    // synced at commit instead when wal_level is minimal (rel.h).
    unsafe {
        let permanent =
            (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT;
        let minimal = pg_sys::wal_level < pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32;
        permanent && !(minimal && versions::has_new_file(relation))
    }
}

impl PageStore for RelationPages<'_> {
    type Read<'s>
        = Buffer<'s>
    where
        Self: 's;
    type Write<'s>
        = Buffer<'s>
    where
        Self: 's;

    fn block_count(&self) -> Block {
        // SAFETY: the relation is open.
        let blocks = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, self.fork) };
        self.blocks.set(blocks);
        Hints::with(|hints| hints.grow(blocks));
        blocks
    }

    fn read(&self, block: Block) -> Result<Buffer<'_>, Error> {
        self.get(block, pg_sys::BUFFER_LOCK_SHARE)
    }

    fn lock(&self, block: Block) -> Result<Buffer<'_>, Error> {
        self.get(block, pg_sys::BUFFER_LOCK_EXCLUSIVE)
    }

    fn extend(&self) -> Result<Buffer<'_>, Error> {
        // SAFETY: the relation is open. The extension lock keeps others from
        // extending it at the same time. The page is locked before anybody can read
        // it (bufmgr.c): who finds it at the end of the file must not take it for one
        // that a crash left there.
        unsafe {
            let persistence = (*(*self.relation).rd_rel).relpersistence as u8;
            let is_shared = persistence != pg_sys::RELPERSISTENCE_TEMP;
            let needs_lock = is_shared && self.logging == Logging::Records;
            if needs_lock {
                pg_sys::LockRelationForExtension(
                    self.relation,
                    pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
                );
            }
            let buffer = self.buffer(
                pg_sys::InvalidBlockNumber,
                pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK,
            );
            if needs_lock {
                pg_sys::UnlockRelationForExtension(
                    self.relation,
                    pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
                );
            }
            Ok(Buffer::new(buffer, true))
        }
    }

    fn recycle(&self, block: Block) {
        // SAFETY: the relation is open, and the block is one of it.
        unsafe { pg_sys::RecordFreeIndexPage(self.relation, block) }
        self.free.borrow_mut().push(block);
    }

    fn recycled(&self) -> Result<Option<Buffer<'_>>, Error> {
        if self.logging == Logging::Later {
            return Ok(None);
        }
        loop {
            let own = self.free.borrow_mut().pop();
            // SAFETY: the relation is open. What is free is not logged, so that a block
            // may be past the end after a crash.
            let block = own.unwrap_or_else(|| unsafe { pg_sys::GetFreeIndexPage(self.relation) });
            if block == pg_sys::InvalidBlockNumber {
                return Ok(None);
            }
            if self.is_past_end(block) {
                continue;
            }
            let buffer = self.pin(block);
            // SAFETY: the buffer was just pinned.
            unsafe {
                if pg_sys::ConditionalLockBuffer(buffer) {
                    return Self::locked(buffer, block).map(Some);
                }
                pg_sys::ReleaseBuffer(buffer);
            }
        }
    }

    fn stamp(&self) -> u32 {
        // SAFETY: reads the server's state. Transactions are numbered from 3 on.
        unsafe { pg_sys::ReadNextFullTransactionId().value as u32 }
    }

    fn horizon(&self) -> u32 {
        // Whoever reads an index has a snapshot, and an insert a number of its own.
        // SAFETY: reads the server's state; without a relation, of all databases.
        let oldest = unsafe { pg_sys::GetOldestNonRemovableTransactionId(std::ptr::null_mut()) };
        oldest.into_inner()
    }

    fn is_alone(&self) -> bool {
        // SAFETY: reads the server's state. Who searches or inserts has a snapshot; a vacuum
        // does neither. What a standby does is not known here, but that there may be one is,
        // while it is connected or has a slot with a horizon.
        unsafe {
            if (*(*self.relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
                return true;
            }
            let senders = (*pg_sys::WalSndCtl).walsnds.as_ptr();
            let mut senders = (0..pg_sys::max_wal_senders as usize).map(|i| senders.add(i));
            let mut of_slots = pg_sys::InvalidTransactionId;
            pg_sys::ProcArrayGetReplicationSlotXmin(&mut of_slots, std::ptr::null_mut());
            if of_slots != pg_sys::InvalidTransactionId
                || senders.any(|sender| (&raw const (*sender).pid).read_volatile() != 0)
            {
                return false;
            }
            let mut count = 0;
            let others = pg_sys::GetCurrentVirtualXIDs(
                pg_sys::InvalidTransactionId,
                true,
                true,
                pg_sys::PROC_IN_VACUUM as i32,
                &mut count,
            );
            pg_sys::pfree(others.cast());
            count == 0
        }
    }

    fn block_of(&self, page: &Buffer<'_>) -> Block {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetBlockNumber(page.buffer) }
    }

    fn commit(&self, pages: &mut [&mut Buffer<'_>], edit: &mut dyn FnMut(&mut [&mut Body])) {
        if self.logging == Logging::Records {
            // SAFETY: the buffers are pinned and exclusively locked.
            unsafe { record::write(pages, is_logged(self.relation), edit) };
            return;
        }
        // SAFETY: the buffers are pinned and exclusively locked; they are distinct.
        unsafe {
            for page in pages.iter_mut() {
                if std::mem::take(&mut page.is_new) {
                    init_page(page.page, pg_sys::BufferGetBlockNumber(page.buffer));
                }
            }
            let mut bodies: Vec<&mut Body> = (pages.iter())
                .map(|page| &mut *page.page.add(BODY_AT).cast::<Body>())
                .collect();
            edit(&mut bodies);
            for page in pages.iter() {
                pg_sys::MarkBufferDirty(page.buffer);
            }
        }
    }

    fn prefetch(&self, block: Block, len: usize, starts: impl IntoIterator<Item = usize>) {
        if self.fork != pg_sys::ForkNumber::MAIN_FORKNUM || block >= self.blocks.get() {
            return;
        }
        let hint = self.hint(block);
        // SAFETY: a hint never names a buffer that does not exist.
        let seems_to_have = |buffer| unsafe { seems_to_have(buffer, self.file(), block) };
        let hint = hint.filter(|&buffer| seems_to_have(buffer));
        let buffer = hint.unwrap_or_else(|| {
            // SAFETY: the relation is open, and the block is not past its end.
            // If the page is in no buffer, the operating system is asked to
            // read it ahead.
            let found = unsafe { pg_sys::PrefetchBuffer(self.relation, self.fork, block) };
            self.set_hint(block, found.recent_buffer);
            if found.recent_buffer > 0 {
                // Of a hint, it was just read.
                prefetch_descriptor(found.recent_buffer);
            }
            found.recent_buffer
        });
        if buffer > 0 {
            // SAFETY: a hint never names a buffer that does not exist, so the
            // address is one in shared buffers.
            let page = unsafe { pg_sys::BufferGetPage(buffer).cast::<u8>() };
            // Every visit looks at the marks.
            ann::simd::prefetch(page, BODY_AT);
            for at in starts {
                let from = page.wrapping_add(BODY_AT + at);
                ann::simd::prefetch(from, len.min(BODY_LEN - at));
            }
        }
    }

    fn pause(&self) {
        (self.on_pause)();
    }
}
