//! An open index: its lists, and adding members to them.

use std::ops::Range;

use memory::OutOfMemory;
use memory::vec::{push, reserve_in_set};
use rustc_hash::FxHashSet;

use super::chain::{Chain, CodePage, check_code_page, check_list_page};
use super::codec::{Base, Centre, Codec, Level, Query};
use super::kmeans::{Branches, Centroids};
use super::layout::{
    APEX, DEAD, Entry, HEADER, Header, Kind, Layout, Link, ListHeader, Member, Meta, NO_BLOCK,
    Options, Place, ROOT, branch_of, child_of_branch, child_of_root, level_of,
};
use super::lists::Lists;
use crate::Error;
use crate::hnsw::Code;
use crate::page::{BODY_LEN, Block, Body, PageStore};
use crate::quantize::fastscan::BLOCK;

/// The metapage's block.
pub const METAPAGE: Block = 0;

/// An index on the pages of a store.
pub struct Index<'s, S, C> {
    pub(super) store: &'s S,
    pub(super) codec: C,
    meta: Meta,
}

/// A list: its number, and where its own entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    /// Its number.
    pub number: u32,
    /// Its centroid's entry.
    pub place: Place,
    /// If it is in a branch, the entry of that one's centroid.
    pub branch: Option<Place>,
}

impl List {
    /// The number of the list that its centroid is a member of.
    pub fn parent(&self) -> u32 {
        match (self.number, self.branch) {
            (ROOT, _) => APEX,
            (_, None) => ROOT,
            (number, Some(_)) => branch_of(number),
        }
    }

    /// What it has members of.
    pub fn level(&self) -> Level {
        level_of(self.number)
    }

    /// The branch that it is in.
    fn branch(&self) -> Option<List> {
        self.branch.map(|place| List {
            number: self.parent(),
            place,
            branch: None,
        })
    }
}

/// Reads the metapage of an index.
pub fn read_meta<S: PageStore>(store: &S) -> Result<Meta, Error> {
    Meta::parse(&*store.read(METAPAGE)?)
}

/// What memory is asked for.
const CENTROIDS: &str = "the centroids";

/// Components of the mean on a page.
const MEAN_PART: usize = (BODY_LEN - HEADER) / size_of::<f32>();

/// Reads the mean that vectors of an index are relative to: what
/// [`Codec::with_mean`] takes.
pub fn read_mean<S: PageStore>(store: &S, meta: &Meta) -> Result<Vec<f32>, Error> {
    let dimension = meta.options()?.dimension as usize;
    let pages = meta.mean_pages as usize;
    if pages != 0 && pages != dimension.div_ceil(MEAN_PART) {
        let reason = format!("{pages} pages have the mean of {dimension} dimensions");
        return Err(Error::corrupted(METAPAGE, reason));
    }
    let mut mean: Vec<f32> = Vec::with_capacity(dimension);
    for block in meta.mean_blocks() {
        let page = store.read(block)?;
        if Header::of(&page).kind() != Some(Kind::Mean) {
            return Err(Error::corrupted(block, "it has no part of the mean"));
        }
        let len = MEAN_PART.min(dimension - mean.len());
        mean.extend_from_slice(bytemuck::cast_slice(&page.0[HEADER..HEADER + 4 * len]));
    }
    if !mean.iter().all(|x| x.is_finite()) {
        return Err(Error::corrupted(meta.apex, "the mean is not finite"));
    }
    Ok(mean)
}

