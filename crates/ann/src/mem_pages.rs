//! Pages in memory, with a journal of every atomic record.
//!
//! The journal makes crash safety a unit test: [`MemPages::replay`] rebuilds
//! the pages as they were after any number of records, which is what a server
//! finds after a crash at that point.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{ArcRwLockReadGuard, ArcRwLockWriteGuard, Mutex, RawRwLock, RwLock};

use crate::Error;
use crate::page::{Block, Body, MAX_PAGES_PER_RECORD, PageStore};

/// What one record wrote: the new images of the pages it changed.
type Record = Vec<(Block, Box<Body>)>;

/// A [`PageStore`] in memory.
#[derive(Default)]
pub struct MemPages {
    pages: RwLock<Vec<Arc<RwLock<Body>>>>,
    journal: Mutex<Vec<Record>>,
    recycled: Mutex<Vec<Block>>,
    ticks: AtomicU32,
    alone: AtomicBool,
}

/// A page under a share lock.
pub struct ReadGuard(ArcRwLockReadGuard<RawRwLock, Body>);

/// A page under an exclusive lock.
pub struct WriteGuard {
    block: Block,
    page: ArcRwLockWriteGuard<RawRwLock, Body>,
}

impl Deref for ReadGuard {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.0
    }
}

impl Deref for WriteGuard {
    type Target = Body;
    fn deref(&self) -> &Body {
        &self.page
    }
}

impl MemPages {
    /// No pages yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records were written so far.
    pub fn records(&self) -> usize {
        self.journal.lock().len()
    }

    /// The pages as they were after the first `records` records.
    pub fn replay(&self, records: usize) -> MemPages {
        let copy = MemPages::new();
        // Nothing that had begun goes on.
        let ticks = self.ticks.load(Ordering::Relaxed);
        copy.ticks.store(ticks + 1, Ordering::Relaxed);
        let journal = self.journal.lock();
        {
            let mut pages = copy.pages.write();
            for (block, image) in journal[..records].iter().flatten() {
                while pages.len() <= *block as usize {
                    pages.push(Arc::new(RwLock::new(Body::ZERO)));
                }
                *pages[*block as usize].write() = **image;
            }
        }
        copy
    }

    /// Says that all that has begun has ended.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Overwrites bytes of a page without a record: damage, for tests.
    pub fn damage(&self, block: Block, change: impl FnOnce(&mut Body)) {
        let page = self.pages.read()[block as usize].clone();
        change(&mut page.write());
    }

    /// What [`PageStore::is_alone`] says from now on; no, at first.
    pub fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }

    fn page(&self, block: Block) -> Result<Arc<RwLock<Body>>, Error> {
        self.pages
            .read()
            .get(block as usize)
            .cloned()
            .ok_or_else(|| Error::corrupted(block, "the block is past the end of the index"))
    }
}

impl PageStore for MemPages {
    type Read<'s> = ReadGuard;
    type Write<'s> = WriteGuard;

    fn block_count(&self) -> Block {
        self.pages.read().len() as Block
    }

    fn read(&self, block: Block) -> Result<ReadGuard, Error> {
        Ok(ReadGuard(self.page(block)?.read_arc()))
    }

    fn lock(&self, block: Block) -> Result<WriteGuard, Error> {
        let page = self.page(block)?.write_arc();
        Ok(WriteGuard { block, page })
    }

    fn extend(&self) -> Result<WriteGuard, Error> {
        let page = Arc::new(RwLock::new(Body::ZERO));
        let mut pages = self.pages.write();
        pages.push(page.clone());
        let block = pages.len() as Block - 1;
        Ok(WriteGuard {
            block,
            page: page.write_arc(),
        })
    }

    fn recycle(&self, block: Block) {
        self.recycled.lock().push(block);
    }

    fn recycled(&self) -> Result<Option<WriteGuard>, Error> {
        loop {
            let Some(block) = self.recycled.lock().pop() else {
                return Ok(None);
            };
            if let Some(page) = self.page(block)?.try_write_arc() {
                return Ok(Some(WriteGuard { block, page }));
            }
        }
    }

    fn stamp(&self) -> u32 {
        self.ticks.load(Ordering::Relaxed) + 1
    }

    fn horizon(&self) -> u32 {
        self.stamp()
    }

    fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    fn block_of(&self, page: &WriteGuard) -> Block {
        page.block
    }

    fn commit(&self, pages: &mut [&mut WriteGuard], edit: &mut dyn FnMut(&mut [&mut Body])) {
        assert!(
            pages.len() <= MAX_PAGES_PER_RECORD,
            "too many pages in one record"
        );
        {
            let mut bodies: Vec<&mut Body> = pages.iter_mut().map(|p| &mut *p.page).collect();
            edit(&mut bodies);
        }
        let record = pages.iter().map(|p| (p.block, Box::new(*p.page))).collect();
        self.journal.lock().push(record);
    }

    fn prefetch(&self, _block: Block, _len: usize, _starts: impl IntoIterator<Item = usize>) {}

    fn pause(&self) {}
}
