//! What the searches of a scan did, for whoever explains it.

use std::ops::AddAssign;

/// What was looked at.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    /// Vertices visited; of lists, centroids or rows looked up.
    pub visited: u64,
    /// Neighbours whose distance was estimated or computed; of lists, centroids or rows
    /// whose distance was estimated.
    pub estimated: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.visited += other.visited;
        self.estimated += other.estimated;
    }
}

/// Why a search ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The executor had enough.
    NotAsked,
    /// As many rows were found as the width of a search that is not iterative, or as many
    /// lists were read.
    Width,
    /// An iterative search visited as many vertices, or read as many lists, as it may.
    Most,
    /// An iterative search took as much memory as it may.
    Memory,
    /// Nothing is left.
    Everything,
}

impl Ended {
    /// All of them, in the order of their numbers.
    pub const ALL: [Ended; 5] = [
        Ended::NotAsked,
        Ended::Width,
        Ended::Most,
        Ended::Memory,
        Ended::Everything,
    ];
}

/// What searches did, together.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    /// Searches: one for each row of another table that the scan is begun anew for.
    pub searches: u64,
    /// Times that they looked for rows, or for lists to read.
    pub rounds: u64,
    /// Lists read.
    pub lists: u64,
    /// Centroids of lists.
    pub centroids: Counters,
    /// Vertices of a graph, or rows of lists.
    pub vertices: Counters,
    /// Rows returned to the executor, which fetches each of them.
    pub rows: u64,
    /// Searches by why they ended, in the order of [`Ended::ALL`].
    pub ended: [u64; Ended::ALL.len()],
}

impl Totals {
    /// Everything that was looked at.
    pub fn counters(&self) -> Counters {
        let mut all = self.vertices;
        all += self.centroids;
        all
    }

    /// Those of one search, which ended so.
    pub fn of_one(ended: Ended) -> Self {
        let mut totals = Totals {
            searches: 1,
            ..Totals::default()
        };
        totals.ended[ended as usize] = 1;
        totals
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.searches += other.searches;
        self.rounds += other.rounds;
        self.lists += other.lists;
        self.centroids += other.centroids;
        self.vertices += other.vertices;
        self.rows += other.rows;
        for (mine, others) in self.ended.iter_mut().zip(other.ended) {
            *mine += others;
        }
    }
}

/// How far a search goes: what the settings said when it began.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// Vertices that a search looks for, or lists that it reads, at a time.
    pub width: u32,
    /// The value of the setting.
    pub setting: i32,
    /// What it does then, by the value of that setting.
    pub iterative_scan: &'static str,
}
