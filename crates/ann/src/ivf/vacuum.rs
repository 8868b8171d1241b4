//! Removing rows, and giving back the pages of lists that have become sparse.
//!
//! A removed row leaves its column, which a later one of the same list takes. A list that
//! would need half as many pages is *written anew*: its members are copied to other pages,
//! and then the entry of its centroid leads to these. The pages that it had stay as they
//! are for those who read them, until everything that had begun by then has ended. So
//! nothing is moved: a scan that has seen a row's code finds the row where it was, or finds
//! that it is gone. A column that was given to another row in the meantime shows that one's
//! own code; the scan's snapshot does not see it.
//!
//! Only one vacuum of an index runs at a time.

use memory::vec::{collect, filled, push};

use super::chain::{Chain, check_code_page, check_list_page};
use super::codec::{Codec, Level};
use super::index::{Index, List, METAPAGE, aligned, set_target};
use super::layout::{DEAD, Header, Kind, Layout, Link, ListHeader, Member, NO_BLOCK};
use crate::hnsw::Code;
use crate::page::{Block, Body, PageStore, is_earlier};
use crate::quantize::fastscan::{self, BLOCK};
use crate::quantize::rabitq::Factors;
use crate::{Error, HeapTid};

/// What memory is asked for.
const VACUUM: &str = "a vacuum";

/// A list is written anew if it needs half of its pages then, and so many fewer.
const LEAST_GAIN: usize = 4;

/// What a vacuum counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows removed.
    pub removed: u64,
    /// Rows that stay.
    pub remaining: u64,
    /// Pages that lists had until they were written anew by this vacuum.
    pub unlinked: u64,
    /// Pages that no list has, these among them.
    pub unused: u64,
    /// Those of them that can be used again.
    pub free: u64,
}

/// Pages that were come to.
struct Seen(Vec<u64>);

impl Seen {
    fn new(blocks: Block) -> Result<Self, Error> {
        let words = (blocks as usize).div_ceil(64);
        Ok(Seen(filled(0, words, VACUUM)?))
    }

    /// Those that were added since the beginning do not count.
    fn add(&mut self, block: Block) {
        if let Some(word) = self.0.get_mut(block as usize / 64) {
            *word |= 1 << (block % 64);
        }
    }

    fn has(&self, block: Block) -> bool {
        self.0[block as usize / 64] >> (block % 64) & 1 != 0
    }
}

/// What a vacuum knows of a list.
#[derive(Default)]
struct Usage {
    pages: Vec<Block>,
    /// Those of them that are list pages.
    list_pages: Vec<Block>,
    members: usize,
    /// The first list page with room.
    room: Option<Block>,
    /// List pages that a vacuum that did not end has closed.
    closed: Vec<Block>,
}

/// The pages that a list is to have, which are closed so far.
struct Copies {
    generation: u32,
    pages: Vec<Block>,
}

impl<'s, S: PageStore, C: std::ops::Deref<Target = Codec>> Index<'s, S, C> {
    /// Removes the rows for which `is_dead` says so.
    ///
    /// The inserts of these rows must have ended before this call. (Those that
    /// PostgreSQL's vacuum names were collected from the table before it.)
    pub fn remove(&self, is_dead: &mut dyn FnMut(HeapTid) -> bool) -> Result<Removed, Error> {
        let mut counts = Removed::default();
        let blocks = self.store.block_count();
        let mut seen = Seen::new(blocks)?;
        seen.add(METAPAGE);
        seen.add(self.meta().apex);
        self.meta().mean_blocks().for_each(|block| seen.add(block));
        self.see(self.root(), &mut seen)?;
        self.for_each_branch(&mut |branch, _| self.see(branch, &mut seen))?;
        self.for_each_list(&mut |list, link| {
            let usage = self.remove_from(list, link, is_dead, &mut counts)?;
            let needed = self.codec.layout(Level::Rows).pages(usage.members);
            let gain = usage.pages.len().saturating_sub(needed);
            if gain >= LEAST_GAIN.max(needed) {
                counts.unlinked += usage.pages.len() as u64;
                self.write_anew(list, link.head)?;
                if self.store.is_alone() {
                    // The next list that is written anew finds room there.
                    for block in usage.list_pages {
                        self.free(block, &|_| true)?;
                    }
                }
                return self.see(list, &mut seen);
            }
            usage.pages.iter().for_each(|&block| seen.add(block));
            for block in usage.closed {
                self.open_page(list, block)?;
            }
            // The next row takes the first place there is.
            match usage.room {
                Some(room) if room != link.room => self.set_room(list, link, room),
                _ => Ok(()),
            }
        })?;
        let unseen = || (0..blocks).filter(|&block| !seen.has(block));
        let horizon = self.store.horizon();
        let is_alone = self.store.is_alone();
        for block in unseen() {
            self.store.pause();
            counts.unused += self.free_or_wait(block, horizon, is_alone)?;
        }
        for block in unseen() {
            self.store.pause();
            if Header::of(&*self.store.read(block)?).kind() == Some(Kind::New) {
                self.store.recycle(block);
                counts.free += 1;
            }
        }
        counts.unused += counts.free;
        Ok(counts)
    }

