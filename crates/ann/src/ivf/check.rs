//! Proving that an index is valid, and statistics of it.

use memory::vec::reserve_in_set;
use rustc_hash::FxHashSet;

use super::chain::Chain;
use super::codec::{Centre, Codec, Level};
use super::index::{Index, List, METAPAGE, aligned, read_meta};
use super::layout::{Columns, DEAD, Header, Link, ListHeader, Member};
use crate::page::{Block, PageStore};
use crate::quantize::fastscan::{self, BLOCK};
use crate::simd::Terms;
use crate::{AnyVector, Error, HeapTid};

/// What memory is asked for.
const CHECK: &str = "the check of an index";

/// What a check counted and found.
#[derive(Debug, Default)]
pub struct Report {
    /// Lists of rows.
    pub lists: u64,
    /// Rows.
    pub rows: u64,
    /// Places that removed rows have left.
    pub free: u64,
    /// Pages that are in use.
    pub pages: u64,
    /// Contradictions, the first ones.
    pub problems: Vec<Error>,
}

/// At most so many contradictions are listed.
const MAX_PROBLEMS: usize = 100;

impl Report {
    fn add(&mut self, problem: Error) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// How the rows of an index are spread over its lists.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Statistics {
    /// Lists of rows.
    pub lists: u64,
    /// Lists without rows.
    pub empty_lists: u64,
    /// Rows in the longest list.
    pub longest_list: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that the index was built with.
    pub built_rows: u64,
    /// The mean squared distance of rows from the centroids of their lists; in
    /// an index of bits, the mean number of bits that differ.
    pub spread: f64,
    /// The same of the rows that the index was built with.
    pub built_spread: f64,
}

impl<S: PageStore, C: std::ops::Deref<Target = Codec>> Index<'_, S, C> {
    /// Checks all pages, and calls `visit` with each row, its list and its entry.
    pub fn check(&self, visit: &mut dyn FnMut(HeapTid, List, &[u8])) -> Result<Report, Error> {
        let mut check = Check {
            index: self,
            report: Report::default(),
            seen: FxHashSet::default(),
            tids: FxHashSet::default(),
        };
        check.seen.extend([METAPAGE, self.meta().apex]);
        check.seen.extend(self.meta().mean_blocks());
        let root = self.root();
        let link = self.link(root)?;
        check.list(root, link.head, &mut |_, _, _| {})?;
        self.for_each_branch(&mut |branch, link| check.list(branch, link.head, &mut |_, _, _| {}))?;
        self.for_each_list(&mut |list, link| {
            self.store.pause();
            check.report.lists += 1;
            check.list(list, link.head, visit)
        })?;
        check.report.pages = check.seen.len() as u64;
        Ok(check.report)
    }

    /// How rows are spread over lists.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let meta = read_meta(self.store)?;
        let mut statistics = Statistics {
            built_rows: meta.built_rows,
            built_spread: meta.built_spread / meta.built_rows.max(1) as f64,
            ..Statistics::default()
        };
        self.for_each_list(&mut |list, link| {
            let centre = self.centre(list)?;
            let mut rows = 0;
            self.walk(list, link, |_, directory, generation| {
                for (number, &codes) in directory.iter().enumerate() {
                    if codes == 0 {
                        continue;
                    }
                    self.store.pause();
                    let page = self.code_page(list.number, generation, codes)?;
                    for (_, entry) in page.rows(number) {
                        rows += 1;
                        let spread = self.codec.spread(entry, &centre);
                        if spread.is_finite() {
                            statistics.spread += spread;
                        }
                    }
                }
                Ok(())
            })?;
            statistics.lists += 1;
            statistics.rows += rows;
            statistics.empty_lists += u64::from(rows == 0);
            statistics.longest_list = statistics.longest_list.max(rows);
            Ok(())
        })?;
        statistics.spread /= statistics.rows.max(1) as f64;
        Ok(statistics)
    }

    /// The entry that a row of a list has; `None` if the index leaves it out.
    pub fn encode_row(
        &self,
        list: List,
        vector: AnyVector<'_>,
        tid: HeapTid,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(prepared) = self.codec.prepare(vector) else {
            return Ok(None);
        };
        let centre: Centre = self.centre(list)?;
        let layout = self.codec.layout(Level::Rows);
        let mut member = aligned(layout.member_len());
        let member: &mut [u8] = bytemuck::cast_slice_mut(&mut member);
        let vector = (&prepared.vector[..], prepared.is_exact);
        self.codec
            .encode(Level::Rows, vector, &centre, tid.0, member);
        Ok(Some(Member::of(layout, member).entry.to_vec()))
    }

    /// Calls `each` with the pages of a list, their directories and their generation.
    pub(super) fn walk(
        &self,
        list: List,
        link: Link,
        mut each: impl FnMut(Block, &[Block], Option<u32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let layout = self.codec.layout(list.level());
        let mut chain = Chain::new(list.number, link.head, None);
        while let Some((block, page)) = chain.next(self)? {
            let directory = layout.directory(&page).to_vec();
            drop(page);
            each(block, &directory, chain.generation())?;
        }
        Ok(())
    }
}

