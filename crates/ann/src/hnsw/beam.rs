//! Best-first search on one level of a graph.
//!
//! Algorithm 2 of Malkov and Yashunin, made resumable: what falls out of the
//! beam is kept aside, so that a search can go on where it stopped and return
//! the next nearest vertices without visiting any vertex twice.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rustc_hash::FxHashSet;

use super::layout::{HeapTid, NONE, Vertex};
use crate::Error;

/// What a visit to a vertex finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Visit {
    /// No vertex of this level is there (any more).
    Absent,
    /// A vertex without rows, at this distance: a way through, not a result.
    Passage(f32),
    /// A vertex with rows, at this distance.
    Live(f32),
}

/// A graph that a beam can walk: on pages, or in memory during a build.
pub trait Graph {
    /// Compares a vertex with the query, and appends its rows to `tids` when
    /// they are asked for.
    fn visit(
        &self,
        vertex: Vertex,
        level: u8,
        query: &[u8],
        tids: Option<&mut Vec<HeapTid>>,
    ) -> Result<Visit, Error>;

    /// Puts the neighbours of a vertex into `out`; none if it is no longer a
    /// vertex of this level.
    fn neighbours(&self, vertex: Vertex, level: u8, out: &mut Vec<Vertex>) -> Result<(), Error>;

    /// The vertex of the same element one level down, or `NONE` if this one is
    /// gone.
    fn below(&self, vertex: Vertex, level: u8) -> Result<Vertex, Error>;

    /// Hints that a vertex will be visited soon.
    fn prefetch(&self, vertex: Vertex);
}

/// A vertex that a search found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its ordering key for the query.
    pub distance: f32,
    /// Its number.
    pub vertex: Vertex,
    /// Where its rows are in [`Beam::tids`].
    pub tids: (u32, u32),
}

/// A visited vertex in a heap: ordered by distance, then by age.
#[derive(Clone, Copy)]
struct Entry {
    distance: f32,
    node: u32,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then(self.node.cmp(&other.node))
    }
}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}

struct Node {
    found: Found,
    live: bool,
    expanded: bool,
}

/// What a beam does beside finding the nearest live vertices.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeamOptions {
    /// Vertices without rows count as results (to descend through them).
    pub passages_too: bool,
    /// Collect the rows of the vertices.
    pub with_tids: bool,
    /// Keep what falls out of the beam, so that it can be resumed.
    pub resumable: bool,
}

/// A search on one level for the vertices nearest to a query, which is the
/// same code in every call.
pub struct Beam {
    level: u8,
    options: BeamOptions,
    visited: FxHashSet<Vertex>,
    nodes: Vec<Node>,
    /// Visited, to be expanded; nearest first.
    frontier: BinaryHeap<Reverse<Entry>>,
    /// The results so far; farthest first.
    nearest: BinaryHeap<Entry>,
    /// Visited, neither result nor frontier now; nearest first.
    aside: BinaryHeap<Reverse<Entry>>,
    tids: Vec<HeapTid>,
    neighbours: Vec<Vertex>,
}

impl Beam {
    /// A beam without a starting point yet.
    pub fn new(level: u8, options: BeamOptions) -> Self {
        Beam {
            level,
            options,
            visited: FxHashSet::default(),
            nodes: Vec::new(),
            frontier: BinaryHeap::new(),
            nearest: BinaryHeap::new(),
            aside: BinaryHeap::new(),
            tids: Vec::new(),
            neighbours: Vec::new(),
        }
    }

    /// Makes this a new beam, in the memory that it already has.
    pub fn reset(&mut self, level: u8, options: BeamOptions) {
        self.level = level;
        self.options = options;
        self.visited.clear();
        // Room for what a usual search visits, so that the set rarely grows.
        self.visited.reserve(if level == 0 { 1024 } else { 128 });
        self.nodes.clear();
        self.frontier.clear();
        self.nearest.clear();
        self.aside.clear();
        self.tids.clear();
    }

    /// Visits a starting point, if there is such a vertex.
    pub fn start(&mut self, graph: &impl Graph, query: &[u8], vertex: Vertex) -> Result<(), Error> {
        if !self.visited.insert(vertex) {
            return Ok(());
        }
        if let Some(entry) = self.visit(graph, query, vertex)? {
            self.frontier.push(Reverse(entry));
            if self.nodes[entry.node as usize].live {
                self.nearest.push(entry);
            }
        }
        Ok(())
    }

    /// Expands vertices until the `ef` nearest results stand.
    pub fn run(&mut self, graph: &impl Graph, query: &[u8], ef: usize) -> Result<(), Error> {
        while let Some(&Reverse(next)) = self.frontier.peek() {
            if self.nearest.len() >= ef && self.worst().is_some_and(|w| next.distance > w) {
                break;
            }
            self.frontier.pop();
            let node = &mut self.nodes[next.node as usize];
            if std::mem::replace(&mut node.expanded, true) {
                continue;
            }
            let vertex = node.found.vertex;
            let mut neighbours = std::mem::take(&mut self.neighbours);
            neighbours.clear();
            graph.neighbours(vertex, self.level, &mut neighbours)?;
            neighbours.retain(|&n| self.visited.insert(n));
            for (i, &neighbour) in neighbours.iter().enumerate() {
                if let Some(&ahead) = neighbours.get(i + 2) {
                    graph.prefetch(ahead);
                }
                if let Some(entry) = self.visit(graph, query, neighbour)? {
                    self.consider(entry, ef);
                }
            }
            self.neighbours = neighbours;
        }
        Ok(())
    }