/// Writes an index of empty lists with these centroids, of [`Codec::padded`]
/// components each, on a store without pages.
pub fn create<S: PageStore>(
    store: &S,
    options: &Options,
    codec: &Codec,
    centroids: &Centroids,
) -> Result<(), Error> {
    let layout = codec.layout(Level::Centroids);
    let encoded = |centroid: &[f32], centre: &Centre| {
        let mut member = aligned(layout.member_len());
        let bytes = bytemuck::cast_slice_mut(&mut member);
        let target = Link::EMPTY.target();
        codec.encode(Level::Centroids, (centroid, true), centre, target, bytes);
        Code::copied(bytes)
    };
    let entry_of = |member: &Code| Member::of(layout, member.bytes()).entry.to_vec();
    // The centroids of lists, as members of one list.
    let lists = |numbers: Range<usize>, centre: &Centre| {
        let mut members = Vec::new();
        let mut known = FxHashSet::default();
        for number in numbers {
            store.pause();
            let member = encoded(centroids.get(number), centre);
            // Of lists with the same code, all rows would be in the first one.
            reserve_in_set(&mut known, 1, CENTROIDS)?;
            if known.insert(member.bytes().to_vec()) {
                push(&mut members, member, CENTROIDS)?;
            }
        }
        Ok::<_, OutOfMemory>(members)
    };

    // The centroid of all lists, and its entry.
    let mut centre = codec.origin();
    let apex = entry_of(&encoded(&centroids.mean(), &centre));
    codec.descend(Entry::new(&apex), &mut centre);
    // Those of branches, each with the members of its list.
    let mut branches = Vec::new();
    for (centroid, numbers) in centroids.branches().into_iter().flat_map(Branches::each) {
        let branch = encoded(centroid, &centre);
        let mut centre = centre.clone();
        codec.descend(Entry::new(&entry_of(&branch)), &mut centre);
        branches.push((branch, lists(numbers, &centre)?));
    }
    let (root, count) = match &branches[..] {
        [] => {
            let members = lists(0..centroids.len(), &centre)?;
            let count = members.len();
            (members, count)
        }
        branches => {
            let members = branches
                .iter()
                .map(|(branch, _)| Code::copied(branch.bytes()));
            let counts = branches.iter().map(|(_, members)| members.len());
            (members.collect(), counts.sum())
        }
    };

    let mut meta = Meta::new(options, count as u32, branches.len() as u32);
    meta.apex = METAPAGE + 1;
    let mean = codec.mean().chunks(MEAN_PART);
    meta.mean_pages = mean.len() as u32;
    let add = |write: &dyn Fn(&mut Body)| -> Result<(), Error> {
        let mut page = store.extend()?;
        store.commit(&mut [&mut page], &mut |bodies| write(bodies[0]));
        Ok(())
    };
    add(&|body| meta.write(body))?;
    add(&|body| {
        Header::new(Kind::Codes, APEX, 0, NO_BLOCK).write(body);
        layout.entry_mut(body, 0).copy_from_slice(&apex);
    })?;
    for part in mean {
        add(&|body| {
            Header::new(Kind::Mean, APEX, 0, NO_BLOCK).write(body);
            let bytes: &[u8] = bytemuck::cast_slice(part);
            body.0[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
        })?;
    }
    let index = Index::open(store, codec, meta);
    index.append(index.root(), &bytes_of(&root))?;
    let mut branches = branches.iter();
    index.for_each_branch(&mut |branch, _| match branches.next() {
        Some((_, members)) => index.append(branch, &bytes_of(members)),
        None => Ok(()),
    })
}

fn bytes_of(members: &[Code]) -> Vec<&[u8]> {
    members.iter().map(Code::bytes).collect()
}

/// Zeros, aligned as members are.
pub(super) fn aligned(len: usize) -> Vec<u64> {
    vec![0; len.div_ceil(8)]
}

impl<'s, S: PageStore, C: std::ops::Deref<Target = Codec>> Index<'s, S, C> {
    /// Opens the index with a metapage, whose codec is given.
    pub fn open(store: &'s S, codec: C, meta: Meta) -> Self {
        Index { store, codec, meta }
    }

    /// The index's codec.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// What the codec is kept in.
    pub fn shared_codec(&self) -> &C {
        &self.codec
    }

    /// The metapage as it was when the index was opened. Only the end of a build changes
    /// it.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The list of lists.
    pub(super) fn root(&self) -> List {
        List {
            number: ROOT,
            place: Place {
                block: self.meta.apex,
                slot: 0,
            },
            branch: None,
        }
    }

    /// A code page of a list; of these pages of it, if that is known.
    pub(super) fn code_page(
        &self,
        list: u32,
        generation: Option<u32>,
        block: Block,
    ) -> Result<CodePage<'_, S::Read<'_>>, Error> {
        let page = self.store.read(block)?;
        check_code_page(block, &Header::of(&page), list, generation)?;
        Ok(CodePage::new(page, level_of(list), self.layout_of(list)))
    }

    /// Looks at the entry of a list's centroid.
    fn with_centroid<R>(&self, list: List, look: impl FnOnce(Entry<'_>) -> R) -> Result<R, Error> {
        let page = self.code_page(list.parent(), None, list.place.block)?;
        let entry = page.entry(list.place.slot);
        entry.map(look).ok_or_else(|| {
            let reason = format!("list {} has lost its centroid", list.number);
            Error::corrupted(list.place.block, reason)
        })
    }

    /// Where a list's members are.
    pub(super) fn link(&self, list: List) -> Result<Link, Error> {
        self.with_centroid(list, |entry| Link::of(entry.head.target))
    }

    /// Changes where there is room for members of a list, if it still begins where the link
    /// says.
    pub(super) fn set_room(&self, list: List, link: Link, room: Block) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut page = self.lock_centroid(list)?;
        let is_same = Link::of(target(layout, &page, list.place)).head == link.head;
        if is_same {
            let link = Link { room, ..link };
            self.store.commit(&mut [&mut page], &mut |bodies| {
                set_target(layout, bodies[0], list.place, link);
            });
        }
        Ok(())
    }

    /// Locks the page with the entry of a list's centroid.
    pub(super) fn lock_centroid(&self, list: List) -> Result<S::Write<'s>, Error> {
        let page = self.store.lock(list.place.block)?;
        check_code_page(list.place.block, &Header::of(&page), list.parent(), None)?;
        Ok(page)
    }

    /// What the query has in common with the list of lists, and its link.
    pub(super) fn enter(&self, query: &Query) -> Result<(Base, Link), Error> {
        let origin = self.codec.base_of_origin(query);
        self.with_centroid(self.root(), |entry| {
            let base = self.codec.base(query, origin, entry);
            (base, Link::of(entry.head.target))
        })
    }

    /// The list whose centroid is nearest to a query, and that centroid; if there are
    /// branches, of those in the branches near it.
    pub(super) fn nearest_list(&self, query: &Query) -> Result<(List, Centre), Error> {
        let mut lists = Lists::by_distance(self, query)?;
        let Some((list, _)) = lists.next(self, query)? else {
            return Err(Error::corrupted(METAPAGE, "the index has no lists"));
        };
        let centre = self.centre(list)?;
        Ok((list, centre))
    }

    /// The centroid of a list, as its members are relative to it.
    pub(super) fn centre(&self, list: List) -> Result<Centre, Error> {
        let mut centre = self.codec.origin();
        for list in [Some(self.root()), list.branch(), Some(list)] {
            let Some(list) = list else { continue };
            self.with_centroid(list, |entry| self.codec.descend(entry, &mut centre))?;
        }
        Ok(centre)
    }

    /// Whether the root's members are branches.
    pub(super) fn has_branches(&self) -> bool {
        self.meta.branches > 0
    }

    /// Calls `each` for all branches, of which there may be none.
    pub(super) fn for_each_branch(
        &self,
        each: &mut dyn FnMut(List, Link) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.has_branches() {
            true => self.for_each_child(self.root(), self.meta.branches, each),
            false => Ok(()),
        }
    }

    /// Calls `each` for all lists of rows.
    pub(super) fn for_each_list(
        &self,
        each: &mut dyn FnMut(List, Link) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let lists = self.meta.lists;
        let mut count = 0;
        let mut counted = |list, link| {
            count += 1;
            match count <= lists {
                true => each(list, link),
                false => Ok(()),
            }
        };
        match self.has_branches() {
            true => self.for_each_branch(&mut |branch, _| {
                self.for_each_child(branch, lists, &mut counted)
            })?,
            false => self.for_each_child(self.root(), lists, &mut counted)?,
        }
        if count != lists {
            let reason = format!("{count} lists are there, not {lists}");
            return Err(Error::corrupted(METAPAGE, reason));
        }
        Ok(())
    }

    /// Calls `each` for the lists whose centroids are the members of a list, if there are
    /// not more than `most`.
    fn for_each_child(
        &self,
        parent: List,
        most: u32,
        each: &mut dyn FnMut(List, Link) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut member = 0;
        let mut chain = Chain::new(parent.number, self.link(parent)?.head, None);
        while let Some((block, page)) = chain.next(self)? {
            let count = usize::from(Header::of(&page).count);
            let directory = layout.directory(&page).to_vec();
            drop(page);
            for column in 0..count {
                let list = self.child(parent, member, layout.place(&directory, column));
                let link = self.link(list)?;
                each(list, link)?;
                member += 1;
            }
            if member > most {
                let reason = format!("list {} has more than {most} members", parent.number);
                return Err(Error::corrupted(block, reason));
            }
        }
        Ok(())
    }

    /// The list whose centroid is a member of another, with its entry at a place.
    pub(super) fn child(&self, parent: List, member: u32, place: Place) -> List {
        let (number, branch) = match parent.number {
            ROOT => (child_of_root(member, self.has_branches()), None),
            branch => (child_of_branch(branch, member), Some(parent.place)),
        };
        List {
            number,
            place,
            branch,
        }
    }

    /// The layout of a list's pages.
    pub(super) fn layout_of(&self, list: u32) -> &Layout {
        self.codec.layout(level_of(list))
    }

    /// Adds members to a list: into the places of removed ones, then behind the
    /// others. Each record takes as many as share a code page.
    pub(super) fn append(&self, list: List, members: &[&[u8]]) -> Result<(), Error> {
        let mut rest = members;
        let mut before = None;
        while !rest.is_empty() {
            let link = match self.link(list)? {
                Link::EMPTY => self.first_page(list)?,
                link => link,
            };
            let (at, later) = self.fill(list, Kind::List, link.room, rest)?;
            if later.is_empty() && at != link.room {
                self.set_room(list, link, at)?;
            }
            // The last page was closed, as another one was before it that the list has now.
            if before == Some((link, later.len())) {
                let reason = format!("list {} is closed for ever", list.number);
                return Err(Error::corrupted(at, reason));
            }
            before = Some((link, later.len()));
            rest = later;
        }
        Ok(())
    }

    /// Adds members to the pages of a list that are of a kind, from one on, and pages of
    /// this kind behind them. Gives the last page that it came to, and the members that
    /// were not added because it is of another kind.
    pub(super) fn fill<'m, 'b>(
        &self,
        list: List,
        kind: Kind,
        start: Block,
        members: &'m [&'b [u8]],
    ) -> Result<(Block, &'m [&'b [u8]]), Error> {
        let layout = *self.codec.layout(list.level());
        let mut at = start;
        let mut rest = members;
        let mut steps: Block = 0;
        loop {
            let mut page = self.store.lock(at)?;
            let header = Header::of(&page);
            check_list_page(at, &header, list.number, &layout)?;
            let is_open = header.kind() == Some(kind);
            while is_open && !rest.is_empty() {
                let free = free_columns(&layout, &page, rest.len());
                if free.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(free.len());
                self.write_members(list, &layout, at, &mut page, &free, now)?;
                rest = later;
            }
            let next = match header.link {
                _ if rest.is_empty() => return Ok((at, rest)),
                NO_BLOCK if !is_open => return Ok((at, rest)),
                NO_BLOCK => self.next_page(kind, &mut page)?,
                next => next,
            };
            drop(page);
            steps += 1;
            if steps.is_power_of_two() && steps > self.store.block_count() {
                let reason = format!("list {} has no end", list.number);
                return Err(Error::corrupted(at, reason));
            }
            at = next;
        }
    }

    /// Writes members into columns of a locked list page that share a code page.
    fn write_members(
        &self,
        list: List,
        layout: &Layout,
        at: Block,
        page: &mut S::Write<'s>,
        columns: &[usize],
        members: &[&[u8]],
    ) -> Result<(), Error> {
        let number = columns[0] / layout.per_page;
        let place = layout.directory(page)[number];
        let generation = Header::of(page).generation;
        let write = |bodies: &mut [&mut Body], block: Block| {
            for (&column, bytes) in columns.iter().zip(members) {
                let member = Member::of(layout, bytes);
                layout.set_column(bodies[0], column, &member);
                let slot = column % layout.per_page;
                layout
                    .entry_mut(bodies[1], slot)
                    .copy_from_slice(member.entry);
            }
            let mut header = Header::of(bodies[0]);
            let last = columns.last().map_or(0, |&last| last as u16 + 1);
            header.count = header.count.max(last);
            header.write(bodies[0]);
            layout.directory_mut(bodies[0])[number] = block;
        };
        // Blocks count from 1, and a directory begins as zeros.
        if place != 0 {
            // A page that is locked must not be locked again: it is one of the list's own.
            if place == at {
                return Err(Error::not_of_list(place, list.number));
            }
            let mut codes = self.store.lock(place)?;
            let header = Header::of(&codes);
            check_code_page(place, &header, list.number, Some(generation))?;
            self.store.commit(&mut [page, &mut codes], &mut |bodies| {
                write(bodies, place);
            });
            return Ok(());
        }
        let mut new = self.allocate()?;
        let block = self.store.block_of(&new);
        self.store.commit(&mut [page, &mut new], &mut |bodies| {
            *bodies[1] = Body::ZERO;
            Header::new(Kind::Codes, list.number, generation, at).write(bodies[1]);
            write(bodies, block);
        });
        Ok(())
    }

    /// Gives a list its first page, unless it has one by now.
    fn first_page(&self, list: List) -> Result<Link, Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut own = self.lock_centroid(list)?;
        let link = Link::of(target(layout, &own, list.place));
        if link != Link::EMPTY {
            return Ok(link);
        }
        let mut new = self.allocate()?;
        let head = self.store.block_of(&new);
        let link = Link { head, room: head };
        let generation = self.store.stamp();
        self.store.commit(&mut [&mut own, &mut new], &mut |bodies| {
            set_target(layout, bodies[0], list.place, link);
            Header::write_list_page(Kind::List, list.number, generation, head, bodies[1]);
        });
        Ok(link)
    }

    /// Adds an empty page of a kind behind the last one of a list, which is locked.
    fn next_page(&self, kind: Kind, last: &mut S::Write<'s>) -> Result<Block, Error> {
        let mut new = self.allocate()?;
        let block = self.store.block_of(&new);
        self.store.commit(&mut [last, &mut new], &mut |bodies| {
            let mut header = Header::of(bodies[0]);
            header.link = block;
            header.write(bodies[0]);
            let head = ListHeader::of(bodies[0]).head;
            Header::write_list_page(kind, header.list, header.generation, head, bodies[1]);
        });
        Ok(block)
    }

    /// Locks a page that nobody has: one that can be used again, or a new one at the end of
    /// the file.
    pub(super) fn allocate(&self) -> Result<S::Write<'s>, Error> {
        while let Some(page) = self.store.recycled()? {
            match Header::of(&page).kind() {
                Some(Kind::New) => return Ok(page),
                Some(Kind::Closed) => {
                    if let Some(page) = self.free_if_unread(page)? {
                        return Ok(page);
                    }
                }
                _ => {}
            }
        }
        self.store.extend()
    }
}

/// The target in a centroid's entry.
fn target(layout: &Layout, body: &Body, place: Place) -> u64 {
    let entry = layout.entry(body, place.slot.into());
    entry.map_or(DEAD, |entry| entry.head.target)
}

/// Changes the link in a centroid's entry.
pub(super) fn set_target(layout: &Layout, body: &mut Body, place: Place, link: Link) {
    let entry = layout.entry_mut(body, place.slot.into());
    entry[..8].copy_from_slice(&link.target().to_ne_bytes());
}

/// The first columns of a list page without a member that share a code page, at
/// most `limit`.
fn free_columns(layout: &Layout, page: &Body, limit: usize) -> Vec<usize> {
    let alive = layout.alive(page);
    let is_free = |column: &usize| alive[column / BLOCK] >> (column % BLOCK) & 1 == 0;
    let full = alive.iter().take_while(|&&alive| alive == u32::MAX).count();
    let mut free = (full * BLOCK..layout.columns).filter(is_free).peekable();
    let page_of = |column: usize| column / layout.per_page;
    let Some(&first) = free.peek() else {
        return Vec::new();
    };
    free.take_while(|&column| page_of(column) == page_of(first))
        .take(limit)
        .collect()
}
