//! Removing rows.
//!
//! A removed row leaves its column, which a later one of the same list takes.
//! Nothing is moved: a scan that has seen a row's code finds the row where it
//! was, or finds that it is gone. A column that was given to another row in the
//! meantime shows that one's own code; the scan's snapshot does not see it.

use super::codec::{Codec, Level};
use super::index::{Index, List, check_code_page};
use super::layout::{DEAD, Header, Layout, Link, NO_BLOCK};
use crate::page::{Block, Body, PageStore};
use crate::quantize::fastscan::BLOCK;
use crate::{Error, HeapTid};

/// What a vacuum counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows removed.
    pub removed: u64,
    /// Rows that stay.
    pub remaining: u64,
}

impl<S: PageStore, C: std::ops::Deref<Target = Codec>> Index<'_, S, C> {
    /// Removes the rows for which `is_dead` says so.
    ///
    /// The inserts of these rows must have ended before this call. (Those that
    /// PostgreSQL's vacuum names were collected from the table before it.)
    pub fn remove(&self, is_dead: &mut dyn FnMut(HeapTid) -> bool) -> Result<Removed, Error> {
        let mut counts = Removed::default();
        self.for_each_list(&mut |list, link| self.remove_from(list, link, is_dead, &mut counts))?;
        Ok(counts)
    }

    fn remove_from(
        &self,
        list: List,
        link: Link,
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
        counts: &mut Removed,
    ) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Rows);
        let mut room = NO_BLOCK;
        let mut at = link.head;
        let mut steps = 0;
        while at != NO_BLOCK {
            self.store.pause();
            let (next, directory, mut has_room) = {
                let page = self.list_page(at, list.number)?;
                (
                    Header::of(&page).next,
                    layout.directory(&page).to_vec(),
                    layout.has_room(&page),
                )
            };
            for (number, &codes) in directory
                .iter()
                .enumerate()
                .filter(|(_, codes)| **codes != 0)
            {
                let dead = self.dead_slots(list, (number, codes), is_dead, counts)?;
                if !dead.is_empty() {
                    self.remove_slots(list, (at, number, codes), &dead)?;
                    has_room = true;
                }
            }
            if has_room && room == NO_BLOCK {
                room = at;
            }
            steps += 1;
            if steps > self.store.block_count() {
                let reason = format!("list {} has no end", list.number);
                return Err(Error::corrupted(at, reason));
            }
            at = next;
        }
        // The next row takes the first place there is.
        if room != NO_BLOCK && room != link.room {
            self.set_link(list, |link| link.room = room)?;
        }
        Ok(())
    }

    /// The rows of a code page that are to be removed: slots and addresses.
    fn dead_slots(
        &self,
        list: List,
        (number, block): (usize, Block),
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
        counts: &mut Removed,
    ) -> Result<Vec<(usize, u64)>, Error> {
        let layout = self.codec.layout(Level::Rows);
        let page = self.store.read(block)?;
        check_code_page(block, &Header::of(&page), list.number)?;
        let mut dead = Vec::new();
        for (slot, entry) in layout.rows(&page, number) {
            let target = entry.head.target;
            if is_dead(HeapTid(target)) {
                dead.push((slot, target));
                counts.removed += 1;
            } else {
                counts.remaining += 1;
            }
        }
        Ok(dead)
    }

    /// Removes rows from a code page and from its list page, in one record.
    fn remove_slots(
        &self,
        list: List,
        (at, number, codes): (Block, usize, Block),
        dead: &[(usize, u64)],
    ) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Rows);
        let mut page = self.store.lock(at)?;
        let mut code_page = self.store.lock(codes)?;
        check_code_page(codes, &Header::of(&code_page), list.number)?;
        let still = |&&(slot, target): &&(usize, u64)| {
            let entry = layout.entry(&code_page, slot);
            entry.is_some_and(|entry| entry.head.target == target)
        };
        let dead: Vec<usize> = dead.iter().filter(still).map(|&(slot, _)| slot).collect();
        self.store
            .commit(&mut [&mut page, &mut code_page], &mut |bodies| {
                for &slot in &dead {
                    let column = number * layout.per_page + slot;
                    layout.alive_mut(bodies[0])[column / BLOCK] &= !(1 << (column % BLOCK));
                    bury(layout, bodies[1], slot);
                }
            });
        Ok(())
    }
}

/// Marks an entry as that of no row.
fn bury(layout: &Layout, body: &mut Body, slot: usize) {
    layout.entry_mut(body, slot)[..8].copy_from_slice(&DEAD.to_ne_bytes());
}
