//! Best-first search on level 0 that goes on as long as it is asked to.
//!
//! Each step visits the nearest vertex that is known and was not visited, however many
//! are known: by the means of what visits told of it ([`Means`]) over estimates, by its key
//! where that is known. So the order of the visits depends on the query alone. A search
//! that goes further sees what a shorter one does, and then more; a [`super::beam`], which
//! knows as many vertices as its width says, promises no such thing.
//!
//! What is known waits in a heap, so a further visit costs as much as the first ones did, but
//! for the logarithm of how many wait. An entry of the heap may be out of date: a mean that
//! became less adds another one, one that became larger is found when the entry's turn
//! comes, and the entry goes back. Of more than there is room for, the farther half is forgotten.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use memory::OutOfMemory;
use memory::vec::push;

use super::beam::{Counters, Extent, Found, Graph, Neighbours, take_nearest};
use super::layout::{HeapTid, NONE, Vertex};
use super::means::{Means, weight_of};
use super::sets::VertexSet;
use crate::Error;

/// What memory is asked for.
const SEARCH: &str = "a search that goes on";

/// More vertices than this would not be visited in any case.
const MOST_WAITING: usize = 1 << 26;

/// Fewer would lead a search astray.
const LEAST_WAITING: usize = 1 << 12;

/// A vertex that waits, with its key: the nearest is the smallest, and of those at the same
/// distance, that with the lowest number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting(u64);

impl Waiting {
    fn new(key: f32, vertex: Vertex) -> Self {
        // Ordered as `f32::total_cmp` does.
        let bits = key.to_bits();
        let sign = ((bits as i32) >> 31) as u32;
        let ordered = bits ^ (sign | 1 << 31);
        Waiting(u64::from(ordered) << 32 | u64::from(vertex))
    }

    fn key(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        let sign = !((ordered as i32) >> 31) as u32;
        f32::from_bits(ordered ^ (sign | 1 << 31))
    }

    fn vertex(self) -> Vertex {
        self.0 as Vertex
    }
}

/// A search of level 0 for the vertices nearest to a query, which is the same in every call.
pub struct Stream {
    is_exact: bool,
    waiting: BinaryHeap<Reverse<Waiting>>,
    most_waiting: usize,
    visited: VertexSet,
    visits: usize,
    /// With exact estimates, all vertices whose distance is known.
    seen: VertexSet,
    /// Of the estimates that visits told of; with exact ones, nothing.
    means: Means,
    /// The smallest keys of what was visited, ascending: as many as the extent of the search needs.
    nearest: Vec<f32>,
    /// Of the vertex visited last.
    slack: f32,
    /// What was prefetched.
    on_its_way: Vertex,
    found: Vec<Found>,
    tids: Vec<HeapTid>,
    counters: Counters,
    // Memory for what a visit tells.
    numbers: Vec<Vertex>,
    estimates: Vec<f32>,
}

impl Stream {
    /// A search of a graph whose estimates are exact or not, which takes about so much
    /// memory for the vertices that wait.
    pub fn new(is_exact: bool, bytes: usize) -> Self {
        let most = bytes / size_of::<Waiting>();
        Stream {
            is_exact,
            waiting: BinaryHeap::new(),
            most_waiting: most.clamp(LEAST_WAITING, MOST_WAITING),
            visited: VertexSet::with_capacity(0),
            visits: 0,
            seen: VertexSet::with_capacity(0),
            means: Means::default(),
            nearest: Vec::new(),
            slack: 0.0,
            on_its_way: NONE,
            found: Vec::new(),
            tids: Vec::new(),
            counters: Counters::default(),
            numbers: Vec::new(),
            estimates: Vec::new(),
        }
    }

    /// Adds a vertex that another search visited.
    pub fn pass_over(&mut self, vertex: Vertex) -> Result<(), OutOfMemory> {
        self.visited.make_room(1)?;
        self.visits += usize::from(self.visited.insert(vertex));
        if self.is_exact {
            self.seen.make_room(1)?;
            self.seen.insert(vertex);
        }
        Ok(())
    }

    /// Adds what another search found, and its rows.
    pub fn take_over(&mut self, found: Vec<Found>, tids: Vec<HeapTid>) {
        self.found = found;
        self.tids = tids;
    }

    /// Adds a vertex to be visited, unless it was.
    pub fn add(&mut self, key: f32, vertex: Vertex) -> Result<(), OutOfMemory> {
        if self.visited.contains(vertex) {
            return Ok(());
        }
        if self.is_exact {
            self.seen.make_room(1)?;
            if !self.seen.insert(vertex) {
                return Ok(());
            }
        }
        self.wait(key, vertex)
    }

    /// Vertices visited, those included that another search visited.
    pub fn visits(&self) -> usize {
        self.visits
    }