struct Check<'i, 's, S, C> {
    index: &'i Index<'s, S, C>,
    report: Report,
    seen: FxHashSet<Block>,
    tids: FxHashSet<u64>,
}

impl<S: PageStore, C: std::ops::Deref<Target = Codec>> Check<'_, '_, S, C> {
    fn problem(&mut self, block: Block, reason: String) {
        self.report.add(Error::corrupted(block, reason));
    }

    /// Checks the pages of a list.
    fn list(
        &mut self,
        list: List,
        head: Block,
        visit: &mut dyn FnMut(HeapTid, List, &[u8]),
    ) -> Result<(), Error> {
        let index = self.index;
        let layout = *index.codec.layout(list.level());
        let mut chain = Chain::new(list.number, head, None);
        while let Some((at, locked)) = chain.next(index)? {
            // A copy, so that no two pages are locked at a time.
            let page = Box::new(*locked);
            drop(locked);
            let of_list = ListHeader::of(&page);
            reserve_in_set(&mut self.seen, 2 + layout.code_pages, CHECK)?;
            if !self.seen.insert(at) || of_list.head != head {
                self.report.add(Error::not_of_list(at, list.number));
                return Ok(());
            }
            if of_list.unlinked != 0 {
                self.problem(at, "it counts as a page that no list has".into());
            }
            let header = Header::of(&page);
            let alive = layout.alive(&page).to_vec();
            let count = usize::from(header.count);
            let is_alive = |column: usize| alive[column / BLOCK] >> (column % BLOCK) & 1 != 0;
            if (layout.columns..layout.blocks * BLOCK).any(is_alive) {
                self.problem(at, "members are beyond the last column".into());
            }
            for (number, &codes) in layout.directory(&page).iter().enumerate() {
                let first = number * layout.per_page;
                let columns = first..first + layout.slots(number);
                if codes == 0 {
                    if columns.clone().any(is_alive) {
                        self.problem(at, "members are on no code page".into());
                    }
                    continue;
                }
                let code_page = Box::new(*self.index.store.read(codes)?);
                let own = Header::of(&code_page);
                let is_own = own.has_codes_of(list.number)
                    && (own.generation, own.link) == (header.generation, at);
                if !self.seen.insert(codes) || !is_own {
                    self.report.add(Error::not_of_list(codes, list.number));
                    continue;
                }
                for column in columns {
                    let slot = column % layout.per_page;
                    let at_entry = layout.entry_at(slot);
                    let bytes = &code_page.0[at_entry..at_entry + layout.entry_len];
                    let member = is_alive(column).then(|| layout.block(&page, column / BLOCK));
                    if is_alive(column) && column >= count {
                        self.problem(at, format!("member {column} is beyond the last one"));
                    }
                    self.member(list, (at, codes, column, count), member, bytes, visit)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a column and its entry.
    fn member(
        &mut self,
        list: List,
        (at, codes, column, count): (Block, Block, usize, usize),
        columns: Option<Columns<'_>>,
        bytes: &[u8],
        visit: &mut dyn FnMut(HeapTid, List, &[u8]),
    ) -> Result<(), Error> {
        let entry = super::layout::Entry::new(bytes);
        let is_row = list.level() == Level::Rows;
        let target = entry.head.target;
        let Some(columns) = columns else {
            if is_row && target != DEAD && target != 0 {
                self.problem(
                    codes,
                    format!("member {column} of page {at} counts as removed"),
                );
            }
            self.report.free += u64::from(is_row && column < count);
            return Ok(());
        };
        let head = entry.head;
        let (step, error, norm) = (head.step, head.error.get(), head.norm.get());
        let is_sound = step.is_finite() && !error.is_nan() && norm >= 0.0;
        let has_target = !is_row || target != DEAD && target != 0;
        if !is_sound || !has_target {
            self.problem(
                codes,
                format!("member {column} of page {at} has no sound entry"),
            );
            return Ok(());
        }
        let column_of = column % BLOCK;
        let rows = fastscan::unpack(columns.codes);
        let signs: Vec<u8> = rows.iter().map(|row| row[column_of]).collect();
        let Terms {
            add,
            rescale,
            deviation,
        } = columns.terms;
        let factors = [add, rescale, deviation];
        let is_number = factors.iter().all(|f| f[column_of].is_finite());
        if !is_number || !self.index.codec.signs_match(list.level(), entry, &signs) {
            self.problem(
                at,
                format!("the short code of member {column} is not that of its entry"),
            );
        }
        if is_row {
            self.report.rows += 1;
            reserve_in_set(&mut self.tids, 1, CHECK)?;
            if !self.tids.insert(target) {
                let tid = format!("({},{})", target >> 16, target & 0xffff);
                self.problem(codes, format!("row {tid} is there twice"));
            }
            visit(HeapTid(target), list, bytes);
        }
        Ok(())
    }
}