    /// Marks the pages of a list.
    fn see(&self, list: List, seen: &mut Seen) -> Result<(), Error> {
        self.walk(list, self.link(list)?, |block, directory, _| {
            seen.add(block);
            directory.iter().for_each(|&codes| seen.add(codes));
            Ok(())
        })
    }

    fn remove_from(
        &self,
        list: List,
        link: Link,
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
        counts: &mut Removed,
    ) -> Result<Usage, Error> {
        let layout = self.codec.layout(Level::Rows);
        let mut usage = Usage::default();
        let mut chain = Chain::new(list.number, link.head, None);
        while let Some((at, page)) = chain.next(self)? {
            let directory = layout.directory(&page).to_vec();
            let mut has_room = layout.has_room(&page);
            if Header::of(&page).kind() == Some(Kind::Closed) {
                push(&mut usage.closed, at, VACUUM)?;
            }
            drop(page);
            self.store.pause();
            push(&mut usage.pages, at, VACUUM)?;
            push(&mut usage.list_pages, at, VACUUM)?;
            let code_pages = directory
                .iter()
                .enumerate()
                .filter(|(_, codes)| **codes != 0);
            for (number, &codes) in code_pages {
                push(&mut usage.pages, codes, VACUUM)?;
                let place = (number, codes, chain.generation());
                let (dead, alive) = self.dead_slots(list, place, is_dead)?;
                counts.removed += dead.len() as u64;
                counts.remaining += alive as u64;
                usage.members += alive;
                if !dead.is_empty() {
                    self.remove_slots(list, (at, number, codes), &dead)?;
                    has_room = true;
                }
            }
            if has_room && usage.room.is_none() {
                usage.room = Some(at);
            }
        }
        Ok(usage)
    }

    /// The rows of a code page that are to be removed, slots and addresses, and how many
    /// stay.
    fn dead_slots(
        &self,
        list: List,
        (number, block, generation): (usize, Block, Option<u32>),
        is_dead: &mut dyn FnMut(HeapTid) -> bool,
    ) -> Result<(Vec<(usize, u64)>, usize), Error> {
        let page = self.code_page(list.number, generation, block)?;
        let mut dead = Vec::new();
        let mut alive = 0;
        for (slot, entry) in page.rows(number) {
            let target = entry.head.target;
            match is_dead(HeapTid(target)) {
                true => dead.push((slot, target)),
                false => alive += 1,
            }
        }
        Ok((dead, alive))
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
        let generation = Some(Header::of(&page).generation);
        check_code_page(codes, &Header::of(&code_page), list.number, generation)?;
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

    /// Copies the members of a list to other pages, which are those of the list then.
    ///
    /// Each page is closed before it is read, so that nothing is added to it. The last one
    /// stays locked until the list has its new pages: whoever waits for it finds it closed,
    /// and looks for these.
    fn write_anew(&self, list: List, head: Block) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut copies = Copies {
            generation: self.next_generation(list, head)?,
            pages: Vec::new(),
        };
        let mut at = head;
        // It has an end: this vacuum has just come to it.
        let mut last = loop {
            self.store.pause();
            let mut page = self.store.lock(at)?;
            let header = Header::of(&page);
            check_list_page(at, &header, list.number, self.layout_of(list.number))?;
            if header.link == NO_BLOCK {
                break page;
            }
            set_kind(self.store, &mut page, Kind::Closed);
            drop(page);
            let page = self.store.read(at)?;
            let members = self.members(list, &page)?;
            drop(page);
            self.copy(list, &mut copies, &members)?;
            at = header.link;
        };
        let members = self.members(list, &last)?;
        self.copy(list, &mut copies, &members)?;
        // The last one may have room.
        let (head, last_copy) = (copies.pages.first().copied(), copies.pages.pop());
        let link = match (head, last_copy) {
            (Some(head), Some(room)) => Link { head, room },
            _ => Link::EMPTY,
        };
        let mut room = last_copy.map(|room| self.store.lock(room)).transpose()?;
        let mut entry = self.lock_centroid(list)?;
        let mut pages = vec![&mut last, &mut entry];
        pages.extend(&mut room);
        self.store.commit(&mut pages, &mut |bodies| {
            let kinds = [(0, Kind::Closed), (2, Kind::List)];
            for (number, kind) in kinds {
                if let Some(body) = bodies.get_mut(number) {
                    Header::of(body).with_kind(kind).write(body);
                }
            }
            set_target(layout, bodies[1], list.place, link);
        });
        drop((last, entry, room));
        for block in copies.pages {
            self.open_page(list, block)?;
        }
        Ok(())
    }

