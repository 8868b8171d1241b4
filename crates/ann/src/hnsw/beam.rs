//! Best-first search on one level of a graph.
//!
//! Algorithm 2 of Malkov and Yashunin, in the form of Gou et al. (SymphonyQG,
//! section 3.2): a *pool* holds the nearest vertices known so far, by estimates
//! of their distance until they are visited and by their codes from then on.
//! The search visits the nearest one that it has not visited, until none in the
//! pool is left. A graph whose estimates are exact makes this the algorithm of
//! the HNSW paper.
//!
//! How many vertices a search has to see differs from query to query. So it may also
//! end before, when `ef` vertices are visited and the nearest other one is farther than
//! the farthest of these by a part of its distance (Al-Jazzazi et al., "Distance
//! Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search",
//! arXiv:2505.15636); an [`Extent`] says both.
//!
//! Several visits may tell of one vertex, each by an estimate of its own. Their
//! mean ([`Means`]) is nearer to the truth, so it decides what comes into the
//! pool, and what was put there by the first estimates is put back when a later
//! mean is larger: otherwise, those that are underestimated would be visited first.
//!
//! It is resumable: all neighbours that visits told of are kept aside, so that a
//! search can go on where it stopped ([`super::stream`]) and return the next nearest
//! vertices without visiting any vertex twice.

use memory::OutOfMemory;
use memory::vec::{copied, extend, push, reserve};

use super::layout::{HeapTid, NONE, Vertex};
use super::means::Means;
use super::sets::VertexSet;
use super::stream::Stream;
use crate::Error;

/// What a visit to a vertex finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visit {
    /// Whether the vertex has rows; if not, it is a way through.
    pub live: bool,
    /// Its ordering key for the query.
    pub key: f32,
    /// A lower bound of its distance, when rows are asked for.
    pub bound: f64,
    /// How good its estimates are, see [`super::codec::Codec::spread`]; 1 if they are
    /// exact.
    pub spread: f32,
    /// By how much the keys of vertices farther than all that are sought may be larger
    /// for them to be worth a visit: 0 if estimates are exact.
    pub slack: f32,
    /// The vertex of the same element one level down.
    pub below: Vertex,
}

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// So many vertices are visited, and others only within the [`Visit::slack`] of the
    /// last of these.
    pub ef: usize,
    /// So many vertices are known at most: the length of the pool.
    pub width: usize,
}

impl Extent {
    /// Of a search that visits the nearest `width` vertices it knows of.
    pub fn of_width(width: usize) -> Self {
        Extent { ef: width, width }
    }
}

/// Where a visit tells of the neighbours of a vertex.
pub struct Neighbours<'a> {
    /// Those whose distance is known already.
    pub seen: &'a VertexSet,
    /// Their numbers; [`NONE`] where there is none.
    pub numbers: &'a mut Vec<Vertex>,
    /// About their keys, in the same order; there may be more.
    pub estimates: &'a mut Vec<f32>,
}

/// A graph that a beam can walk: on pages, or in memory during a build.
pub trait Graph {
    /// What vertices are compared with.
    type Query: ?Sized;

    /// Whether the estimates of [`Graph::visit`] are the keys themselves; then
    /// it leaves out neighbours that were seen.
    fn is_exact(&self) -> bool;

    /// How far a search goes whose results become links.
    fn extent(&self, ef: usize) -> Extent;

    /// Compares a vertex with the query, tells of its neighbours, and appends
    /// its rows to `tids` when they are asked for. `None` if no vertex of this
    /// level is there (any more).
    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &Self::Query,
        tids: Option<&mut Vec<HeapTid>>,
        neighbours: &mut Neighbours<'_>,
    ) -> Result<Option<Visit>, Error>;

    /// The vertex of the same element one level down, or `NONE` if this one is
    /// gone.
    fn below(&self, vertex: Vertex, level: u8) -> Result<Vertex, Error>;

    /// Hints that a vertex of a level will be visited soon.
    fn prefetch(&self, vertex: Vertex, level: u8);
}

