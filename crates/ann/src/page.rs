//! The pages an index lives on, behind one small trait.
//!
//! An index reads pages under a share lock, changes up to
//! [`MAX_PAGES_PER_RECORD`] of them in one atomic record, and appends new ones.
//! What makes a record atomic (a write-ahead log, a journal) is the store's
//! business; the algorithms above only promise that the pages are a valid
//! index after every record.

use std::ops::{Deref, Range};

use bytemuck::{Pod, Zeroable};

use crate::Error;

/// The number of a page.
pub type Block = u32;

/// Bytes of a page that belong to the index: an 8 KiB page less the server's
/// 24-byte header and 8 bytes that tell whose page it is.
pub const BODY_LEN: usize = 8192 - 24 - 8;

/// One atomic record changes at most so many pages
/// (PostgreSQL's `MAX_GENERIC_XLOG_PAGES`).
pub const MAX_PAGES_PER_RECORD: usize = 4;

/// Bytes of a metapage, the last ones of which are the checksum of the others.
const META_LEN: usize = 64;

/// 32-bit FNV-1a (Fowler, Noll and Vo). A byte that changed is told for sure, because
/// each step is a bijection of what came before.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, &byte: &u8| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step)
}

/// Gives a metapage the checksum that goes with what is there.
pub fn seal(metapage: &mut Body) {
    let (bytes, sum) = metapage.0[..META_LEN].split_at_mut(META_LEN - size_of::<u32>());
    sum.copy_from_slice(&checksum(bytes).to_ne_bytes());
}

/// Whether a metapage has that checksum.
pub fn is_sealed(metapage: &Body) -> bool {
    let (bytes, sum) = metapage.0[..META_LEN].split_at(META_LEN - size_of::<u32>());
    sum == checksum(bytes).to_ne_bytes()
}

/// The part of a page that belongs to the index.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Body(pub [u8; BODY_LEN]);

impl Body {
    /// A page that holds nothing yet.
    pub const ZERO: Body = Body([0; BODY_LEN]);
}

const _: () = assert!(size_of::<Body>() == BODY_LEN);

/// Appends the ranges of bytes in which two pages of one length differ, ascending. Bytes
/// that are alike are in them where a range more would cost more: a record of changes
/// needs [`PIECE_HEAD`] bytes for each.
pub fn changes(before: &[u8], after: &[u8], ranges: &mut Vec<Range<usize>>) {
    const CHUNK: usize = 64;
    assert!(before.len() == after.len() && before.len().is_multiple_of(CHUNK));
    let chunks = before.as_chunks::<CHUNK>().0.iter();
    for (number, (a, b)) in chunks.zip(after.as_chunks::<CHUNK>().0).enumerate() {
        if a == b {
            continue;
        }
        let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
        for (word, (&a, &b)) in words.enumerate() {
            let differing = u64::from_le_bytes(a) ^ u64::from_le_bytes(b);
            if differing == 0 {
                continue;
            }
            let at = number * CHUNK + word * 8;
            let start = at + differing.trailing_zeros() as usize / 8;
            let end = at + 8 - differing.leading_zeros() as usize / 8;
            match ranges.last_mut() {
                Some(last) if start - last.end <= PIECE_HEAD => last.end = end,
                _ => ranges.push(start..end),
            }
        }
    }
}

/// See [`changes`].
const PIECE_HEAD: usize = 4;

/// Whether a stamp of [`PageStore::stamp`] was given before another, if not half of all
/// numbers were in between.
pub fn is_earlier(stamp: u32, than: u32) -> bool {
    (stamp.wrapping_sub(than) as i32) < 0
}

/// Where an index's pages are kept.
///
/// # Locks
///
/// A guard holds its page's lock until it is dropped. A caller that holds one
/// guard asks for another only in the order that the index's README states,
/// and never while it waits for anything else.
pub trait PageStore {
    /// A page under a share lock.
    type Read<'s>: Deref<Target = Body>
    where
        Self: 's;
    /// A page under an exclusive lock; changed only through [`PageStore::commit`].
    type Write<'s>: Deref<Target = Body>
    where
        Self: 's;

