//! The pages of a list, one after the other.

use super::codec::{Codec, Level};
use super::index::Index;
use super::layout::{DEAD, Entry, Header, Kind, Layout, ListHeader, NO_BLOCK};
use crate::Error;
use crate::page::{Block, Body, PageStore};

/// A walk over the list pages of a list. It stays on the pages that the list had when it
/// began, even if the list is written anew meanwhile.
pub struct Chain {
    list: u32,
    next: Block,
    /// That of the first page, once it was read.
    generation: Option<u32>,
    pages: Block,
}

impl Chain {
    /// The pages of a list from its first one on; or from any one on, if the generation of
    /// its pages is known.
    pub fn new(list: u32, first: Block, generation: Option<u32>) -> Self {
        Chain {
            list,
            next: first,
            generation,
            pages: 0,
        }
    }

    /// The generation of the pages; `None` before the first one was read.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// The next page; `None` behind the last one.
    pub fn next<'i, S: PageStore, C: std::ops::Deref<Target = Codec>>(
        &mut self,
        index: &'i Index<'_, S, C>,
    ) -> Result<Option<(Block, S::Read<'i>)>, Error> {
        let block = self.next;
        if block == NO_BLOCK {
            return Ok(None);
        }
        let page = index.store.read(block)?;
        let header = Header::of(&page);
        check_list_page(block, &header, self.list, index.layout_of(self.list))?;
        let is_it = match self.generation {
            Some(generation) => generation == header.generation,
            // If the list begins elsewhere now, it may have taken the page again.
            None => ListHeader::of(&page).head == block,
        };
        if !is_it {
            return Err(Error::not_of_list(block, self.list));
        }
        self.generation = Some(header.generation);
        self.pages += 1;
        self.next = header.link;
        // Asking how many pages there are takes some time.
        if self.pages.is_power_of_two() && self.pages > index.store.block_count() {
            let reason = format!("list {} has no end", self.list);
            return Err(Error::corrupted(block, reason));
        }
        Ok(Some((block, page)))
    }
}

/// A page with entries of a list's members.
pub struct CodePage<'a, P> {
    page: P,
    level: Level,
    layout: &'a Layout,
}

impl<'a, P: std::ops::Deref<Target = Body>> CodePage<'a, P> {
    /// The page of a list with this layout.
    pub fn new(page: P, level: Level, layout: &'a Layout) -> Self {
        CodePage {
            page,
            level,
            layout,
        }
    }

    /// The members' entries, if it is the code page of this number of its list page, each
    /// with its slot.
    pub fn rows(&self, number: usize) -> impl Iterator<Item = (usize, Entry<'_>)> {
        self.layout.rows(&self.page, number)
    }

    /// A member's entry; `None` if the member was removed.
    pub fn entry(&self, slot: u16) -> Option<Entry<'_>> {
        let entry = self.layout.entry(&self.page, slot.into());
        // An empty list of rows has the target of a removed member.
        entry.filter(|entry| self.level == Level::Centroids || entry.head.target != DEAD)
    }
}

/// An error unless a page is a list page of a list.
pub fn check_list_page(
    block: Block,
    header: &Header,
    list: u32,
    layout: &Layout,
) -> Result<(), Error> {
    let is_it = matches!(header.kind(), Some(Kind::List | Kind::Closed))
        && header.list == list
        && usize::from(header.count) <= layout.columns;
    match is_it {
        true => Ok(()),
        false => Err(Error::not_of_list(block, list)),
    }
}

/// An error unless a page has codes of a list; of these pages of it, if that is known.
pub fn check_code_page(
    block: Block,
    header: &Header,
    list: u32,
    generation: Option<u32>,
) -> Result<(), Error> {
    let is_it = header.has_codes_of(list) && generation.is_none_or(|g| g == header.generation);
    match is_it {
        true => Ok(()),
        false => Err(Error::not_of_list(block, list)),
    }
}