/// A vertex that a search found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its ordering key for the query.
    pub distance: f32,
    /// A lower bound of its distance, in the units of the SQL operator.
    pub bound: f64,
    /// Its number.
    pub vertex: Vertex,
    /// The vertex of the same element one level down.
    pub below: Vertex,
    /// So many vertices were visited before it, and itself.
    pub position: u32,
    /// Where its rows are in [`Beam::tids`].
    pub tids: (u32, u32),
}

/// A vertex in the pool.
#[derive(Clone, Copy)]
struct Candidate {
    key: f32,
    vertex: Vertex,
    visited: bool,
}

impl Candidate {
    /// A vertex that was not visited.
    fn new(key: f32, vertex: Vertex) -> Self {
        Candidate {
            key,
            vertex,
            visited: false,
        }
    }
}

/// What a beam does beside finding the nearest live vertices.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeamOptions {
    /// Vertices without rows count as results (to descend through them).
    pub passages_too: bool,
    /// Collect the rows of the vertices, and bounds.
    pub with_tids: bool,
    /// Keep all that visits tell of, so that the search can be resumed.
    pub resumable: bool,
}

/// What a search did, for `EXPLAIN`-like reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Vertices visited.
    pub visited: u64,
    /// Neighbours whose distance was estimated or computed.
    pub estimated: u64,
}

/// Visits for each of the vertices that are sought, about.
const VISITS: usize = 2;

/// What memory is asked for.
const SEARCH: &str = "a search";

/// A search with the default `ef` sees about so many vertices.
const SEEN: usize = 1000;

/// A search on one level for the vertices nearest to a query, which is the
/// same in every call.
pub struct Beam {
    level: u8,
    options: BeamOptions,
    /// The nearest known vertices, nearest first.
    pool: Vec<Candidate>,
    /// Everything in the pool before this index was visited.
    next: usize,
    /// Of the vertex visited last.
    slack: f32,
    /// Vertices that are or were in the pool; with exact estimates, all whose
    /// distance is known.
    seen: VertexSet,
    /// Every vertex visited.
    visited: Vec<Vertex>,
    /// All that visits told of, [`NONE`] too, for a search that is to go on.
    aside: Vec<(f32, Vertex)>,
    /// Of the estimates that visits told of; with exact ones, nothing.
    means: Means,
    /// Results that were not taken yet.
    found: Vec<Found>,
    tids: Vec<HeapTid>,
    counters: Counters,
    // Memory for what a visit tells.
    numbers: Vec<Vertex>,
    estimates: Vec<f32>,
}

impl Beam {
    /// A beam without a starting point yet.
    pub fn new(level: u8, options: BeamOptions) -> Self {
        Beam {
            level,
            options,
            pool: Vec::new(),
            next: 0,
            slack: f32::INFINITY,
            seen: VertexSet::with_capacity(0),
            visited: Vec::new(),
            aside: Vec::new(),
            means: Means::default(),
            found: Vec::new(),
            tids: Vec::new(),
            counters: Counters::default(),
            numbers: Vec::new(),
            estimates: Vec::new(),
        }
    }

    /// Makes this a new beam, in the memory that it already has. The counters
    /// go on.
    pub fn reset(&mut self, level: u8, options: BeamOptions) {
        self.level = level;
        self.options = options;
        self.pool.clear();
        self.next = 0;
        self.slack = f32::INFINITY;
        self.seen.clear();
        self.seen.reserve(SEEN);
        self.visited.clear();
        self.aside.clear();
        self.means.clear();
        self.found.clear();
        self.tids.clear();
    }

    /// Adds a starting point, which is visited first unless another one tells that
    /// it is far.
    pub fn start(&mut self, vertex: Vertex) {
        if self.seen.insert(vertex) {
            self.insert(f32::NEG_INFINITY, vertex);
        }
    }