    /// How many pages there are.
    fn block_count(&self) -> Block;

    /// Locks a page for reading. A block past the end, or a page that is not
    /// one of this index, is [`Error::Corrupted`].
    fn read(&self, block: Block) -> Result<Self::Read<'_>, Error>;

    /// Locks a page for changing it. Errors as [`PageStore::read`].
    fn lock(&self, block: Block) -> Result<Self::Write<'_>, Error>;

    /// Appends a page of zeros and locks it. Callers serialize themselves. That
    /// the page is there need not survive a crash; what a record writes to it does.
    fn extend(&self) -> Result<Self::Write<'_>, Error>;

    /// Lets a page that nobody uses any more be used again, or one that waits for that: who
    /// gets it finds out. That it may be need not survive a crash.
    fn recycle(&self, block: Block);

    /// Locks a page that may be used again, if there is one. It waits for nobody's lock.
    /// After a crash, the page may be one that is in use.
    fn recycled(&self) -> Result<Option<Self::Write<'_>>, Error>;

    /// What time it is: a number that grows, and begins anew after the largest one. It is
    /// never 0. After a crash, it may be what it was some time before.
    fn stamp(&self) -> u32;

    /// A stamp: everything has ended that had begun when an [earlier](is_earlier) one was
    /// given, searches, inserts and all else that may remember a page's number.
    fn horizon(&self) -> u32;

    /// Whether nothing is under way, beside the caller, that may remember a page's number: no
    /// search and no insert, here or on a server that replays this one's records. It may say
    /// no without a reason.
    fn is_alone(&self) -> bool;

    /// The number of a locked page.
    fn block_of(&self, page: &Self::Write<'_>) -> Block;

    /// Changes the locked pages in one atomic record: `edit` sees them in the
    /// order given, and either all of its changes survive a crash or none.
    ///
    /// `pages` has at most [`MAX_PAGES_PER_RECORD`] elements.
    fn commit(&self, pages: &mut [&mut Self::Write<'_>], edit: &mut dyn FnMut(&mut [&mut Body]));

    /// Hints that `len` bytes from each of some bytes of a page on will be read soon.
    fn prefetch(&self, block: Block, len: usize, starts: impl IntoIterator<Item = usize>);

    /// Called by long operations between pages, with no lock held: the place
    /// to notice that the operation was cancelled, or to throttle it.
    fn pause(&self);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PIECE_HEAD, changes};

    proptest! {
        #[test]
        fn ranges_hold_every_change_and_little_else(
            edits in prop::collection::vec((0_usize..1024, 1_usize..40, any::<u8>()), 0..20)
        ) {
            let before: Vec<u8> = (0..1024).map(|i| (i * 7) as u8).collect();
            let mut after = before.clone();
            for (at, len, value) in edits {
                after[at..(at + len).min(1024)].fill(value);
            }
            let mut ranges = Vec::new();
            changes(&before, &after, &mut ranges);
            let mut rebuilt = before.clone();
            for range in &ranges {
                rebuilt[range.clone()].copy_from_slice(&after[range.clone()]);
                // It begins and ends with a change; inside, few bytes in a row are alike.
                let alike: Vec<bool> = range.clone().map(|i| before[i] == after[i]).collect();
                prop_assert!(alike.first() == Some(&false) && alike.last() == Some(&false));
                let longest = alike.split(|alike| !alike).map(<[bool]>::len).max();
                prop_assert!(longest.is_none_or(|run| run <= PIECE_HEAD + 2));
            }
            prop_assert_eq!(rebuilt, after);
            let apart = ranges.windows(2).all(|pair| pair[0].end + PIECE_HEAD < pair[1].start);
            prop_assert!(apart);
        }
    }
}
