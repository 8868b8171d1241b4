//! Posting lists: the rows of an element that its vertex has no room for.
//!
//! Rows with equal codes share an element. A graph of them would be of no use:
//! each is as near to a query as any other, so their links lead only to each
//! other, and they push all others out of the beam. So rows beyond the first
//! [`MAX_HEAP_TIDS`] go into slots that are not part of the graph: a chain that
//! starts at the vertex on level 0, each full of rows (a *posting*).
//!
//! Nothing here holds two locks. Inserts add rows to the first posting of a
//! chain, or put a new one before it; only vacuum takes any out. It marks an
//! empty one as dead, so that nobody adds to it, then unlinks it, and frees it
//! after the barrier. A scan that meets a posting freed meanwhile walks again.

use memory::vec::extend;

use super::codec::{Code, Codec};
use super::index::Index;
use super::layout::{HeapTid, Layout, MAX_HEAP_TIDS, NONE, Slot, SlotMut, State, Vertex};
use super::sets::VertexBits;
use crate::Error;
use crate::page::PageStore;

/// Vacuum frees only postings without rows, so a walk that is disturbed again
/// and again misses nothing in the end.
const MAX_WALKS: usize = 8;

/// A posting to be written.
pub(super) struct NewPosting<'a> {
    pub base: Vertex,
    /// The next posting, or [`NONE`].
    pub next: Vertex,
    /// At most [`Layout::posting_capacity`].
    pub heap_tids: &'a [HeapTid],
}

impl NewPosting<'_> {
    /// The bytes of the posting's slot.
    pub fn image(&self, layout: &Layout) -> Code {
        let mut image = Code::zeroed(layout.slot_len);
        let mut slot = SlotMut::of_bytes(layout, image.bytes_mut());
        slot.init_posting(self.next, self.base);
        slot.set_posting_tids(self.heap_tids);
        image
    }
}

/// A posting, as a walk along a chain sees it.
struct Posting {
    next: Vertex,
    rows: usize,
    is_dead: bool,
}

impl Posting {
    /// The posting in a slot, if it is one of the element `base`.
    fn of(slot: &Slot<'_>, base: Vertex) -> Option<Self> {
        let is_dead = slot.state == State::Dead;
        let is_one = (is_dead || slot.state == State::Posting) && slot.header.base == base;
        is_one.then(|| Posting {
            next: slot.header.below,
            rows: slot.posting_tids().len(),
            is_dead,
        })
    }
}

/// Whether a slot is that of a live element, which has its rows.
fn is_element(slot: &Slot<'_>) -> bool {
    slot.state == State::Live && slot.header.level == 0
}

