//! Pages and codes, byte by byte. `README.md` has the tables of offsets.

use bytemuck::{Pod, Zeroable};

use super::codec::{Level, Values};
use crate::page::{self, BODY_LEN, Block, Body};
use crate::quantize::extended::Bits;
use crate::quantize::fastscan::{BLOCK, block_len, set_code};
use crate::quantize::rabitq::Factors;
use crate::simd::Terms;
use crate::{Error, HeapTid, Metric};

/// No block.
pub const NO_BLOCK: Block = Block::MAX;

/// The list of lists: its members are the centroids of all other lists, or of branches if
/// there are many.
pub const ROOT: u32 = u32::MAX - 1;

/// The list whose one member is the centroid of [`ROOT`].
pub const APEX: u32 = u32::MAX - 2;

/// The first branch: a list whose members are the centroids of lists of rows.
const BRANCHES: u32 = 1 << 31;

/// Lists of rows that a branch has, at most.
const OF_BRANCH: u32 = 1 << 16;

/// The number of a member of the root, which is a branch if there are branches.
pub fn child_of_root(member: u32, has_branches: bool) -> u32 {
    match has_branches {
        true => BRANCHES | member,
        false => member,
    }
}

/// The number of the list of rows that is a member of a branch.
pub fn child_of_branch(branch: u32, member: u32) -> u32 {
    (branch % (BRANCHES / OF_BRANCH)) * OF_BRANCH + member % OF_BRANCH
}

/// The branch that a list of rows is a member of, if there are branches.
pub fn branch_of(list: u32) -> u32 {
    BRANCHES | (list / OF_BRANCH)
}

/// What a list has members of.
pub fn level_of(list: u32) -> Level {
    match list < BRANCHES {
        true => Level::Rows,
        false => Level::Centroids,
    }
}

/// An index has at most so many lists, as in pgvector.
pub const MAX_LISTS: u32 = 32_768;

/// Lists that are good for an index of so many rows. On 200,000 sentences in 384
/// dimensions, twice as many lists gave as many queries a second at the same
/// recall, and took longer to build; four times as many gave fewer.
pub fn default_lists(rows: f64) -> u32 {
    let few = rows / 64.0;
    (few.min(rows.sqrt()) as u32).clamp(1, MAX_LISTS)
}

/// Lists that a scan of an index of so many takes, if nobody says how many: for
/// the same sentences, those that nineteen of twenty nearest rows are in.
pub fn default_probes(lists: u32) -> u32 {
    let probes = 2.75 * f64::from(lists).sqrt();
    (probes.ceil() as u32).min(lists)
}

const MAGIC: u32 = 0x4956_5349; // "ISVI"
/// The page format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 5;

/// What the creator of an index chooses, beside its centroids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Components of a vector.
    pub dimension: u32,
    /// What is near.
    pub metric: Metric,
    /// Bits a dimension of a row's code; strings of bits are stored whole.
    pub bits: Bits,
    /// Seed of the rotation.
    pub seed: u64,
}

/// The metapage, as stored.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Meta {
    magic: u32,
    version: u32,
    dimension: u32,
    metric: u16,
    bits: u16,
    /// Lists of rows.
    pub lists: u32,
    /// Members of [`ROOT`], if these are branches; else 0.
    pub branches: u32,
    /// The code page of [`APEX`].
    pub apex: Block,
    page_len: u32,
    seed: u64,
    /// Rows that the index was built with.
    pub built_rows: u64,
    /// The sum of their squared distances from their lists' centroids.
    pub built_spread: f64,
    /// Pages with the mean, which follow that of the apex.
    pub mean_pages: u32,
    /// See [`page::seal`].
    checksum: u32,
}

const _: () = assert!(size_of::<Meta>() == 64);

impl Meta {
    /// The metapage of an index of so many lists in so many branches.
    pub fn new(options: &Options, lists: u32, branches: u32) -> Self {
        Meta {
            magic: MAGIC,
            version: FORMAT_VERSION,
            dimension: options.dimension,
            metric: options.metric.tag() as u16,
            bits: options.bits.count() as u16,
            lists,
            branches,
            apex: NO_BLOCK,
            page_len: BODY_LEN as u32,
            seed: options.seed,
            built_rows: 0,
            built_spread: 0.0,
            mean_pages: 0,
            checksum: 0,
        }
    }

