//! An open index: its lists, and adding members to them.

use rustc_hash::FxHashSet;

use super::codec::{Base, Centre, Codec, Level, Query};
use super::layout::{
    APEX, DEAD, Entry, HEADER, Header, Kind, Layout, Link, Member, Meta, NO_BLOCK, Options, Place,
    ROOT,
};
use super::stream::Stream;
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
    /// The number of the list that its centroid is a member of.
    pub parent: u32,
    /// Its number.
    pub number: u32,
    /// Its centroid's entry.
    pub place: Place,
}

impl List {
    /// What it has members of.
    pub fn level(&self) -> Level {
        match self.number {
            APEX | ROOT => Level::Centroids,
            _ => Level::Rows,
        }
    }
}

/// Reads the metapage of an index.
pub fn read_meta<S: PageStore>(store: &S) -> Result<Meta, Error> {
    Meta::parse(&*store.read(METAPAGE)?)
}

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
    centroids: &[f32],
) -> Result<(), Error> {
    let layout = codec.layout(Level::Centroids);
    let mut member = aligned(layout.member_len());
    let member: &mut [u8] = bytemuck::cast_slice_mut(&mut member);
    let centroids = centroids.chunks_exact(codec.padded());

    // The centroid of all lists, and its entry.
    let mut mean = vec![0.0_f64; codec.padded()];
    for centroid in centroids.clone() {
        for (mean, &c) in mean.iter_mut().zip(centroid) {
            *mean += f64::from(c) / centroids.len() as f64;
        }
    }
    let mean: Vec<f32> = mean.into_iter().map(|c| c as f32).collect();
    let mut centre = codec.origin();
    codec.encode(
        Level::Centroids,
        (&mean, true),
        &centre,
        Link::EMPTY.target(),
        member,
    );
    let apex = Member::of(layout, member).entry.to_vec();
    codec.descend(Entry::new(&apex), &mut centre);

    // Of lists with the same code, all rows would be in the first one.
    let mut members = Vec::new();
    let mut known = FxHashSet::default();
    for centroid in centroids {
        store.pause();
        codec.encode(
            Level::Centroids,
            (centroid, true),
            &centre,
            Link::EMPTY.target(),
            member,
        );
        if known.insert(member.to_vec()) {
            members.push(Code::copied(member));
        }
    }

    let mut meta = Meta::new(options, members.len() as u32);
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
        Header::new(Kind::Codes, APEX, NO_BLOCK, NO_BLOCK).write(body);
        layout.entry_mut(body, 0).copy_from_slice(&apex);
    })?;
    for part in mean {
        add(&|body| {
            Header::new(Kind::Mean, APEX, NO_BLOCK, NO_BLOCK).write(body);
            let bytes: &[u8] = bytemuck::cast_slice(part);
            body.0[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
        })?;
    }
    let index = Index::open(store, codec, meta);
    let members: Vec<&[u8]> = members.iter().map(Code::bytes).collect();
    index.append(index.root(), &members)
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
            parent: APEX,
            number: ROOT,
            place: Place {
                block: self.meta.apex,
                slot: 0,
            },
        }
    }

    /// A code page of a list; `None` if the page belongs to another list by now.
    pub(super) fn code_page(
        &self,
        level: Level,
        list: u32,
        block: Block,
    ) -> Result<Option<CodePage<'_, S::Read<'_>>>, Error> {
        let page = self.store.read(block)?;
        Ok(Header::of(&page).has_codes_of(list).then(|| CodePage {
            page,
            level,
            layout: self.codec.layout(level),
        }))
    }

    /// Looks at a member's entry; `None` if the page belongs to another list by
    /// now, or the member was removed.
    pub(super) fn with_entry<R>(
        &self,
        level: Level,
        list: u32,
        place: Place,
        look: impl FnOnce(Entry<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        let page = self.code_page(level, list, place.block)?;
        Ok(page.and_then(|page| page.entry(place.slot).map(look)))
    }

    /// Where a list's members are.
    pub(super) fn link(&self, list: List) -> Result<Link, Error> {
        let link = self.with_entry(Level::Centroids, list.parent, list.place, |entry| {
            Link::of(entry.head.target)
        })?;
        link.ok_or_else(|| Error::corrupted(list.place.block, "a list has lost its centroid"))
    }

    /// Changes where a list's members are.
    pub(super) fn set_link(&self, list: List, change: impl Fn(&mut Link)) -> Result<(), Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut page = self.store.lock(list.place.block)?;
        self.store.commit(&mut [&mut page], &mut |bodies| {
            set_target(layout, bodies[0], list.place, &change);
        });
        Ok(())
    }

    /// What the query has in common with the list of lists, and its link.
    pub(super) fn enter(&self, query: &Query) -> Result<(Base, Link), Error> {
        let root = self.root();
        let origin = self.codec.base_of_origin(query);
        let entered = self.with_entry(Level::Centroids, APEX, root.place, |entry| {
            let base = self.codec.base(query, origin, entry);
            (base, Link::of(entry.head.target))
        })?;
        entered.ok_or_else(|| Error::corrupted(root.place.block, "the list of lists is lost"))
    }

    /// The list whose centroid is nearest to a query, and that centroid.
    pub(super) fn nearest_list(&self, query: &Query) -> Result<(List, Centre), Error> {
        let mut stream = Stream::by_distance(&self.codec);
        let (base, link) = self.enter(query)?;
        stream.open(ROOT, link.head, base);
        let Some(hit) = stream.next(self, query)? else {
            return Err(Error::corrupted(METAPAGE, "the index has no lists"));
        };
        let list = List {
            parent: ROOT,
            number: hit.member,
            place: hit.place,
        };
        let centre = self.centre(list)?;
        Ok((list, centre))
    }

    /// The centroid of a list, as its members are relative to it.
    pub(super) fn centre(&self, list: List) -> Result<Centre, Error> {
        let mut centre = self.codec.origin();
        let root = self.root();
        for list in [root, list] {
            let found = self.with_entry(Level::Centroids, list.parent, list.place, |entry| {
                self.codec.descend(entry, &mut centre);
            })?;
            if found.is_none() {
                let reason = "a list has lost its centroid";
                return Err(Error::corrupted(list.place.block, reason));
            }
        }
        Ok(centre)
    }

    /// Calls `each` for all lists of rows.
    pub(super) fn for_each_list(
        &self,
        each: &mut dyn FnMut(List, Link) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let root = self.root();
        let layout = self.codec.layout(Level::Centroids);
        let mut number = 0;
        let mut at = self.link(root)?.head;
        while at != NO_BLOCK && number < self.meta.lists {
            let (count, next, directory) = {
                let page = self.list_page(at, ROOT)?;
                let header = Header::of(&page);
                let directory = layout.directory(&page).to_vec();
                (usize::from(header.count), header.next, directory)
            };
            for column in 0..count.min(layout.columns) {
                let list = List {
                    parent: ROOT,
                    number,
                    place: layout.place(&directory, column),
                };
                let link = self.link(list)?;
                each(list, link)?;
                number += 1;
            }
            at = next;
        }
        if number != self.meta.lists {
            let reason = format!("{number} lists are there, not {}", self.meta.lists);
            return Err(Error::corrupted(METAPAGE, reason));
        }
        Ok(())
    }

    /// Reads a list page of a list.
    pub(super) fn list_page(&self, block: Block, list: u32) -> Result<S::Read<'_>, Error> {
        let page = self.store.read(block)?;
        check_list_page(block, &Header::of(&page), list, self.layout_of(list))?;
        Ok(page)
    }

    /// The layout of a list's pages.
    pub(super) fn layout_of(&self, list: u32) -> &Layout {
        match list {
            APEX | ROOT => self.codec.layout(Level::Centroids),
            _ => self.codec.layout(Level::Rows),
        }
    }

    /// Adds members to a list: into the places of removed ones, then behind the
    /// others. Each record takes as many as share a code page.
    pub(super) fn append(&self, list: List, members: &[&[u8]]) -> Result<(), Error> {
        let layout = *self.codec.layout(list.level());
        let link = self.link(list)?;
        let start = match link.room {
            NO_BLOCK => self.first_page(list)?,
            room => room,
        };
        let mut at = start;
        let mut rest = members;
        let mut steps = 0;
        while !rest.is_empty() {
            let mut page = self.store.lock(at)?;
            let header = Header::of(&page);
            check_list_page(at, &header, list.number, &layout)?;
            let free = free_columns(&layout, &page, rest.len());
            if free.is_empty() {
                let next = match header.next {
                    NO_BLOCK => self.next_page(list, &mut page)?,
                    next => next,
                };
                drop(page);
                steps += 1;
                if steps > self.store.block_count() {
                    let reason = format!("list {} has no end", list.number);
                    return Err(Error::corrupted(at, reason));
                }
                at = next;
                continue;
            }
            let (now, later) = rest.split_at(free.len());
            self.write_members(list, &layout, at, &mut page, &free, now)?;
            rest = later;
        }
        if at != start {
            self.set_link(list, |link| link.room = at)?;
        }
        Ok(())
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
                check_code_page(place, &Header::of(page), list.number)?;
            }
            let mut codes = self.store.lock(place)?;
            check_code_page(place, &Header::of(&codes), list.number)?;
            self.store.commit(&mut [page, &mut codes], &mut |bodies| {
                write(bodies, place);
            });
            return Ok(());
        }
        let mut new = self.allocate(at)?;
        let block = self.store.block_of(&new);
        self.store.commit(&mut [page, &mut new], &mut |bodies| {
            Header::new(Kind::Codes, list.number, NO_BLOCK, at).write(bodies[1]);
            write(bodies, block);
        });
        Ok(())
    }

    /// Gives a list its first page, unless it has one by now.
    fn first_page(&self, list: List) -> Result<Block, Error> {
        let layout = self.codec.layout(Level::Centroids);
        let mut own = self.store.lock(list.place.block)?;
        let entry = layout.entry(&own, list.place.slot.into());
        let link = entry.map_or(Link::EMPTY, |entry| Link::of(entry.head.target));
        if link.room != NO_BLOCK {
            return Ok(link.room);
        }
        let mut new = self.allocate(list.place.block)?;
        let block = self.store.block_of(&new);
        self.store.commit(&mut [&mut own, &mut new], &mut |bodies| {
            set_target(layout, bodies[0], list.place, &|link| {
                *link = Link {
                    head: block,
                    room: block,
                };
            });
            Header::new(Kind::List, list.number, NO_BLOCK, NO_BLOCK).write(bodies[1]);
        });
        Ok(block)
    }

    /// Adds an empty page behind the last one of a list, which is locked.
    fn next_page(&self, list: List, last: &mut S::Write<'s>) -> Result<Block, Error> {
        let mut new = self.allocate(self.store.block_of(last))?;
        let block = self.store.block_of(&new);
        self.store.commit(&mut [last, &mut new], &mut |bodies| {
            let mut header = Header::of(bodies[0]);
            header.next = block;
            header.write(bodies[0]);
            Header::new(Kind::List, list.number, NO_BLOCK, NO_BLOCK).write(bodies[1]);
        });
        Ok(block)
    }

    /// Locks a page that nobody has yet, at the end of the file. The caller has
    /// locked the page `held`; pages are locked in ascending order here.
    fn allocate(&self, held: Block) -> Result<S::Write<'s>, Error> {
        // A crash may have left the last page as it was added.
        let last = self.store.block_count().saturating_sub(1);
        if last > held {
            let page = self.store.lock(last)?;
            if Header::of(&page).kind() == Some(Kind::New) {
                return Ok(page);
            }
        }
        self.store.extend()
    }
}