    /// Visits vertices to the extent that is given.
    pub fn run<G: Graph>(
        &mut self,
        graph: &G,
        query: &G::Query,
        extent: Extent,
    ) -> Result<(), Error> {
        self.reserve(extent)?;
        if !graph.is_exact() {
            self.means.fit(extent.width.min(VISITS * extent.ef));
        }
        let mut on_its_way = NONE;
        while let Some(position) = self.next_to_visit(self.next) {
            self.next = position;
            if self.put_back(position) {
                continue;
            }
            // All before it were visited.
            if position >= extent.ef && self.pool[position].key > self.reach(extent.ef) {
                break;
            }
            let vertex = self.pool[position].vertex;
            // Where it came in by the last visit, all of it at once, before
            // the search needs one part after the other.
            if vertex != on_its_way {
                graph.prefetch(vertex, self.level);
            }
            if let Some(ahead) = self.next_to_visit(position + 1) {
                on_its_way = self.pool[ahead].vertex;
                graph.prefetch(on_its_way, self.level);
            }
            self.visit(graph, query, position, vertex)?;
            self.consider_all(graph.is_exact(), extent)?;
        }
        Ok(())
    }

    /// The largest key of a vertex that is worth a visit, as far as is known: of starting
    /// points that were not visited, nothing is.
    fn reach(&self, ef: usize) -> f32 {
        match self.pool.get(ef.saturating_sub(1)) {
            Some(last) if last.key > f32::NEG_INFINITY => last.key + self.slack,
            _ => f32::INFINITY,
        }
    }

    /// Memory for a search of the usual length, at once instead of bit by bit.
    fn reserve(&mut self, extent: Extent) -> Result<(), OutOfMemory> {
        /// What a visit tells of, with the usual `m`.
        const NEIGHBOURS: usize = 32;
        let visits = VISITS * extent.ef + NEIGHBOURS;
        reserve(&mut self.pool, extent.width + 1, SEARCH)?;
        reserve(&mut self.visited, visits, SEARCH)?;
        reserve(&mut self.found, visits, SEARCH)?;
        if self.options.with_tids {
            reserve(&mut self.tids, visits, SEARCH)?;
        }
        if self.options.resumable {
            reserve(&mut self.aside, visits * NEIGHBOURS, SEARCH)?;
        }
        Ok(())
    }

    /// Puts the neighbours that the last visit told of into the pool, as far as
    /// they are near enough.
    fn consider_all(&mut self, is_exact: bool, extent: Extent) -> Result<(), OutOfMemory> {
        self.seen.make_room(self.numbers.len())?;
        let numbers = std::mem::take(&mut self.numbers);
        let estimates = std::mem::take(&mut self.estimates);
        if is_exact {
            self.seen.extend(numbers.iter().copied());
        }
        if self.options.resumable {
            let all = estimates.iter().zip(&numbers);
            extend(&mut self.aside, all.map(|(&e, &n)| (e, n)), SEARCH)?;
        }
        // Few are near, and which is not foreseen: a branch for each would
        // cost more than all else here.
        let chunks = numbers.chunks(AT_ONCE).zip(estimates.chunks(AT_ONCE));
        for (numbers, estimates) in chunks {
            let mut near = match self.limit(extent) {
                Some(limit) => nearer_than(limit, estimates),
                None => u32::MAX,
            };
            while near != 0 {
                let i = near.trailing_zeros() as usize;
                near &= near - 1;
                // There may be fewer numbers than estimates, or than bits.
                let Some(&number) = numbers.get(i) else {
                    break;
                };
                let limit = self.limit(extent);
                let is_near = limit.is_none_or(|limit| estimates[i] < limit);
                if is_near && (is_exact || self.seen.insert(number)) {
                    self.insert(estimates[i], number);
                    self.pool.truncate(extent.width);
                }
            }
        }
        self.numbers = numbers;
        self.estimates = estimates;
        Ok(())
    }

    /// What has smaller keys comes into the pool; all does, if `None`.
    fn limit(&self, extent: Extent) -> Option<f32> {
        let reach = self.reach(extent.ef);
        match self.pool.last() {
            Some(last) if self.pool.len() >= extent.width => Some(last.key.min(reach)),
            _ => (reach < f32::INFINITY).then_some(reach),
        }
    }