    /// Whether there are results to take.
    pub fn has_results(&self) -> bool {
        !self.nearest.is_empty()
    }

    /// Takes the results, nearest first, out of the beam. What remains can go
    /// on with [`Beam::resume`].
    pub fn take(&mut self) -> Vec<Found> {
        let mut found: Vec<Found> = std::iter::from_fn(|| self.nearest.pop())
            .map(|entry| self.nodes[entry.node as usize].found)
            .collect();
        found.reverse();
        found
    }

    /// Goes on after [`Beam::take`] until the next `ef` results stand; the
    /// beam must be resumable. Finds nothing when the graph is exhausted.
    pub fn resume(&mut self, graph: &impl Graph, query: &[u8], ef: usize) -> Result<(), Error> {
        while self.nearest.len() < ef {
            let Some(Reverse(entry)) = self.aside.pop() else {
                break;
            };
            let node = &self.nodes[entry.node as usize];
            if !node.expanded {
                self.frontier.push(Reverse(entry));
            }
            if node.live {
                self.nearest.push(entry);
            }
        }
        self.run(graph, query, ef)
    }

    /// The rows that `Found::tids` point into.
    pub fn tids(&self, found: &Found) -> &[HeapTid] {
        &self.tids[found.tids.0 as usize..found.tids.1 as usize]
    }

    /// Vertices visited so far.
    pub fn visited(&self) -> usize {
        self.visited.len()
    }

    /// Bytes of memory that the search holds, roughly.
    pub fn memory(&self) -> usize {
        // A hash set of u32 takes about 8 bytes an element, a heap entry 8.
        self.visited.len() * 8
            + self.nodes.len() * (size_of::<Node>() + 2 * size_of::<Entry>())
            + self.tids.len() * size_of::<HeapTid>()
    }

    fn worst(&self) -> Option<f32> {
        self.nearest.peek().map(|entry| entry.distance)
    }

    fn visit(
        &mut self,
        graph: &impl Graph,
        query: &[u8],
        vertex: Vertex,
    ) -> Result<Option<Entry>, Error> {
        let tids_from = self.tids.len() as u32;
        let tids = self.options.with_tids.then_some(&mut self.tids);
        let (distance, live) = match graph.visit(vertex, self.level, query, tids)? {
            Visit::Absent => return Ok(None),
            Visit::Passage(distance) => (distance, self.options.passages_too),
            Visit::Live(distance) => (distance, true),
        };
        let entry = Entry {
            distance,
            node: self.nodes.len() as u32,
        };
        self.nodes.push(Node {
            found: Found {
                distance,
                vertex,
                tids: (tids_from, self.tids.len() as u32),
            },
            live,
            expanded: false,
        });
        Ok(Some(entry))
    }

    fn consider(&mut self, entry: Entry, ef: usize) {
        let full = self.nearest.len() >= ef;
        if full && self.worst().is_some_and(|w| entry.distance >= w) {
            if self.options.resumable {
                self.aside.push(Reverse(entry));
            }
            return;
        }
        self.frontier.push(Reverse(entry));
        if !self.nodes[entry.node as usize].live {
            return;
        }
        self.nearest.push(entry);
        if self.nearest.len() > ef
            && let Some(evicted) = self.nearest.pop()
            && self.options.resumable
        {
            self.aside.push(Reverse(evicted));
        }
    }
}

/// The width of the beam on the way down. The paper walks with one vertex; on
/// data in clusters, such a walk now and then ends in the wrong cluster, and a
/// search of level 0 does not get out of it.
const DESCENT: usize = 4;

/// Walks from `entry` on level `from` down to level `to`, and returns the
/// vertices of `to` where a search should start; none if the way was lost
/// because vertices were removed meanwhile. It uses the memory of `beam`.
pub fn descend(
    graph: &impl Graph,
    beam: &mut Beam,
    query: &[u8],
    entry: Vertex,
    from: u8,
    to: u8,
) -> Result<Vec<Vertex>, Error> {
    let options = BeamOptions {
        passages_too: true,
        ..BeamOptions::default()
    };
    let mut entries = vec![entry];
    for level in (to + 1..=from).rev() {
        beam.reset(level, options);
        for entry in entries {
            beam.start(graph, query, entry)?;
        }
        beam.run(graph, query, DESCENT)?;
        entries = step_down(graph, level, &beam.take())?;
    }
    Ok(entries)
}

/// The vertices that those which were found on a level stand on.
pub fn step_down(graph: &impl Graph, level: u8, found: &[Found]) -> Result<Vec<Vertex>, Error> {
    let mut below = Vec::with_capacity(found.len().min(DESCENT));
    for found in found.iter().take(DESCENT) {
        let vertex = graph.below(found.vertex, level)?;
        if vertex != NONE {
            below.push(vertex);
        }
    }
    Ok(below)
}