    /// The blocks with the mean.
    pub fn mean_blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let first = self.apex.saturating_add(1);
        first..first.saturating_add(self.mean_pages)
    }

    /// Reads the metapage.
    pub fn parse(body: &Body) -> Result<Self, Error> {
        let meta: Meta = *bytemuck::from_bytes(&body.0[..size_of::<Meta>()]);
        if meta.magic != MAGIC {
            return Err(Error::corrupted(
                0,
                "the metapage is not one of an ivf index",
            ));
        }
        if meta.version != FORMAT_VERSION {
            return Err(Error::Version {
                found: meta.version,
                supported: FORMAT_VERSION,
            });
        }
        if !page::is_sealed(body) {
            return Err(Error::corrupted(0, "the metapage's checksum is wrong"));
        }
        let can_be = (1..=MAX_LISTS).contains(&meta.lists) && meta.branches <= meta.lists;
        if meta.page_len != BODY_LEN as u32 || !can_be {
            let Meta {
                lists,
                branches,
                page_len,
                ..
            } = meta;
            let reason =
                format!("{lists} lists in {branches} branches on pages of {page_len} bytes");
            return Err(Error::corrupted(0, reason));
        }
        Ok(meta)
    }

    /// Writes the metapage.
    pub fn write(&self, body: &mut Body) {
        body.0[..size_of::<Meta>()].copy_from_slice(bytemuck::bytes_of(self));
        page::seal(body);
    }

    /// What the index was created with.
    pub fn options(&self) -> Result<Options, Error> {
        let metric = Metric::from_tag(self.metric.into());
        let bits = Bits::from_count(self.bits.into());
        match (metric, bits) {
            (Some(metric), Some(bits)) if (1..=64_000).contains(&self.dimension) => Ok(Options {
                dimension: self.dimension,
                metric,
                bits,
                seed: self.seed,
            }),
            _ => {
                let reason = format!(
                    "the metapage says dimension {}, metric {} and {} bits",
                    self.dimension, self.metric, self.bits
                );
                Err(Error::corrupted(0, reason))
            }
        }
    }
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a crash came between extending the file and using it, or no list needs the
    /// page any more.
    New,
    /// Members of a list, for comparing many at once.
    List,
    /// The same, to which nothing is added: a page that a list had before it was written
    /// anew, or is to have afterwards.
    Closed,
    /// Codes of members.
    Codes,
    /// A part of the mean.
    Mean,
}

impl Kind {
    const TAGS: [(Kind, u16); 5] = [
        (Kind::New, 0),
        (Kind::List, 0x4c49),
        (Kind::Closed, 0x4c43),
        (Kind::Codes, 0x434f),
        (Kind::Mean, 0x4d45),
    ];

    fn tag(self) -> u16 {
        Self::TAGS
            .into_iter()
            .find(|t| t.0 == self)
            .map_or(0, |t| t.1)
    }
}

/// How a page begins.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    kind: u16,
    /// Of a list page: members that were ever added, dead ones included.
    pub count: u16,
    /// The list that the page belongs to.
    pub list: u32,
    /// A number that all pages of a list have in common, until the list is written anew: a
    /// stamp of the store. If a page is used again, it has another one.
    pub generation: u32,
    /// Of a list page, the next one; of a code page, the list page whose members' codes it
    /// has.
    pub link: Block,
}

/// Bytes of [`Header`].
pub const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 16);

/// What follows the header of a list page.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ListHeader {
    /// The first page of the list.
    pub head: Block,
    /// A stamp of when the page was found to belong to no list any more, or 0.
    pub unlinked: u32,
}

/// Bytes of [`Header`] and [`ListHeader`].
const LIST_HEADER: usize = HEADER + size_of::<ListHeader>();

impl ListHeader {
    /// Reads it.
    pub fn of(body: &Body) -> Self {
        *bytemuck::from_bytes(&body.0[HEADER..LIST_HEADER])
    }

    /// Writes it.
    pub fn write(&self, body: &mut Body) {
        body.0[HEADER..LIST_HEADER].copy_from_slice(bytemuck::bytes_of(self));
    }
}