    /// Whether there are results to take.
    pub fn has_results(&self) -> bool {
        !self.found.is_empty()
    }

    /// Takes the nearest `limit` results out of the beam, nearest first. What
    /// remains can be taken later.
    pub fn take(&mut self, limit: usize) -> Result<Vec<Found>, OutOfMemory> {
        take_nearest(&mut self.found, limit)
    }

    /// Makes a search without a width one that goes on from here, with all that this one knows
    /// and found; the beam must be resumable.
    pub fn go_on(&mut self, stream: &mut Stream) -> Result<(), OutOfMemory> {
        for &vertex in &self.visited {
            stream.pass_over(vertex)?;
        }
        for (key, vertex) in std::mem::take(&mut self.aside) {
            stream.add(key, vertex)?;
        }
        let found = std::mem::take(&mut self.found);
        stream.take_over(found, std::mem::take(&mut self.tids));
        Ok(())
    }

    /// The rows that `Found::tids` point into.
    pub fn tids(&self, found: &Found) -> &[HeapTid] {
        &self.tids[found.tids.0 as usize..found.tids.1 as usize]
    }

    /// What all searches of this beam did.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        self.seen.memory()
            + self.visited.len() * (size_of::<Vertex>() + size_of::<Found>())
            + self.aside.len() * size_of::<(f32, Vertex)>()
            + self.means.memory()
            + self.tids.len() * size_of::<HeapTid>()
    }

    fn next_to_visit(&self, from: usize) -> Option<usize> {
        let rest = self.pool.get(from..)?;
        rest.iter().position(|c| !c.visited).map(|i| from + i)
    }

    /// Puts the vertex at a position of the pool behind others if it is farther than
    /// them by the mean of what is known of it; false if not.
    fn put_back(&mut self, position: usize) -> bool {
        let candidate = self.pool[position];
        let Some(mean) = self.means.get(candidate.vertex) else {
            return false;
        };
        if mean <= candidate.key {
            return false;
        }
        self.pool[position].key = mean;
        let behind = self.pool[position + 1..].partition_point(|c| c.key <= mean);
        self.pool[position..=position + behind].rotate_left(1);
        behind > 0
    }

    /// Visits the vertex at a position of the pool, which then has its place by
    /// its true key.
    fn visit<G: Graph>(
        &mut self,
        graph: &G,
        query: &G::Query,
        position: usize,
        vertex: Vertex,
    ) -> Result<(), Error> {
        let tids_from = self.tids.len() as u32;
        let tids = self.options.with_tids.then_some(&mut self.tids);
        self.numbers.clear();
        self.estimates.clear();
        let mut neighbours = Neighbours {
            seen: &self.seen,
            numbers: &mut self.numbers,
            estimates: &mut self.estimates,
        };
        let visit = graph.visit(vertex, self.level, query, tids, &mut neighbours)?;
        push(&mut self.visited, vertex, SEARCH)?;
        self.counters.visited += 1;
        self.counters.estimated += self.numbers.len() as u64;
        let Some(visit) = visit else {
            self.pool.remove(position);
            return Ok(());
        };
        self.slack = visit.slack;
        self.means
            .average(&self.numbers, &mut self.estimates, visit.spread);
        // A way through takes no place in the pool from what is sought.
        if !visit.live && !self.options.passages_too {
            self.pool.remove(position);
        } else {
            self.settle(position, visit.key);
            let found = Found {
                distance: visit.key,
                bound: visit.bound,
                vertex,
                below: visit.below,
                position: self.visited.len() as u32,
                tids: (tids_from, self.tids.len() as u32),
            };
            push(&mut self.found, found, SEARCH)?;
        }
        Ok(())
    }

    /// Gives a vertex in the pool its true key, and the place that goes with it.
    fn settle(&mut self, position: usize, key: f32) {
        let (before, rest) = self.pool.split_at(position);
        let new = if before.last().is_some_and(|c| c.key > key) {
            before.partition_point(|c| c.key <= key)
        } else {
            position + rest[1..].partition_point(|c| c.key <= key)
        };
        self.pool[position].key = key;
        self.pool[position].visited = true;
        if new < position {
            self.pool[new..=position].rotate_right(1);
        } else {
            self.pool[position..=new].rotate_left(1);
        }
    }

    /// Where a vertex with a key comes into the pool. Most come in near the end.
    fn place(&self, key: f32) -> usize {
        const STEP: usize = 16;
        let mut end = self.pool.len();
        while end > STEP && self.pool[end - STEP].key > key {
            end -= STEP;
        }
        let before = self.pool[..end].iter().rposition(|c| c.key <= key);
        before.map_or(0, |before| before + 1)
    }

    /// Puts a vertex into the pool, behind those at the same distance.
    fn insert(&mut self, key: f32, vertex: Vertex) {
        let position = self.place(key);
        self.pool.insert(position, Candidate::new(key, vertex));
        self.next = self.next.min(position);
    }
}

