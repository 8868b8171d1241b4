//! Nearest rows of a query, as a stream.
//!
//! The first `ef` vertices come from one beam search. A caller that wants more
//! goes on: each further round returns the next `ef`, without visiting any
//! vertex twice.

use super::beam::{Beam, BeamOptions, Found, descend};
use super::codec::{Code, Codec};
use super::index::Index;
use super::layout::{HeapTid, NONE};
use crate::Error;
use crate::page::PageStore;

/// A search of an index; see [`Scan::next_round`].
pub struct Scan {
    query: Code,
    beam: Beam,
    started: bool,
    exhausted: bool,
}

impl Scan {
    /// A search for the rows nearest to the encoded `query`.
    pub fn new(query: Code) -> Self {
        let options = BeamOptions {
            with_tids: true,
            resumable: true,
            ..BeamOptions::default()
        };
        Scan {
            query,
            beam: Beam::new(0, options),
            started: false,
            exhausted: false,
        }
    }

    /// The next `ef` nearest vertices, nearest first: no two rounds return the
    /// same one. An empty answer means that there are no more.
    pub fn next_round<S: PageStore, C: Codec>(
        &mut self,
        index: &Index<'_, S, C>,
        ef: usize,
    ) -> Result<Vec<Found>, Error> {
        if self.exhausted {
            return Ok(Vec::new());
        }
        if self.started {
            self.beam.resume(index, self.query.bytes(), ef)?;
        } else {
            self.started = true;
            self.start(index)?;
            self.beam.run(index, self.query.bytes(), ef)?;
        }
        let found = self.beam.take();
        self.exhausted = found.is_empty();
        Ok(found)
    }

    /// The rows of a vertex that a round returned.
    pub fn heap_tids(&self, found: &Found) -> &[HeapTid] {
        self.beam.tids(found)
    }

    /// Vertices visited so far.
    pub fn visited(&self) -> usize {
        self.beam.visited()
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        self.beam.memory()
    }

    fn start<S: PageStore, C: Codec>(&mut self, index: &Index<'_, S, C>) -> Result<(), Error> {
        let query = self.query.bytes();
        // Vacuum may take away the vertices on the way down; it does so once
        // per vacuum, so a second try finds a standing way.
        for _ in 0..8 {
            let meta = index.meta()?;
            if meta.entry == NONE {
                return Ok(());
            }
            let level = meta.entry_level as u8;
            let entry = descend(index, query, meta.entry, level, 0)?;
            if entry != NONE && self.beam.start(index, query, entry)? {
                return Ok(());
            }
        }
        Err(Error::corrupted(
            super::index::METAPAGE,
            "the entry point leads to no vertex of level 0",
        ))
    }
}