impl Header {
    /// The header of a new page.
    pub fn new(kind: Kind, list: u32, generation: u32, link: Block) -> Self {
        Header {
            kind: kind.tag(),
            count: 0,
            list,
            generation,
            link,
        }
    }

    /// Writes the headers of an empty list page, the last one of its list so far, which
    /// begins with the page `head`.
    pub fn write_list_page(kind: Kind, list: u32, generation: u32, head: Block, body: &mut Body) {
        *body = Body::ZERO;
        Header::new(kind, list, generation, NO_BLOCK).write(body);
        ListHeader { head, unlinked: 0 }.write(body);
    }

    /// The same of another kind.
    pub fn with_kind(self, kind: Kind) -> Self {
        Header {
            kind: kind.tag(),
            ..self
        }
    }

    /// Reads a header.
    pub fn of(body: &Body) -> Self {
        *bytemuck::from_bytes(&body.0[..HEADER])
    }

    /// Writes it.
    pub fn write(&self, body: &mut Body) {
        body.0[..HEADER].copy_from_slice(bytemuck::bytes_of(self));
    }

    /// What the page holds; `None` if that is not known.
    pub fn kind(&self) -> Option<Kind> {
        let known = Kind::TAGS.into_iter().find(|tag| tag.1 == self.kind);
        known.map(|tag| tag.0)
    }

    /// Whether it is a code page of a list.
    pub fn has_codes_of(&self, list: u32) -> bool {
        self.kind() == Some(Kind::Codes) && self.list == list
    }
}

/// A number that is not negative, rounded up to a bfloat16.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct RoundedUp(u16);

impl RoundedUp {
    /// At least a number, and at most 1/128 more of it (of normal numbers).
    pub fn of(number: f32) -> Self {
        let bits = if number.is_nan() { f32::NAN } else { number }.to_bits();
        RoundedUp(((bits + 0xffff) >> 16) as u16)
    }

    /// The rounded number.
    pub fn get(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// How a member begins in a code page; its values follow.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, packed(4))]
pub struct EntryHead {
    /// A row's address, or of a centroid its list's [`Link`]; [`DEAD`] for none.
    pub target: u64,
    /// What a value counts.
    pub step: f32,
    /// ‖r̂‖² + 2⟨c, r̂⟩.
    pub term: f32,
    /// At least ‖o − ô‖.
    pub error: RoundedUp,
    /// At least ‖ô‖.
    pub norm: RoundedUp,
}

/// The target of a member that was removed.
pub const DEAD: u64 = u64::MAX;

/// Bytes of [`EntryHead`].
pub const ENTRY_HEAD: usize = size_of::<EntryHead>();
const _: () = assert!(ENTRY_HEAD == 20);

/// A member in a code page.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// How it begins.
    pub head: &'a EntryHead,
    /// Its packed values.
    pub values: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a member.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        let (head, values) = bytes.split_at(ENTRY_HEAD);
        Entry {
            head: bytemuck::from_bytes(head),
            values,
        }
    }

    /// Copies it.
    pub fn write(&self, out: &mut [u8]) {
        let (head, values) = out.split_at_mut(ENTRY_HEAD);
        head.copy_from_slice(bytemuck::bytes_of(self.head));
        values.copy_from_slice(self.values);
    }

    /// The row's address.
    pub fn tid(&self) -> HeapTid {
        HeapTid(self.head.target)
    }
}

/// Where the members of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its first page.
    pub head: Block,
    /// The first page that may have room: a hint.
    pub room: Block,
}

impl Link {
    /// The link of a list without pages.
    pub const EMPTY: Link = Link {
        head: NO_BLOCK,
        room: NO_BLOCK,
    };

    /// The link that a member's target stands for.
    pub fn of(target: u64) -> Self {
        Link {
            head: (target >> 32) as Block,
            room: target as Block,
        }
    }

    /// The target that stands for the link. It is not [`DEAD`] unless empty,
    /// which no list of lists takes for a removed member.
    pub fn target(self) -> u64 {
        u64::from(self.head) << 32 | u64::from(self.room)
    }
}