/// Takes the nearest `limit` of what was found, nearest first. What remains can be taken later.
pub fn take_nearest(found: &mut Vec<Found>, limit: usize) -> Result<Vec<Found>, OutOfMemory> {
    // As they were found, of those at the same distance; without memory for that.
    found.sort_unstable_by(|a, b| {
        let by_distance = a.distance.total_cmp(&b.distance);
        by_distance.then(a.position.cmp(&b.position))
    });
    let rest = copied(&found[limit.min(found.len())..], SEARCH)?;
    found.truncate(limit);
    Ok(std::mem::replace(found, rest))
}

/// Neighbours of which [`nearer_than`] tells at once.
const AT_ONCE: usize = u32::BITS as usize;

/// Which of up to [`AT_ONCE`] keys are nearer than a limit: a bit each, the first one lowest.
fn nearer_than(limit: f32, keys: &[f32]) -> u32 {
    let bits = |keys: &[f32]| {
        let bits = (0..).zip(keys).map(|(i, &key)| u32::from(key < limit) << i);
        bits.fold(0, |all, bit| all | bit)
    };
    // Of a number of keys that is known, all at once.
    match keys.first_chunk::<AT_ONCE>() {
        Some(whole) => bits(whole),
        None => bits(keys),
    }
}

/// The width of the beam on the last level of a way down, and so of what it leads
/// to. The paper walks with one vertex on every level; on data in clusters, that now
/// and then ends in the wrong cluster, and a search of level 0 does not get out of it.
pub const ENTRIES: usize = 3;

/// Walks from `entry` on level `from` down to level `to`, with a beam of `above` on
/// all levels but the last, and returns the vertices of `to` where a search should
/// start; none if the way was lost because vertices were removed meanwhile. It uses
/// the memory of `beam`.
pub fn descend<G: Graph>(
    graph: &G,
    beam: &mut Beam,
    query: &G::Query,
    entry: Vertex,
    (from, to): (u8, u8),
    above: usize,
) -> Result<Vec<Vertex>, Error> {
    let options = BeamOptions {
        passages_too: true,
        ..BeamOptions::default()
    };
    let mut entries = vec![entry];
    for level in (to + 1..=from).rev() {
        beam.reset(level, options);
        for entry in entries {
            beam.start(entry);
        }
        let width = if level == to + 1 { ENTRIES } else { above };
        beam.run(graph, query, Extent::of_width(width))?;
        entries = step_down(&beam.take(width)?);
    }
    Ok(entries)
}

