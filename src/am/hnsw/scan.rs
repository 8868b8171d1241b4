//! `ambeginscan`, `amrescan`, `amgettuple`, `amendscan`: rows in order of
//! their distance to a query.

#![allow(unsafe_code)]

use ann::HeapTid;
use ann::hnsw::order::{Order, Ordered};
use ann::hnsw::{AnyQuery, Code, Codec, Scan, Storage};
use memory::vec::push;
use pgrx::prelude::*;

use super::{index as open_index, reader};
use crate::allocator;
use crate::am::counters::{Counters, Ended, Totals, Width};
use crate::am::open::{self, RowContext};
use crate::am::scan as common;
use crate::errors::unwrap_index;
use crate::settings::{
    EF_SEARCH, ITERATIVE_SCAN, IterativeScan, MAX_SCAN_TUPLES, SCAN_MEM_MULTIPLIER,
};
use crate::storage::{RelationPages, RowsAhead};

/// What a search knows of and has not visited takes at most such a part of its memory.
const PART_WAITING: usize = 4;

/// What memory is asked for.
const ROWS: &str = "the rows of a search";

/// A search under way.
pub struct Search {
    scan: Scan<AnyQuery>,
    /// Rows are returned in the order of a lower bound of their distance, and
    /// the executor puts them into the exact order.
    by_bound: bool,
    mode: IterativeScan,
    ef: usize,
    /// Rows of the present round that were not returned yet, the next one last,
    /// each with what it is ordered by.
    rows: Vec<(f64, HeapTid)>,
    /// The first of them, on their way into memory.
    ahead: RowsAhead,
    /// Rows returned since their visibility was last looked at; not kept by an
    /// iterative scan, which does not ask.
    returned: Vec<HeapTid>,
    /// Rows returned before, and visible.
    visible: usize,
    ordered: Ordered,
    finished: bool,
    /// Rounds so far, and rows returned.
    rounds: u64,
    row_count: u64,
    /// Why there are no more rows than those that were found; `None` while there may be.
    ended: Option<Ended>,
    /// All of them were returned, and more were asked for.
    is_used_up: bool,
}

/// Begins a scan; the query comes with `amrescan`.
#[pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller gives an open index.
    unsafe { common::begin::<Search>(index, keys, order_bys) }
}

/// Begins the scan anew with another query.
#[pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    _keys: pg_sys::ScanKey,
    _key_count: i32,
    order_bys: pg_sys::ScanKey,
    order_by_count: i32,
) {
    // SAFETY: the arrays have the lengths that the scan was begun with.
    unsafe {
        common::rescan::<Search>(scan, order_bys, order_by_count);
    }
}

/// Ends the scan; the memory context frees the rest.
#[pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: `ambeginscan` made the state.
    unsafe { common::end::<Search>(scan) }
}

/// The next row.
#[pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: the executor gives a scan of this access method with its index
    // open; the state is not used by anybody else.
    unsafe {
        let index = (*scan).indexRelation;
        let state = common::state::<Search>(scan);
        let search = match &mut state.search {
            Some(search) => search,
            None => state.search.insert(begin(scan)),
        };
        if search.rows.is_empty() && !search.finished && !search.may_go_on(scan) {
            search.finished = true;
            search.ended.get_or_insert(Ended::Width);
        }
        if search.rows.is_empty() && !search.finished {
            let name = open::name(index);
            let pages = RelationPages::new(index);
            search.fill(&pages, &name);
        }
        let Some((bound, tid)) = search.rows.pop() else {
            search.is_used_up = true;
            return false;
        };
        search.row_count += 1;
        let upcoming = search.rows.iter().rev().map(|&(_, tid)| tid);
        search.ahead.advance((*scan).heapRelation, upcoming);
        if search.mode == IterativeScan::Off {
            allocator::unwrap(push(&mut search.returned, tid, ROWS));
        }
        common::return_row(scan, tid, bound, search.by_bound);
        true
    }
}

/// Reads the query of a scan. What the server allocates for that is freed at once:
/// a scan may begin anew for each row of another table.
unsafe fn begin(scan: pg_sys::IndexScanDesc) -> Search {
    // SAFETY: as in `amgettuple`.
    let work = || unsafe {
        let index = (*scan).indexRelation;
        let query = common::query(scan);
        let pages = RelationPages::new(index);
        let graph = open_index(&pages, &open::name(index));
        let query = query.and_then(|query| {
            let reader = reader(index, &graph);
            graph.codec().query(reader.read(query).as_vector())
        });
        let by_bound = query.is_some()
            && graph.options().storage != Storage::Plain
            && common::has_cheap_key(index);
        // Nothing is nearer than anything else to NULL, or by its angle to
        // zero: any query will do.
        let query = query.unwrap_or_else(|| {
            let nothing = Code::zeroed(graph.codec().code_len());
            graph.codec().query_of_code(nothing.bytes())
        });
        let mode = ITERATIVE_SCAN.get();
        let order = match mode {
            IterativeScan::Off => Order::Once,
            IterativeScan::RelaxedOrder => Order::Relaxed,
            IterativeScan::StrictOrder => Order::Strict,
        };
        Search {
            scan: Scan::new(query).within(room() / PART_WAITING),
            by_bound,
            mode,
            ef: EF_SEARCH.get() as usize,
            rows: Vec::new(),
            ahead: RowsAhead::default(),
            returned: Vec::new(),
            visible: 0,
            ordered: Ordered::new(order, by_bound),
            finished: false,
            rounds: 0,
            row_count: 0,
            ended: None,
            is_used_up: false,
        }
    };
    // SAFETY: a search has no reference into the context, which is used here alone.
    unsafe { RowContext::new().run(work) }
}

