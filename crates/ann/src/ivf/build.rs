//! Building an index: rows are assigned and encoded by a team, kept in memory
//! as far as that is allowed, and written list by list.

use memory::OutOfMemory;
use memory::vec::{collect, filled, lengthen, push, reserve};
use parking_lot::Mutex;

use super::codec::{Centre, Codec, Level};
use super::groups::Groups;
use super::index::{Index, List, METAPAGE, aligned};
use super::kmeans::{Branches, Centroids};
use crate::page::PageStore;
use crate::team::{Team, try_run};
use crate::{AnyVector, Error, HeapTid};

/// Parts of the team's work that rows wait for, at most.
const PENDING: usize = 16;

/// And so many bytes of them.
const PENDING_BYTES: usize = 16 << 20;

/// What memory is asked for.
const ROWS: &str = "the rows of an index";

/// An index that is filled with the rows of a table.
pub struct Builder<'i, 's, S, C> {
    index: &'i Index<'s, S, C>,
    team: &'i dyn Team,
    lists: Vec<List>,
    centres: Vec<Centre>,
    /// The same, prepared for assigning.
    centroids: Centroids,
    budget: usize,
    /// Loaded vectors.
    pending: Vec<f32>,
    /// Their rows, and whether products with them lose nothing.
    pending_rows: Vec<(HeapTid, bool)>,
    pending_limit: usize,
    /// Rows that a thread assigns and encodes at a time.
    part: usize,
    /// The lists of the rows in memory.
    encoded: Vec<u32>,
    /// Their members, aligned.
    members: Vec<u64>,
    rows: u64,
    spread: f64,
}

impl<'i, 's, S: PageStore, C: std::ops::Deref<Target = Codec> + Sync> Builder<'i, 's, S, C> {
    /// A builder of an index that has just been created. It uses at most about
    /// `budget` bytes beside the centroids.
    pub fn new(
        index: &'i Index<'s, S, C>,
        team: &'i dyn Team,
        budget: usize,
    ) -> Result<Self, Error> {
        let padded = index.codec.padded();
        // As they are decoded: what members are relative to.
        let (mut lists, mut centres) = (Vec::new(), Vec::new());
        index.for_each_list(&mut |list, _| {
            push(&mut lists, list, ROWS)?;
            push(&mut centres, index.centre(list)?, ROWS)?;
            Ok(())
        })?;
        let values = |centres: &[Centre]| {
            let mut values = Vec::new();
            reserve(&mut values, centres.len() * padded, ROWS)?;
            centres
                .iter()
                .for_each(|c| values.extend_from_slice(&c.vector));
            Ok::<_, OutOfMemory>(values)
        };
        let mut centroids = Centroids::new(values(&centres)?, padded);
        if index.has_branches() {
            let mut of_branches = Vec::new();
            index.for_each_branch(&mut |branch, _| {
                push(&mut of_branches, index.centre(branch)?, ROWS)?;
                Ok(())
            })?;
            let firsts =
                (0..lists.len()).filter(|&i| i == 0 || lists[i].parent() != lists[i - 1].parent());
            centroids = centroids.with_branches(Branches {
                centroids: Box::new(Centroids::new(values(&of_branches)?, padded)),
                starts: firsts.chain([lists.len()]).collect(),
            });
        }
        let part = centroids.at_once();
        Ok(Builder {
            index,
            team,
            lists,
            centres,
            centroids,
            budget,
            pending: Vec::new(),
            pending_rows: Vec::new(),
            pending_limit: (PENDING_BYTES / (padded * 4)).clamp(part, PENDING * part),
            part,
            encoded: Vec::new(),
            members: Vec::new(),
            rows: 0,
            spread: 0.0,
        })
    }

    /// Adds a row; false if the index leaves its vector out.
    pub fn add(&mut self, vector: AnyVector<'_>, tid: HeapTid) -> Result<bool, Error> {
        let padded = self.index.codec.padded();
        let at = self.pending.len();
        lengthen(&mut self.pending, 0.0, padded, ROWS)?;
        let Some(is_exact) = self.index.codec.load(vector, &mut self.pending[at..]) else {
            self.pending.truncate(at);
            return Ok(false);
        };
        push(&mut self.pending_rows, (tid, is_exact), ROWS)?;
        if self.pending_rows.len() >= self.pending_limit {
            self.encode()?;
            let held = self.members.len() * 8 + self.encoded.len() * 2 * size_of::<u32>();
            // The next batch doubles what a growing vector has room for.
            if 2 * held > self.budget {
                self.write()?;
            }
        }
        Ok(true)
    }