/// Where a member's entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The code page.
    pub block: Block,
    /// The member's number in it.
    pub slot: u16,
}

/// Where things are on list pages and code pages.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Dimensions that 1-bit codes have a bit for.
    pub coded: usize,
    /// Bytes of a member in a code page.
    pub entry_len: usize,
    /// Members of a code page.
    pub per_page: usize,
    /// Blocks of a list page.
    pub blocks: usize,
    /// Code pages of a list page.
    pub code_pages: usize,
    /// Members that a list page has room for.
    pub columns: usize,
    alive_at: usize,
    blocks_at: usize,
    block_len: usize,
}

/// Terms, factors and deviations of a block.
const FACTORS: usize = 3 * BLOCK * size_of::<f32>();
/// The least number of dimensions that 1-bit codes are made of.
const STEP: usize = 64;

impl Layout {
    /// The layout for members of so many rotated dimensions; `None` if a page
    /// has no room for one.
    ///
    /// The 1-bit codes leave out the last dimensions where a block has no room
    /// for them, or where a page has room for one block more without the last
    /// eighth.
    pub fn new(values: Values, padded: usize) -> Option<Self> {
        let entry_len = ENTRY_HEAD + values.len(padded);
        let per_page = (BODY_LEN - HEADER) / entry_len;
        if per_page == 0 {
            return None;
        }
        let fit = |coded: usize| {
            let block_len = FACTORS + block_len(coded);
            let most = (BODY_LEN - LIST_HEADER) / (block_len + size_of::<u32>());
            (1..=most).rev().find_map(|blocks| {
                let code_pages = code_pages(blocks * BLOCK, per_page);
                let alive_at = LIST_HEADER + code_pages * size_of::<Block>();
                let blocks_at = (alive_at + blocks * size_of::<u32>()).next_multiple_of(8);
                (blocks_at + blocks * block_len <= BODY_LEN).then_some(Layout {
                    coded,
                    entry_len,
                    per_page,
                    blocks,
                    code_pages,
                    columns: (blocks * BLOCK).min(code_pages * per_page),
                    alive_at,
                    blocks_at,
                    block_len,
                })
            })
        };
        let steps = padded / STEP;
        let few = (steps - steps / 8..=steps).rev();
        let choices = few.filter_map(|steps| fit(steps * STEP));
        // The first of those with the most blocks.
        let best = choices.reduce(|best, next| match next.blocks > best.blocks {
            true => next,
            false => best,
        });
        best.or_else(|| (1..steps).rev().find_map(|steps| fit(steps * STEP)))
    }

    /// Where a member's entry begins in a code page.
    pub fn entry_at(&self, slot: usize) -> usize {
        HEADER + slot * self.entry_len
    }

    /// Members that a code page has, of a list page's first (0), second and so on.
    pub fn slots(&self, code_page: usize) -> usize {
        let before = code_page * self.per_page;
        self.columns.saturating_sub(before).min(self.per_page)
    }