    /// The members on a list page.
    fn members(&self, list: List, page: &Body) -> Result<Vec<Code>, Error> {
        let layout = self.codec.layout(Level::Rows);
        let generation = Header::of(page).generation;
        let mut members = Vec::new();
        let directory = layout.directory(page).iter().enumerate();
        for (number, &block) in directory.filter(|(_, block)| **block != 0) {
            let codes = self.code_page(list.number, Some(generation), block)?;
            let first = number * layout.per_page;
            let mut unpacked = (usize::MAX, Vec::new());
            for slot in 0..layout.slots(number) {
                let column = first + slot;
                let (block, column) = (column / BLOCK, column % BLOCK);
                if layout.alive(page)[block] >> column & 1 == 0 {
                    continue;
                }
                let Some(entry) = codes.entry(slot as u16) else {
                    continue;
                };
                let columns = layout.block(page, block);
                if unpacked.0 != block {
                    unpacked = (block, fastscan::unpack(columns.codes));
                }
                let factors = Factors {
                    add: columns.terms.add[column],
                    rescale: columns.terms.rescale[column],
                };
                let deviation = columns.terms.deviation[column];
                let mut member = aligned(layout.member_len());
                let bytes = bytemuck::cast_slice_mut(&mut member);
                let (signs, to) = Member::parts(layout, bytes, factors, deviation);
                let of_column = unpacked.1.iter().map(|row| row[column]);
                signs
                    .iter_mut()
                    .zip(of_column)
                    .for_each(|(to, sign)| *to = sign);
                entry.write(to);
                push(&mut members, Code::copied(bytes), VACUUM)?;
            }
        }
        Ok(members)
    }

    /// That of the pages that a list is to have instead of those that begin with `head`.
    fn next_generation(&self, list: List, head: Block) -> Result<u32, Error> {
        let mut chain = Chain::new(list.number, head, None);
        chain.next(self)?;
        let now = self.store.stamp();
        Ok(match chain.generation() {
            // No time may have gone by.
            Some(before) if !is_earlier(before, now) => before.wrapping_add(1),
            _ => now,
        })
    }

    /// Adds members to the copies of a list's pages, and adds to these.
    fn copy(&self, list: List, copies: &mut Copies, members: &[Code]) -> Result<(), Error> {
        if members.is_empty() {
            return Ok(());
        }
        let Copies { generation, pages } = copies;
        let start = match pages.last() {
            Some(&last) => last,
            None => {
                let mut page = self.allocate()?;
                let head = self.store.block_of(&page);
                self.store.commit(&mut [&mut page], &mut |bodies| {
                    let (kind, list) = (Kind::Closed, list.number);
                    Header::write_list_page(kind, list, *generation, head, bodies[0]);
                });
                push(pages, head, VACUUM)?;
                head
            }
        };
        let members: Vec<&[u8]> = collect(members.iter().map(Code::bytes), VACUUM)?;
        self.fill(list, Kind::Closed, start, &members)?;
        let mut chain = Chain::new(list.number, start, Some(*generation));
        chain.next(self)?;
        while let Some((block, _)) = chain.next(self)? {
            push(pages, block, VACUUM)?;
        }
        Ok(())
    }

    /// Lets rows be added to a list page again.
    fn open_page(&self, list: List, block: Block) -> Result<(), Error> {
        let mut page = self.store.lock(block)?;
        check_list_page(
            block,
            &Header::of(&page),
            list.number,
            self.layout_of(list.number),
        )?;
        set_kind(self.store, &mut page, Kind::List);
        Ok(())
    }