    /// Visits vertices to the extent that is given; false if there are no more.
    pub fn reach<G: Graph>(
        &mut self,
        graph: &G,
        query: &G::Query,
        extent: Extent,
    ) -> Result<bool, Error> {
        while let Some(next) = self.nearest_waiting() {
            let key = next.key();
            let nth = |n: usize| self.nearest.get(n.saturating_sub(1)).copied();
            let is_far = nth(extent.ef).is_some_and(|last| key > last + self.slack);
            if is_far || nth(extent.width).is_some_and(|last| key >= last) {
                return Ok(true);
            }
            let before = self.found.len();
            self.visit_next(graph, query)?;
            for found in before..self.found.len() {
                let key = self.found[found].distance;
                let at = self.nearest.partition_point(|&k| k <= key);
                if at < extent.width {
                    self.nearest.truncate(extent.width - 1);
                    push(&mut self.nearest, key, SEARCH)?;
                    self.nearest[at..].rotate_right(1);
                }
            }
        }
        Ok(false)
    }

    /// Visits vertices until so many were; false if there are no more.
    pub fn visit_until<G: Graph>(
        &mut self,
        graph: &G,
        query: &G::Query,
        visits: usize,
    ) -> Result<bool, Error> {
        while self.visits < visits {
            if !self.visit_next(graph, query)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many results there are to take.
    pub fn results(&self) -> usize {
        self.found.len()
    }

    /// Takes the nearest of what was found, nearest first; the rest can be taken later.
    pub fn take_nearest(&mut self, limit: usize) -> Result<Vec<Found>, OutOfMemory> {
        take_nearest(&mut self.found, limit)
    }

    /// Takes all that was found, in the order of the visits.
    pub fn take(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.found)
    }

    /// The rows that `Found::tids` point into, until [`Stream::forget_rows`].
    pub fn tids(&self, found: &Found) -> &[HeapTid] {
        &self.tids[found.tids.0 as usize..found.tids.1 as usize]
    }

    /// Forgets the rows of what was taken, if all was.
    pub fn forget_rows(&mut self) {
        if self.found.is_empty() {
            self.tids.clear();
        }
    }

    /// What the search did.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        self.visited.memory()
            + self.seen.memory()
            + self.waiting.len() * size_of::<Waiting>()
            + self.means.memory()
            + self.found.len() * size_of::<Found>()
            + self.tids.len() * size_of::<HeapTid>()
    }

    /// The vertex that is the nearest by all that is known: then it is the first one of the heap.
    fn nearest_waiting(&mut self) -> Option<Waiting> {
        loop {
            let mut first = self.waiting.peek_mut()?;
            let Reverse(next) = *first;
            if self.visited.contains(next.vertex()) {
                std::collections::binary_heap::PeekMut::pop(first);
                continue;
            }
            match self.means.get(next.vertex()) {
                Some(mean) if mean > next.key() => {
                    *first = Reverse(Waiting::new(mean, next.vertex()));
                }
                _ => return Some(next),
            }
        }
    }

    fn wait(&mut self, key: f32, vertex: Vertex) -> Result<(), OutOfMemory> {
        if self.waiting.len() == self.waiting.capacity() {
            // What is asked for in the heap's place is as much as it will have.
            let more = self.waiting.len().max(64);
            let mut entries = std::mem::take(&mut self.waiting).into_vec();
            let room = memory::vec::reserve(&mut entries, more, SEARCH);
            self.waiting = BinaryHeap::from(entries);
            room?;
        }
        self.waiting.push(Reverse(Waiting::new(key, vertex)));
        Ok(())
    }

    /// Visits the nearest vertex that waits; false if none does.
    pub fn visit_next<G: Graph>(&mut self, graph: &G, query: &G::Query) -> Result<bool, Error> {
        let Some(next) = self.nearest_waiting() else {
            return Ok(false);
        };
        self.waiting.pop();
        let vertex = next.vertex();
        if vertex != self.on_its_way {
            graph.prefetch(vertex, 0);
        }
        if let Some(Reverse(ahead)) = self.waiting.peek() {
            self.on_its_way = ahead.vertex();
            graph.prefetch(self.on_its_way, 0);
        }
        self.numbers.clear();
        self.estimates.clear();
        let tids_from = self.tids.len() as u32;
        let mut neighbours = Neighbours {
            seen: &self.seen,
            numbers: &mut self.numbers,
            estimates: &mut self.estimates,
        };
        let visit = graph.visit(vertex, 0, query, Some(&mut self.tids), &mut neighbours)?;
        self.visited.make_room(1)?;
        self.visited.insert(vertex);
        self.visits += 1;
        self.counters.visited += 1;
        self.counters.estimated += self.numbers.len() as u64;
        let Some(visit) = visit else {
            return Ok(true);
        };
        self.slack = visit.slack;
        self.consider_all(visit.spread)?;
        if visit.live {
            let found = Found {
                distance: visit.key,
                bound: visit.bound,
                vertex,
                below: visit.below,
                position: self.visits as u32,
                tids: (tids_from, self.tids.len() as u32),
            };
            push(&mut self.found, found, SEARCH)?;
        }
        if self.waiting.len() > self.most_waiting {
            self.forget_the_farthest();
        }
        Ok(true)
    }