    /// Rows that were encoded so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Assigns and encodes the rows that wait.
    fn encode(&mut self) -> Result<(), Error> {
        let codec = &*self.index.codec;
        let padded = codec.padded();
        let rows = self.pending_rows.len();
        let words = codec.layout(Level::Rows).member_len() / 8;
        let at = self.members.len();
        lengthen(&mut self.members, 0, rows * words, ROWS)?;
        reserve(&mut self.encoded, rows, ROWS)?;
        let part = self.part;
        let mut lists = filled((0_u32, 0.0_f32), rows, ROWS)?;
        {
            let vectors = self.pending.chunks_mut(part * padded).map(Mutex::new);
            let members = self.members[at..].chunks_mut(part * words).map(Mutex::new);
            let lists = lists.chunks_mut(part).map(Mutex::new);
            let vectors: Vec<_> = vectors.collect();
            let members: Vec<_> = members.collect();
            let lists: Vec<_> = lists.collect();
            let rows: Vec<&[(HeapTid, bool)]> = self.pending_rows.chunks(part).collect();
            try_run(self.team, lists.len(), &|part| {
                let (mut vectors, mut lists) = (vectors[part].lock(), lists[part].lock());
                for vector in vectors.chunks_exact_mut(padded) {
                    codec.rotate(vector);
                }
                self.centroids.nearest(&vectors, &mut lists)?;
                let mut members = members[part].lock();
                let members = members.chunks_exact_mut(words);
                let vectors = vectors.chunks_exact(padded).zip(members);
                let rows = vectors.zip(rows[part]).zip(lists.iter_mut());
                for (((vector, member), &(tid, is_exact)), list) in rows {
                    let centre = &self.centres[list.0 as usize];
                    let member = bytemuck::cast_slice_mut(member);
                    let vector = (vector, is_exact);
                    list.1 = codec.encode(Level::Rows, vector, centre, tid.0, member);
                }
                Ok(())
            })?;
        }
        for (list, spread) in lists {
            self.encoded.push(list);
            if spread.is_finite() {
                self.spread += f64::from(spread);
            }
        }
        self.rows += rows as u64;
        self.pending.clear();
        self.pending_rows.clear();
        Ok(())
    }

    /// Writes the rows in memory into their lists.
    fn write(&mut self) -> Result<(), Error> {
        let words = self.index.codec.layout(Level::Rows).member_len() / 8;
        let groups = Groups::new(self.encoded.iter().copied(), self.lists.len())?;
        for (number, &list) in self.lists.iter().enumerate() {
            self.index.store.pause();
            let member = |&row: &u32| {
                let at = row as usize * words;
                bytemuck::cast_slice::<u64, u8>(&self.members[at..at + words])
            };
            let members: Vec<&[u8]> = collect(groups.of(number).iter().map(member), ROWS)?;
            if !members.is_empty() {
                self.index.append(list, &members)?;
            }
        }
        self.encoded.clear();
        self.members.clear();
        Ok(())
    }

    /// Assigns the rows that still wait, and tells how many there are.
    pub fn close(&mut self) -> Result<u64, Error> {
        self.encode()?;
        Ok(self.rows)
    }

    /// Writes what is not written, and what the index was built with.
    pub fn finish(mut self) -> Result<(), Error> {
        self.encode()?;
        self.write()?;
        let store = self.index.store;
        let mut meta = *self.index.meta();
        meta.built_rows = self.rows;
        meta.built_spread = self.spread;
        let mut page = store.lock(METAPAGE)?;
        store.commit(&mut [&mut page], &mut |bodies| meta.write(bodies[0]));
        Ok(())
    }
}

impl<S: PageStore, C: std::ops::Deref<Target = Codec>> Index<'_, S, C> {
    /// Adds a row; false if the index leaves its vector out.
    pub fn insert(&self, vector: AnyVector<'_>, tid: HeapTid) -> Result<bool, Error> {
        let Some(prepared) = self.codec.prepare(vector) else {
            return Ok(false);
        };
        let (vector, is_exact) = (prepared.vector.clone(), prepared.is_exact);
        let query = self.codec.query(prepared);
        let (list, centre) = self.nearest_list(&query)?;
        let layout = self.codec.layout(Level::Rows);
        let mut member = aligned(layout.member_len());
        let member: &mut [u8] = bytemuck::cast_slice_mut(&mut member);
        let vector = (&vector[..], is_exact);
        self.codec
            .encode(Level::Rows, vector, &centre, tid.0, member);
        self.append(list, &[member])?;
        Ok(true)
    }
}