    /// Looks at a page that no list has: a closed list page is emptied if everything has
    /// ended that had begun when it was found before, or if nothing else is under way. Else
    /// gives how many pages wait for that; inserts look at them too. (Of the other pages that
    /// were not seen, a list has taken some since, and the others are code pages of closed
    /// ones.)
    fn free_or_wait(&self, block: Block, horizon: u32, is_alone: bool) -> Result<u64, Error> {
        let layout = self.codec.layout(Level::Rows);
        let (kind, of_list, directory) = {
            let page = self.store.read(block)?;
            let directory = layout.directory(&page).to_vec();
            (Header::of(&page).kind(), ListHeader::of(&page), directory)
        };
        if kind != Some(Kind::Closed) {
            return Ok(0);
        }
        let unlinked = of_list.unlinked;
        if is_alone || is_unread(&of_list, horizon) {
            // Unless an insert has taken it since.
            self.free(block, &|page| ListHeader::of(page).unlinked == unlinked)?;
            return Ok(0);
        }
        let now = self.store.stamp();
        // A time to come is from before a crash, or half of all stamps ago.
        if unlinked == 0 || is_earlier(now, unlinked) {
            let mut page = self.store.lock(block)?;
            if Header::of(&page).kind() == Some(Kind::Closed) {
                self.store.commit(&mut [&mut page], &mut |bodies| {
                    let of_list = ListHeader::of(bodies[0]);
                    ListHeader {
                        unlinked: now,
                        ..of_list
                    }
                    .write(bodies[0]);
                });
            }
        }
        self.store.recycle(block);
        let code_pages = directory.iter().filter(|&&codes| codes != 0);
        Ok(1 + code_pages.count() as u64)
    }

    /// Empties a page that came out of those that can be used again or wait for that, if
    /// nobody reads it any more; else the next vacuum looks at it. (Put back, it would be
    /// looked at by every insert that needs a page.)
    pub(super) fn free_if_unread(&self, page: S::Write<'s>) -> Result<Option<S::Write<'s>>, Error> {
        match is_unread(&ListHeader::of(&page), self.store.horizon()) {
            true => self.free_locked(page).map(Some),
            false => Ok(None),
        }
    }

    /// Empties a closed list page that nobody reads any more, and its code pages, if it is
    /// still what it was.
    fn free(&self, block: Block, is_same: &dyn Fn(&Body) -> bool) -> Result<(), Error> {
        let page = self.store.lock(block)?;
        if Header::of(&page).kind() == Some(Kind::Closed) && is_same(&page) {
            drop(self.free_locked(page)?);
            self.store.recycle(block);
        }
        Ok(())
    }

    /// Empties a locked list page that nobody reads any more, and its code pages.
    fn free_locked(&self, mut page: S::Write<'s>) -> Result<S::Write<'s>, Error> {
        let layout = self.codec.layout(Level::Rows);
        let block = self.store.block_of(&page);
        let header = Header::of(&page);
        for number in 0..layout.code_pages {
            let codes = layout.directory(&page)[number];
            if codes == 0 || codes == block {
                continue;
            }
            let mut code_page = self.store.lock(codes)?;
            let of_codes = Header::of(&code_page);
            let is_own = of_codes.link == block
                && check_code_page(codes, &of_codes, header.list, Some(header.generation)).is_ok();
            if !is_own {
                return Err(Error::not_of_list(codes, header.list));
            }
            self.store
                .commit(&mut [&mut page, &mut code_page], &mut |bodies| {
                    layout.directory_mut(bodies[0])[number] = 0;
                    Header::new(Kind::New, 0, 0, 0).write(bodies[1]);
                });
            drop(code_page);
            self.store.recycle(codes);
        }
        self.store.commit(&mut [&mut page], &mut |bodies| {
            Header::new(Kind::New, 0, 0, 0).write(bodies[0]);
        });
        Ok(page)
    }
}

/// Whether everything has ended that had begun when a closed list page was found to be
/// nobody's.
fn is_unread(of_list: &ListHeader, horizon: u32) -> bool {
    of_list.unlinked != 0 && is_earlier(of_list.unlinked, horizon)
}

/// Makes a locked list page one of another kind.
fn set_kind<S: PageStore>(store: &S, page: &mut S::Write<'_>, kind: Kind) {
    if Header::of(page).kind() != Some(kind) {
        store.commit(&mut [page], &mut |bodies| {
            Header::of(bodies[0]).with_kind(kind).write(bodies[0]);
        });
    }
}

/// Marks an entry as that of no row.
fn bury(layout: &Layout, body: &mut Body, slot: usize) {
    layout.entry_mut(body, slot)[..8].copy_from_slice(&DEAD.to_ne_bytes());
}