impl<S: PageStore, C: Codec> Index<'_, S, C> {
    /// Adds a row to an element; false if it is no longer live.
    ///
    /// Between a look at the vertex's code and this call, vacuum can only have
    /// marked it: slots are not reused before an insert ends.
    pub(super) fn add_row(&self, base: Vertex, tid: HeapTid) -> Result<bool, Error> {
        let mut first = {
            let (block, at) = self.layout.locate(base)?;
            let mut page = self.store.lock(block)?;
            let slot = Slot::parse(&self.layout, block, &page, at)?;
            if !is_element(&slot) {
                return Ok(false);
            }
            let mut tids: Vec<HeapTid> = slot.heap_tids().collect();
            if tids.len() < MAX_HEAP_TIDS {
                tids.push(tid);
                self.store.commit(&mut [&mut page], &mut |bodies| {
                    SlotMut::new(&self.layout, bodies[0], at).set_heap_tids(&tids);
                });
                return Ok(true);
            }
            slot.header.below
        };
        if first != NONE && self.add_to_posting(first, base, tid)? {
            return Ok(true);
        }

        let posting = self.write_posting(&NewPosting {
            base,
            next: first,
            heap_tids: &[tid],
        })?;
        loop {
            let unchanged = |slot: Slot<'_>| is_element(&slot) && slot.header.below == first;
            if self.change_slot(base, unchanged, |slot| slot.set_below(posting))? {
                return Ok(true);
            }
            let now =
                self.with_slot(base, |slot| is_element(&slot).then_some(slot.header.below))?;
            let Some(now) = now else {
                // The row goes elsewhere, and vacuum frees the posting.
                self.change_slot(posting, |_| true, |slot| slot.set_posting_tids(&[]))?;
                return Ok(false);
            };
            first = now;
            self.change_slot(posting, |_| true, |slot| slot.set_below(first))?;
        }
    }

    /// Adds a row to a posting that is in use and has room.
    fn add_to_posting(&self, posting: Vertex, base: Vertex, tid: HeapTid) -> Result<bool, Error> {
        let (block, at) = self.layout.locate(posting)?;
        let mut page = self.store.lock(block)?;
        let slot = Slot::parse(&self.layout, block, &page, at)?;
        let room = self.layout.posting_capacity();
        if slot.state != State::Posting
            || slot.header.base != base
            || slot.posting_tids().len() >= room
        {
            return Ok(false);
        }
        let tids: Vec<HeapTid> = slot.posting_tids().chain([tid]).collect();
        self.store.commit(&mut [&mut page], &mut |bodies| {
            SlotMut::new(&self.layout, bodies[0], at).set_posting_tids(&tids);
        });
        Ok(true)
    }

    /// Appends the rows in the postings of an element, the first of which is
    /// given, to `tids`.
    pub(super) fn posting_tids(
        &self,
        base: Vertex,
        first: Vertex,
        tids: &mut Vec<HeapTid>,
    ) -> Result<(), Error> {
        let from = tids.len();
        let mut next = first;
        for _ in 0..MAX_WALKS {
            let mut read = Ok(());
            let is_whole = self.walk(base, next, &mut |slot| {
                if read.is_ok() {
                    read = extend(tids, slot.posting_tids(), "the rows with equal vectors");
                }
            })?;
            read?;
            if is_whole {
                break;
            }
            tids.truncate(from);
            let first = self.with_slot(base, |slot| is_element(&slot).then_some(slot.header.below));
            match first? {
                Some(first) => next = first,
                None => break,
            }
        }
        Ok(())
    }

    /// Shows every posting of a chain; false if it met a slot that is no longer
    /// one of the element's.
    fn walk(
        &self,
        base: Vertex,
        first: Vertex,
        show: &mut dyn FnMut(Slot<'_>),
    ) -> Result<bool, Error> {
        let mut next = first;
        let mut seen = 0;
        while next != NONE {
            let posting = self.with_slot(next, |slot| {
                let posting = Posting::of(&slot, base);
                if posting.is_some() {
                    show(slot);
                }
                posting
            })?;
            let Some(posting) = posting else {
                return Ok(false);
            };
            seen += 1;
            self.check_chain_length(base, seen)?;
            next = posting.next;
        }
        Ok(true)
    }

    /// A chain that is longer than the index has slots goes round in circles.
    fn check_chain_length(&self, base: Vertex, seen: u64) -> Result<(), Error> {
        // Asking for the length now and then is enough.
        if !seen.is_multiple_of(1024) {
            return Ok(());
        }
        let slots = u64::from(self.store.block_count()) * u64::from(self.layout.slots_per_page);
        if seen > slots {
            let reason = format!("the postings of vertex {base} go round in circles");
            return Err(Error::corrupted(self.layout.locate(base)?.0, reason));
        }
        Ok(())
    }

    /// Unlinks the postings of an element that have no rows left; each goes to
    /// `dead`, the others to `kept`. Marks the element as dead, and returns
    /// true, if it has no rows at all. For vacuum, of which there is one.
    pub(super) fn trim_postings(
        &self,
        base: Vertex,
        dead: &mut VertexBits,
        kept: &mut VertexBits,
    ) -> Result<bool, Error> {
        let mut before = base;
        let mut seen = 0;
        loop {
            let next = self.with_slot(before, |slot| slot.header.below)?;
            if next == NONE {
                break;
            }
            let posting = self.with_slot(next, |slot| Posting::of(&slot, base))?;
            let Some(posting) = posting else {
                let reason = format!("vertex {base} has slot {next} for a posting, which is none");
                return Err(Error::corrupted(self.layout.locate(base)?.0, reason));
            };
            seen += 1;
            self.check_chain_length(base, seen)?;
            let is_empty = posting.rows == 0;
            if !(posting.is_dead || is_empty && self.mark_posting_dead(next)?) {
                kept.insert(next)?;
                before = next;
                continue;
            }
            // If a new posting came in between, the next turn finds that.
            let links_here = |slot: &Slot<'_>| slot.header.below == next;
            let was_last = before == base
                && posting.next == NONE
                && self.change_slot(
                    base,
                    |slot| is_element(&slot) && slot.heap_tids().len() == 0 && links_here(&slot),
                    |slot| {
                        slot.set_below(NONE);
                        slot.set_dead();
                    },
                )?;
            let unlink = |slot: &mut SlotMut<'_>| slot.set_below(posting.next);
            if was_last || self.change_slot(before, |slot| links_here(&slot), unlink)? {
                dead.insert(next)?;
            } else {
                before = base;
            }
            if was_last {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Marks a posting as dead if it has no rows; then it gets none any more.
    pub(super) fn mark_posting_dead(&self, posting: Vertex) -> Result<bool, Error> {
        let is_empty =
            |slot: Slot<'_>| slot.state == State::Posting && slot.posting_tids().len() == 0;
        self.change_slot(posting, is_empty, |slot| slot.set_dead())
    }
}