/// A page with entries of a list's members.
pub(super) struct CodePage<'a, P> {
    page: P,
    level: Level,
    layout: &'a Layout,
}

impl<P: std::ops::Deref<Target = Body>> CodePage<'_, P> {
    /// A member's entry; `None` if the member was removed.
    pub(super) fn entry(&self, slot: u16) -> Option<Entry<'_>> {
        let entry = self.layout.entry(&self.page, slot.into());
        // An empty list of rows has the target of a removed member.
        entry.filter(|entry| self.level == Level::Centroids || entry.head.target != DEAD)
    }
}

/// Changes the link in a centroid's entry.
fn set_target(layout: &Layout, body: &mut Body, place: Place, change: &dyn Fn(&mut Link)) {
    let entry = layout.entry_mut(body, place.slot.into());
    let target: &mut [u8; 8] = entry.first_chunk_mut().expect("an entry begins with it");
    let mut link = Link::of(u64::from_ne_bytes(*target));
    change(&mut link);
    *target = link.target().to_ne_bytes();
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

/// An error unless a page is one of a list.
fn check_list_page(block: Block, header: &Header, list: u32, layout: &Layout) -> Result<(), Error> {
    let is_it = header.kind() == Some(Kind::List)
        && header.list == list
        && usize::from(header.count) <= layout.columns;
    if is_it {
        return Ok(());
    }
    Err(Error::corrupted(
        block,
        format!("it is not a page of list {list}"),
    ))
}

/// An error unless a page has codes of a list.
pub(super) fn check_code_page(block: Block, header: &Header, list: u32) -> Result<(), Error> {
    if header.has_codes_of(list) {
        return Ok(());
    }
    let reason = format!("it is not a code page of list {list}");
    Err(Error::corrupted(block, reason))
}