/// The vertices that the nearest of those which were found stand on.
pub fn step_down(found: &[Found]) -> Vec<Vertex> {
    found.iter().take(ENTRIES).map(|f| f.below).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::told::Told;
    use super::*;

    fn visited(width: usize, visits: &[(f32, &[(Vertex, f32)])]) -> Vec<Vertex> {
        let graph = Told {
            visits,
            ..Told::default()
        };
        let mut beam = Beam::new(0, BeamOptions::default());
        beam.start(0);
        beam.run(&graph, &(), Extent::of_width(width)).unwrap();
        let visited = graph.visited.into_inner();
        visited.into_iter().map(|(_, vertex)| vertex).collect()
    }

    #[test]
    fn a_search_ends_where_nothing_is_within_its_slack() {
        let graph = || Told {
            visits: &[
                (9.0, &[(1, 1.0), (2, 2.0), (3, 2.375), (4, 2.625)]),
                (1.0, &[]),
                (2.0, &[(5, 2.4375), (6, 2.75)]),
                (2.25, &[]),
                (2.625, &[]),
                (3.0, &[]),
                (2.75, &[]),
            ],
            slack: 0.5,
            ..Told::default()
        };
        let visited = |graph: Told<'_>| graph.visited.into_inner().into_iter().map(|(_, v)| v);
        let mut beam = Beam::new(
            0,
            BeamOptions {
                resumable: true,
                ..BeamOptions::default()
            },
        );
        beam.start(0);
        let (first, extent) = (graph(), Extent { ef: 2, width: 9 });
        beam.run(&first, &(), extent).unwrap();
        // 4 and 6 do not even come into the pool, in which there is room.
        assert_eq!(visited(first).collect::<Vec<_>>(), [0, 1, 2, 3, 5]);
        let pool: Vec<_> = beam.pool.iter().map(|c| c.vertex).collect();
        assert_eq!(pool, [1, 2, 3, 5, 0]);
        let found = |beam: &mut Beam| {
            beam.take(9)
                .unwrap()
                .iter()
                .map(|f| f.vertex)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&mut beam), [1, 2, 3, 5, 0]);
        // Both wait for the search to go on.
        let (second, mut stream) = (graph(), Stream::new(false, 0));
        beam.go_on(&mut stream).unwrap();
        while stream.visit_next(&second, &()).unwrap() {}
        assert_eq!(visited(second).collect::<Vec<_>>(), [4, 6]);

        // Without, only the width ends it.
        beam.reset(0, BeamOptions::default());
        beam.start(0);
        let all = graph();
        beam.run(&all, &(), Extent::of_width(9)).unwrap();
        assert_eq!(visited(all).collect::<Vec<_>>(), [0, 1, 2, 3, 5, 4, 6]);
    }

    #[test]
    fn starting_points_that_wait_are_no_reason_to_end() {
        let graph = Told {
            visits: &[(1.0, &[(3, 0.5)]), (9.0, &[]), (9.0, &[]), (0.5, &[])],
            ..Told::default()
        };
        let mut beam = Beam::new(0, BeamOptions::default());
        (0..3).for_each(|vertex| beam.start(vertex));
        beam.run(&graph, &(), Extent { ef: 2, width: 9 }).unwrap();
        assert!(graph.visited.into_inner().contains(&(0, 3)));
        assert_eq!(beam.take(1).unwrap()[0].vertex, 3);
    }

    #[test]
    fn what_is_too_far_for_numbers_comes_into_a_pool_that_has_room() {
        let visits: [(f32, &[(Vertex, f32)]); 3] = [
            (1.0, &[(1, f32::INFINITY), (2, f32::INFINITY)]),
            (2.0, &[]),
            (3.0, &[]),
        ];
        assert_eq!(visited(3, &visits), [0, 1, 2]);
        assert_eq!(visited(2, &visits), [0, 1]);
    }

    #[test]
    fn a_way_down_is_as_wide_as_it_is_asked_to_be_above_its_last_level() {
        let graph = || Told {
            visits: &[
                (10.0, &[(1, 5.0), (2, 6.0), (3, 7.0), (4, 8.0)]),
                (5.0, &[(0, 10.0), (2, 6.0), (3, 7.0), (4, 8.0)]),
                (6.0, &[]),
                (7.0, &[]),
                (8.0, &[]),
            ],
            ..Told::default()
        };
        let mut beam = Beam::new(0, BeamOptions::default());
        let mut visited = |above| {
            let graph = graph();
            let entries = descend(&graph, &mut beam, &(), 0, (3, 0), above).unwrap();
            assert_eq!(entries, [1, 2, 3]);
            graph.visited.into_inner()
        };
        let last = [(1, 1), (1, 2), (1, 3)];
        assert_eq!(visited(1), [&[(3, 0), (3, 1), (2, 1)][..], &last].concat());
        let above = [(3, 0), (3, 1), (3, 2), (2, 1), (2, 2)];
        assert_eq!(visited(2), [&above[..], &last].concat());
    }

    #[test]
    fn a_vertex_comes_into_the_pool_behind_those_at_the_same_distance() {
        let mut beam = Beam::new(0, BeamOptions::default());
        for len in 0..70_u32 {
            // Two of each key, two of them nearer than any.
            let keys = (0..len).map(|i| match i / 2 {
                0 => f32::NEG_INFINITY,
                half => half as f32,
            });
            beam.pool.clear();
            let candidates = keys.enumerate();
            let candidates = candidates.map(|(i, key)| Candidate::new(key, i as Vertex));
            beam.pool.extend(candidates);
            for twice in -2..80 {
                let key = twice as f32 / 2.0;
                let expected = beam.pool.partition_point(|c| c.key <= key);
                assert_eq!(beam.place(key), expected, "{key} of {len}");
            }
            assert_eq!(beam.place(f32::NEG_INFINITY), 2.min(len as usize));
            assert_eq!(beam.place(f32::INFINITY), len as usize);
        }
    }

    #[test]
    fn of_any_number_of_neighbours_those_that_are_near_come_into_the_pool() {
        for count in [1, 31, 32, 33, 40, 64, 70] {
            let mut beam = Beam::new(0, BeamOptions::default());
            let mut of = |numbers: Vec<Vertex>, estimates: Vec<f32>| {
                (beam.numbers, beam.estimates) = (numbers, estimates);
                beam.consider_all(false, Extent::of_width(3)).unwrap();
                beam.pool.iter().map(|c| c.vertex).collect::<Vec<_>>()
            };
            assert_eq!(
                of(vec![1000, 1001, 1002], vec![1.0, 3.0, 2.0]),
                [1000, 1002, 1001]
            );
            // The last one is nearest, but for estimates of nothing.
            let numbers: Vec<Vertex> = (0..count).collect();
            let mut estimates = vec![5.0; count as usize];
            estimates[count as usize - 1] = 0.5;
            estimates.resize(count.next_multiple_of(32) as usize, 0.0);
            assert_eq!(of(numbers, estimates), [count - 1, 1000, 1002]);
        }
    }

    #[test]
    fn what_was_underestimated_waits_for_what_is_nearer_by_its_mean() {
        // 2 seems to be at 2 first, at 9 then: 5.5.
        let later = [(2, 9.0), (3, 4.0)];
        let visits: [(f32, &[(Vertex, f32)]); 4] = [
            (10.0, &[(1, 1.0), (2, 2.0)]),
            (1.0, &later),
            (8.0, &[]),
            (4.0, &[]),
        ];
        assert_eq!(visited(4, &visits), [0, 1, 3, 2]);
        // Where the pool is full of nearer ones by then, it is not visited at all.
        let later = [(2, 9.0), (3, 2.5)];
        let visits: [(f32, &[(Vertex, f32)]); 5] = [
            (3.0, &[(1, 1.0), (2, 2.0)]),
            (1.0, &later),
            (8.0, &[]),
            (2.5, &[(4, 4.0)]),
            (4.0, &[]),
        ];
        assert_eq!(visited(3, &visits), [0, 1, 3, 4]);
    }

    #[test]
    fn what_comes_into_the_pool_does_so_by_its_mean() {
        // 2 seems to be at 8 first, which is too far, and at 0 then: 4, which is not.
        let first = [(1, 1.0), (2, 8.0)];
        let visits: [(f32, &[(Vertex, f32)]); 3] = [(5.0, &first), (1.5, &[(2, 0.0)]), (4.0, &[])];
        assert_eq!(visited(2, &visits), [0, 1, 2]);
        // Now it is, though the second estimate alone is not.
        let visits: [(f32, &[(Vertex, f32)]); 3] = [(3.0, &first), (1.5, &[(2, 0.0)]), (4.0, &[])];
        assert_eq!(visited(2, &visits), [0, 1]);
    }
}