    /// The rows on a list page's code page of this number, each with its slot.
    pub fn rows<'a>(
        &self,
        body: &'a Body,
        code_page: usize,
    ) -> impl Iterator<Item = (usize, Entry<'a>)> {
        let entries = (0..self.slots(code_page))
            .filter_map(move |slot| self.entry(body, slot).map(|entry| (slot, entry)));
        // Zeros are an entry that was never written.
        entries.filter(|(_, entry)| entry.head.target != DEAD && entry.head.target != 0)
    }

    /// The bytes of a member in a code page.
    #[inline]
    pub fn entry<'a>(&self, body: &'a Body, slot: usize) -> Option<Entry<'a>> {
        if slot >= self.per_page {
            return None;
        }
        let at = self.entry_at(slot);
        Some(Entry::new(&body.0[at..at + self.entry_len]))
    }

    /// The same, to be written.
    pub fn entry_mut<'a>(&self, body: &'a mut Body, slot: usize) -> &'a mut [u8] {
        let at = self.entry_at(slot);
        &mut body.0[at..at + self.entry_len]
    }

    /// The code pages of a list page.
    pub fn directory<'a>(&self, body: &'a Body) -> &'a [Block] {
        bytemuck::cast_slice(&body.0[LIST_HEADER..self.alive_at])
    }

    /// The code pages, to be written.
    pub fn directory_mut<'a>(&self, body: &'a mut Body) -> &'a mut [Block] {
        bytemuck::cast_slice_mut(&mut body.0[LIST_HEADER..self.alive_at])
    }

    /// For each block, which of its columns have a member.
    pub fn alive<'a>(&self, body: &'a Body) -> &'a [u32] {
        let end = self.alive_at + self.blocks * size_of::<u32>();
        bytemuck::cast_slice(&body.0[self.alive_at..end])
    }

    /// The same, to be written.
    pub fn alive_mut<'a>(&self, body: &'a mut Body) -> &'a mut [u32] {
        let end = self.alive_at + self.blocks * size_of::<u32>();
        bytemuck::cast_slice_mut(&mut body.0[self.alive_at..end])
    }

    /// A block of members.
    pub fn block<'a>(&self, body: &'a Body, block: usize) -> Columns<'a> {
        let at = self.blocks_at + block * self.block_len;
        let (factors, codes) = body.0[at..at + self.block_len].split_at(FACTORS);
        let factors: &[[f32; BLOCK]] = bytemuck::cast_slice(factors);
        Columns {
            terms: Terms {
                add: &factors[0],
                rescale: &factors[1],
                deviation: &factors[2],
            },
            codes,
        }
    }

    /// Writes a member into a column of a list page.
    pub fn set_column(&self, body: &mut Body, column: usize, member: &Member<'_>) {
        let (block, column) = (column / BLOCK, column % BLOCK);
        let at = self.blocks_at + block * self.block_len;
        let (factors, codes) = body.0[at..at + self.block_len].split_at_mut(FACTORS);
        let factors: &mut [f32] = bytemuck::cast_slice_mut(factors);
        factors[column] = member.factors.add;
        factors[BLOCK + column] = member.factors.rescale;
        factors[2 * BLOCK + column] = member.deviation;
        set_code(codes, column, member.signs);
        self.alive_mut(body)[block] |= 1 << column;
    }

    /// Whether a list page has room for another member.
    pub fn has_room(&self, body: &Body) -> bool {
        let members: u32 = self.alive(body).iter().map(|bits| bits.count_ones()).sum();
        (members as usize) < self.columns
    }

    /// Where a column's entry is, given the directory; on the metapage, which is no
    /// code page, if the column cannot have one.
    pub fn place(&self, directory: &[Block], column: usize) -> Place {
        Place {
            block: directory.get(column / self.per_page).copied().unwrap_or(0),
            slot: (column % self.per_page) as u16,
        }
    }

    /// Pages that so many members need.
    pub fn pages(&self, members: usize) -> usize {
        let rest = (members % self.columns).div_ceil(self.per_page);
        let full = members / self.columns * (1 + self.code_pages);
        full + if rest > 0 { 1 + rest } else { 0 }
    }

    /// Bytes of a [`Member`] in memory, a multiple of 8.
    pub fn member_len(&self) -> usize {
        MEMBER_HEAD + self.coded / 8 + self.entry_len
    }
}

/// Code pages for a list page of so many columns. The last one may be all but
/// empty; where less space goes to waste without it, its columns stay unused.
fn code_pages(columns: usize, per_page: usize) -> usize {
    let (few, all) = (columns / per_page, columns.div_ceil(per_page));
    // Pages for each column that can be used, list page included.
    let is_denser = (1 + few) * columns <= (1 + all) * few * per_page;
    if is_denser { few } else { all }
}

/// 32 members of a list, for comparing them with a query at once.
pub struct Columns<'a> {
    /// What their keys follow from: [`Factors`], and the standard deviation of an
    /// estimate for a query at a distance of 1 from the centroid.
    pub terms: Terms<'a>,
    /// Their 1-bit codes.
    pub codes: &'a [u8],
}

/// Bytes of an encoded member before its 1-bit code.
const MEMBER_HEAD: usize = 3 * size_of::<f32>();
// So that members in memory are whole words: what comes after are.
const _: () = assert!((MEMBER_HEAD + ENTRY_HEAD).is_multiple_of(8));