    /// Makes the neighbours that the last visit told of wait.
    fn consider_all(&mut self, spread: f32) -> Result<(), OutOfMemory> {
        let numbers = std::mem::take(&mut self.numbers);
        let estimates = std::mem::take(&mut self.estimates);
        let told = numbers.iter().zip(&estimates);
        if self.is_exact {
            self.seen.make_room(numbers.len())?;
            for (&number, &key) in told {
                if self.seen.insert(number) {
                    self.wait(key, number)?;
                }
            }
        } else {
            self.means.grow(self.visits)?;
            let weight = weight_of(spread);
            for (&number, &estimate) in told {
                // NONE counts as visited.
                if self.visited.contains(number) {
                    continue;
                }
                let (mean, before) = self.means.tell(number, estimate, weight);
                if before.is_none_or(|before| mean < before) {
                    self.wait(mean, number)?;
                }
            }
        }
        self.numbers = numbers;
        self.estimates = estimates;
        Ok(())
    }

    /// Keeps the nearest of what waits, half as many as may. What is forgotten waits again when
    /// another visit tells of it.
    #[cold]
    fn forget_the_farthest(&mut self) {
        let mut entries = std::mem::take(&mut self.waiting).into_vec();
        let kept = self.most_waiting / 2;
        entries.select_nth_unstable_by_key(kept, |&Reverse(entry)| entry);
        entries.truncate(kept);
        self.means.clear();
        if self.is_exact {
            self.seen.clear();
            self.seen.extend(self.visited.iter());
            let kept = entries.iter().map(|Reverse(entry)| entry.vertex());
            self.seen.extend(kept);
        }
        self.waiting = BinaryHeap::from(entries);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::told::Told;
    use super::*;

    fn visited(stream: &mut Stream) -> Vec<Vertex> {
        stream.take().iter().map(|found| found.vertex).collect()
    }

    #[test]
    fn keys_are_ordered_as_numbers_are() {
        let keys = [
            f32::NEG_INFINITY,
            -2.5,
            -0.0,
            0.0,
            1e-40,
            3.0,
            f32::INFINITY,
        ];
        let waiting = keys.map(|key| Waiting::new(key, 7));
        assert!(waiting.is_sorted());
        for (waiting, key) in waiting.into_iter().zip(keys) {
            assert_eq!(
                (waiting.key().to_bits(), waiting.vertex()),
                (key.to_bits(), 7)
            );
        }
        assert!(Waiting::new(1.0, 7) < Waiting::new(1.0, u32::MAX - 1));
    }

    #[test]
    fn what_there_is_no_room_for_is_found_again() {
        const VERTICES: Vertex = 20_000;
        for is_exact in [true, false] {
            let all: Vec<(Vertex, f32)> = (0..VERTICES).map(|v| (v, v as f32)).collect();
            // The first one tells of all others, and each of three.
            let tell = |(vertex, key): (usize, &(Vertex, f32))| {
                let last = if vertex == 0 { all.len() } else { vertex + 4 };
                (key.1, &all[vertex + 1..last.min(all.len())])
            };
            let visits: Vec<_> = all.iter().enumerate().map(tell).collect();
            let graph = Told {
                is_exact,
                visits: &visits,
                ..Told::default()
            };
            let mut stream = Stream::new(is_exact, 0);
            stream.add(f32::NEG_INFINITY, 0).unwrap();
            assert!(!stream.visit_until(&graph, &(), usize::MAX).unwrap());
            assert!(visited(&mut stream).into_iter().eq(0..VERTICES));
        }
    }

    #[test]
    fn what_was_underestimated_waits_for_what_is_nearer_by_its_mean() {
        // 2 seems to be at 2 first, at 9 then: 5.5.
        let graph = Told {
            visits: &[
                (10.0, &[(1, 1.0), (2, 2.0)]),
                (1.0, &[(2, 9.0), (3, 4.0)]),
                (8.0, &[]),
                (4.0, &[]),
            ],
            ..Told::default()
        };
        let mut stream = Stream::new(false, usize::MAX);
        stream.add(f32::NEG_INFINITY, 0).unwrap();
        stream.visit_until(&graph, &(), 4).unwrap();
        assert_eq!(visited(&mut stream), [0, 1, 3, 2]);
    }

    #[test]
    fn a_search_ends_at_its_extent_and_goes_on_from_there() {
        // Each tells of the two that follow it, more than are visited.
        let all: Vec<(Vertex, f32)> = (0..20).map(|v| (v, v as f32)).collect();
        let visits: Vec<_> = all.windows(3).map(|w| (w[0].1, &w[1..])).collect();
        let graph = Told {
            visits: &visits,
            ..Told::default()
        };
        let mut stream = Stream::new(false, usize::MAX);
        stream.add(f32::NEG_INFINITY, 0).unwrap();
        stream
            .reach(&graph, &(), Extent { ef: 5, width: 9 })
            .unwrap();
        assert_eq!(visited(&mut stream), [0, 1, 2, 3, 4]);
        assert!(stream.visit_until(&graph, &(), 7).unwrap());
        assert_eq!(visited(&mut stream), [5, 6]);
    }
}