/// Begins the search of a scan and walks down to level 0 of the graph; after
/// each of the two, `look` sees what the search did. The scan goes on from there
/// as if it had done so itself.
///
/// # Safety
///
/// `scan` is a scan of an hnsw index, with its query.
pub unsafe fn enter(scan: pg_sys::IndexScanDesc, look: &mut dyn FnMut(Counters)) {
    // SAFETY: as in `amgettuple`.
    unsafe {
        let search = begin(scan);
        let search = common::state::<Search>(scan).search.insert(search);
        look(search.counters());
        let pages = RelationPages::new((*scan).indexRelation);
        let name = open::name((*scan).indexRelation);
        let graph = open_index(&pages, &name);
        unwrap_index(search.scan.enter(&graph), &name);
        look(search.counters());
    }
}

/// How far a search goes with the present settings.
pub fn width() -> Width {
    width_of(EF_SEARCH.get() as usize, ITERATIVE_SCAN.get())
}

fn width_of(ef: usize, mode: IterativeScan) -> Width {
    Width {
        width: ef as u32,
        setting: ef as i32,
        iterative_scan: mode.name(),
    }
}

impl common::Search for Search {
    fn totals(&self) -> Totals {
        let ended = self.ended.filter(|_| self.is_used_up);
        Totals {
            rounds: self.rounds,
            vertices: self.counters(),
            rows: self.row_count,
            ..Totals::of_one(ended.unwrap_or(Ended::NotAsked))
        }
    }

    fn width(&self) -> Width {
        width_of(self.ef, self.mode)
    }
}

impl Search {
    fn counters(&self) -> Counters {
        let counters = self.scan.counters();
        Counters {
            visited: counters.visited,
            estimated: counters.estimated,
        }
    }

    /// Searches until there is a row to return, or there are no more.
    fn fill(&mut self, pages: &RelationPages<'_>, name: &str) {
        let graph = open_index(pages, name);
        unwrap_index(self.scan.enter(&graph), name);
        let before = self.scan.counters().visited;
        while self.rows.is_empty() && !self.finished {
            let mut limit = None;
            let round =
                (self.ordered).next_round(&mut self.scan, &graph, self.ef, |scan, memory| {
                    limit = limit_of(scan, memory);
                    limit.is_some()
                });
            self.rows = unwrap_index(round, name);
            self.rounds += 1;
            self.finished = self.ordered.is_finished();
            if self.finished {
                self.ended = Some(limit.unwrap_or(Ended::Everything));
            }
        }
        if self.mode == IterativeScan::Off && self.rounds == 1 {
            // It is not asked for more, whatever the limits; but there is no more where
            // fewer were to be seen.
            let seen = self.scan.counters().visited - before;
            self.ended = match seen < graph.search_extent(self.ef).ef as u64 {
                true => Some(Ended::Everything),
                false => Some(Ended::Width),
            };
        }
        self.rows.reverse();
    }

    /// Whether the scan may begin one more round: its first one; if it is
    /// iterative, any; if not, one to make up for rows that this snapshot does
    /// not see, so that deleted rows never crowd out others.
    unsafe fn may_go_on(&mut self, scan: pg_sys::IndexScanDesc) -> bool {
        if self.scan.is_new() || self.mode != IterativeScan::Off {
            return true;
        }
        let before = self.returned.len();
        // SAFETY: the executor gives the table of the index, and a snapshot.
        let is_visible = |tid: &HeapTid| unsafe {
            pg_sys::table_index_fetch_tuple_check(
                (*scan).heapRelation,
                &mut open::item_pointer(*tid),
                (*scan).xs_snapshot,
                std::ptr::null_mut(),
            )
        };
        let visible = self.returned.drain(..).filter(is_visible).count();
        self.visible += visible;
        visible < before && self.visible < self.ef
    }
}

/// The limit that a search that takes so much memory has reached.
fn limit_of(scan: &Scan<AnyQuery>, memory: usize) -> Option<Ended> {
    if scan.counters().visited >= MAX_SCAN_TUPLES.get() as u64 {
        return Some(Ended::Most);
    }
    (memory >= room()).then_some(Ended::Memory)
}

/// Bytes of memory that a search may take.
fn room() -> usize {
    // SAFETY: reads a setting.
    let work_mem = unsafe { pg_sys::work_mem } as f64 * 1024.0;
    (work_mem * SCAN_MEM_MULTIPLIER.get()) as usize
}