/// An encoded vector, in memory: factors, a 1-bit code and an entry.
pub struct Member<'a> {
    /// Its factors.
    pub factors: Factors,
    /// The standard deviation of its estimate.
    pub deviation: f32,
    /// Its 1-bit code.
    pub signs: &'a [u8],
    /// Its entry.
    pub entry: &'a [u8],
}

impl<'a> Member<'a> {
    /// Takes [`Layout::member_len`] bytes apart.
    pub fn of(layout: &Layout, bytes: &'a [u8]) -> Self {
        let (head, rest) = bytes.split_at(MEMBER_HEAD);
        let (signs, entry) = rest.split_at(layout.coded / 8);
        let head: &[f32] = bytemuck::cast_slice(head);
        Member {
            factors: Factors {
                add: head[0],
                rescale: head[1],
            },
            deviation: head[2],
            signs,
            entry,
        }
    }

    /// Writes the factors, and gives the other parts to be written.
    pub fn parts<'b>(
        layout: &Layout,
        bytes: &'b mut [u8],
        factors: Factors,
        deviation: f32,
    ) -> (&'b mut [u8], &'b mut [u8]) {
        let (head, rest) = bytes.split_at_mut(MEMBER_HEAD);
        let head: &mut [f32] = bytemuck::cast_slice_mut(head);
        head.copy_from_slice(&[factors.add, factors.rescale, deviation]);
        rest.split_at_mut(layout.coded / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_up() {
        let numbers = [
            0.0,
            1.0,
            1.000_000_1,
            0.3,
            1e-45,
            1e-38,
            3.4e38,
            f32::INFINITY,
        ];
        for number in numbers {
            let rounded = RoundedUp::of(number).get();
            assert!(rounded >= number, "{number} became {rounded}");
            let most = number * (1.0 + 1.0 / 128.0) + 1e-40;
            assert!(rounded <= most || most > 3e38, "{number} became {rounded}");
        }
        for nan in [
            f32::NAN,
            f32::from_bits(0x7fff_ffff),
            f32::from_bits(0xffff_ffff),
        ] {
            assert!(RoundedUp::of(nan).get().is_nan());
        }
        assert_eq!(RoundedUp::of(1.0).get(), 1.0);
    }

    #[test]
    fn full_pages_waste_little() {
        for padded in (64..=1024).step_by(64) {
            for bits in [Bits::Eight, Bits::Four] {
                let layout = Layout::new(Values::Grid(bits), padded).unwrap();
                let member = FACTORS / BLOCK + layout.coded / 8 + layout.entry_len;
                let pages = (1 + layout.code_pages) * BODY_LEN;
                let used = (layout.columns * member) as f64 / pages as f64;
                assert!(used > 0.88, "{padded} {bits:?}: {used:.3} {layout:?}");
            }
        }
    }

    #[test]
    fn everything_has_its_place_on_the_pages() {
        for padded in (64..=64_000).step_by(64) {
            for values in [
                Values::Grid(Bits::Eight),
                Values::Grid(Bits::Four),
                Values::Whole,
            ] {
                let Some(layout) = Layout::new(values, padded) else {
                    assert!(padded > 8_000, "{padded} {values:?}");
                    continue;
                };
                assert!(layout.blocks_at + layout.blocks * layout.block_len <= BODY_LEN);
                assert!(HEADER + layout.per_page * layout.entry_len <= BODY_LEN);
                assert!(layout.columns <= layout.blocks * BLOCK);
                let slots = (0..layout.code_pages).map(|number| layout.slots(number));
                assert_eq!(slots.clone().sum::<usize>(), layout.columns);
                assert!(slots.clone().all(|slots| slots > 0), "{padded} {values:?}");
            }
        }
    }

    #[test]
    fn a_page_is_full_without_the_columns_that_have_no_entry() {
        let layout = Layout::new(Values::Grid(Bits::Four), 64).unwrap();
        assert!(layout.columns < layout.blocks * BLOCK);
        let mut body = Box::new(Body::ZERO);
        for column in 0..layout.columns {
            assert!(layout.has_room(&body), "{column}");
            layout.alive_mut(&mut body)[column / BLOCK] |= 1 << (column % BLOCK);
        }
        assert!(!layout.has_room(&body));
    }
}
