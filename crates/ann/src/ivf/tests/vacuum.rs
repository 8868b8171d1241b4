//! Sparse lists give their pages back.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fixture::*;
use crate::Metric;
use crate::ivf::chain::Chain;
use crate::ivf::index::List;
use crate::ivf::layout::{Header, Kind, Link};
use crate::mem_pages::MemPages;
use crate::page::PageStore;
use crate::quantize::extended::Bits;

const ROWS: u64 = 6000;

fn dies(tid: u64) -> bool {
    !tid.is_multiple_of(4)
}

fn living() -> Vec<u64> {
    (1..=ROWS).filter(|&tid| !dies(tid)).collect()
}

fn sample(store: &MemPages) -> Vec<Vec<f32>> {
    let mut rng = SmallRng::seed_from_u64(31);
    let rows = clustered(&mut rng, ROWS as usize, 100);
    built(store, &options(Metric::L2, 100, Bits::Eight), &rows, 5);
    rows
}

#[test]
fn pages_of_sparse_lists_are_used_again() {
    let store = MemPages::new();
    let rows = sample(&store);
    let index = open(&store);
    let pages = index.check(&mut |_, _, _| {}).unwrap().pages;
    // Few rows less: everything stays where it is.
    let counts = index.remove(&mut |tid| tid.0.is_multiple_of(3)).unwrap();
    assert_eq!((counts.unlinked, counts.unused), (0, 0));
    let counts = index
        .remove(&mut |tid| dies(tid.0) || tid.0 > 3000)
        .unwrap();
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.rows, counts.remaining);
    assert!(report.pages < pages / 3, "{} of {pages}", report.pages);
    let unlinked = counts.unlinked;
    assert_eq!(counts.unused, unlinked);
    // Somebody may still read them.
    for _ in 0..2 {
        let counts = index.remove(&mut |_| false).unwrap();
        assert_eq!((counts.unused, counts.free), (unlinked, 0));
    }
    store.tick();
    let counts = index.remove(&mut |_| false).unwrap();
    assert_eq!((counts.unused, counts.free), (unlinked, unlinked));
    // As many rows find room on them.
    let blocks = store.block_count();
    insert_all(&index, &rows, ROWS + 1);
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.rows, 500 + ROWS);
    assert!(store.block_count() <= blocks + 3);
}

#[test]
fn a_scan_goes_on_over_the_pages_that_a_list_had() {
    for by_bound in [false, true] {
        let store = MemPages::new();
        let rows = sample(&store);
        let index = open(&store);
        let mut scan = scan(&index, &rows[3], by_bound);
        assert!(scan.take_lists(&index, 5).unwrap());
        let mut found: Vec<u64> = Vec::new();
        for _ in 0..5 {
            found.push(scan.next_row(&index).unwrap().unwrap().tid.0);
        }
        assert_eq!(found[0], 4);
        let counts = index.remove(&mut |tid| dies(tid.0)).unwrap();
        assert!(counts.unlinked > 0);
        // Lists have other pages now, on which there are other rows too.
        insert_all(&index, &rows[..100], ROWS + 1);
        index.remove(&mut |_| false).unwrap();
        while let Some(row) = scan.next_row(&index).unwrap() {
            found.push(row.tid.0);
        }
        // Each row that stays, once.
        found.retain(|&tid| !dies(tid));
        found.sort_unstable();
        assert_eq!(found, living(), "{by_bound}");
    }
}

/// As on a server that replays the log of another, where scans are under way that this one
/// knows nothing of.
#[test]
fn a_scan_tells_that_pages_were_used_anew_under_it() {
    let store = MemPages::new();
    let rows = sample(&store);
    let index = open(&store);
    let mut scan = scan(&index, &rows[3], true);
    assert!(scan.take_lists(&index, 5).unwrap());
    assert_eq!(scan.next_row(&index).unwrap().unwrap().tid.0, 4);
    index.remove(&mut |tid| dies(tid.0)).unwrap();
    store.tick();
    index.remove(&mut |_| false).unwrap();
    // Pages of the same lists, at other places of these.
    insert_all(&index, &rows, ROWS + 1);
    let told = loop {
        match scan.next_row(&index) {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(
        matches!(told, Some(crate::Error::NotOfList { .. })),
        "{told:?}"
    );
}

/// The same, if the scan has not come to the list yet, whose first page is one of the others
/// now.
#[test]
fn a_list_does_not_begin_with_a_page_that_is_not_its_first() {
    let store = MemPages::new();
    let mut rng = SmallRng::seed_from_u64(32);
    let rows = clustered(&mut rng, 4000, 100);
    let options = options(Metric::L2, 100, Bits::Eight);
    let index = built(&store, &options, &rows, 1);
    let (list, before) = lists(&index)[0];
    index.remove(&mut |tid| dies(tid.0)).unwrap();
    store.tick();
    index.remove(&mut |_| false).unwrap();
    insert_all(&index, &rows, ROWS + 1);
    insert_all(&index, &rows, 2 * ROWS + 1);
    let (_, now) = lists(&index)[0];
    let begin = |block| {
        Chain::new(list.number, block, None)
            .next(&index)
            .map(|_| ())
    };
    assert_eq!(begin(now.head), Ok(()));
    // Any of the pages of before may have been the first one.
    let again = |&block: &u32| Header::of(&store.read(block).unwrap()).kind() == Some(Kind::List);
    let again: Vec<u32> = (before.head..now.head).filter(again).collect();
    assert!(again.len() > 2, "{again:?}");
    for block in again {
        let list = list.number;
        assert_eq!(begin(block), Err(crate::Error::NotOfList { block, list }));
    }
}

#[test]
fn a_list_without_rows_has_no_pages() {
    let store = MemPages::new();
    let rows = sample(&store);
    let index = open(&store);
    index.remove(&mut |_| true).unwrap();
    assert!(lists(&index).iter().all(|(_, link)| *link == Link::EMPTY));
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!((report.problems, report.rows), (vec![], 0));
    let mut scan = scan(&index, &rows[0], true);
    assert!(scan.take_lists(&index, 5).unwrap());
    assert!(scan.next_row(&index).unwrap().is_none());
    insert_all(&index, &rows[..50], 1);
    assert_eq!(all_rows(&index, &rows[7], 5, true)[0].1, 8);
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!((report.problems, report.rows), (vec![], 50));
}

/// A page that was closed by a vacuum that did not end takes rows again after the next one.
#[test]
fn closed_pages_are_opened() {
    let store = MemPages::new();
    sample(&store);
    let index = open(&store);
    let before = store.records();
    index.remove(&mut |tid| dies(tid.0)).unwrap();
    // The first list was closed in part.
    let is_closed = |store: &MemPages| {
        let is_closed = |(_, link): &(List, Link)| {
            let page = store.read(link.head).unwrap();
            Header::of(&page).kind() == Some(Kind::Closed)
        };
        lists(&open(store)).iter().any(is_closed)
    };
    let closed = (before..store.records()).find(|&records| is_closed(&store.replay(records)));
    let crashed = store.replay(closed.unwrap());
    let index = open(&crashed);
    // It is not sparse any more.
    let rows = clustered(&mut SmallRng::seed_from_u64(31), ROWS as usize, 100);
    insert_all(&index, &rows, ROWS + 1);
    index.remove(&mut |_| false).unwrap();
    assert!(!is_closed(&crashed));
    assert_eq!(index.check(&mut |_, _, _| {}).unwrap().problems, []);
}

/// Where nobody else is there, a table that is replaced again and again needs no more pages
/// than the first time.
#[test]
fn an_index_that_is_replaced_does_not_grow() {
    let store = MemPages::new();
    let rows = sample(&store);
    let index = open(&store);
    store.set_alone(true);
    let blocks = store.block_count();
    for cycle in 1..4 {
        let counts = index.remove(&mut |_| true).unwrap();
        assert_eq!(counts.remaining, 0);
        assert_eq!(counts.free, counts.unused);
        insert_all(&index, &rows, cycle * ROWS + 1);
        let report = index.check(&mut |_, _, _| {}).unwrap();
        assert_eq!((report.problems, report.rows), (vec![], ROWS));
        // Lists that were filled row by row may have their last pages elsewhere.
        assert!(
            store.block_count() <= blocks + blocks / 10,
            "{} {blocks}",
            store.block_count()
        );
    }
    // New rows first, then the old ones go: lists are written anew where others were.
    insert_all(&index, &rows, 4 * ROWS + 1);
    let blocks = store.block_count();
    for cycle in 4..7 {
        let counts = index.remove(&mut |tid| tid.0 <= cycle * ROWS).unwrap();
        assert_eq!((counts.remaining, counts.free), (ROWS, counts.unused));
        insert_all(&index, &rows, (cycle + 1) * ROWS + 1);
        assert_eq!(index.check(&mut |_, _, _| {}).unwrap().problems, []);
        // One of five lists is there twice while it is copied.
        assert!(
            store.block_count() <= blocks + blocks / 4,
            "{} {blocks}",
            store.block_count()
        );
    }
}

/// What a vacuum had to leave, inserts take when those have ended that could read it.
#[test]
fn inserts_take_pages_that_were_waiting() {
    let store = MemPages::new();
    let rows = sample(&store);
    let index = open(&store);
    let blocks = store.block_count();
    let counts = index.remove(&mut |_| true).unwrap();
    assert!(counts.unused > 0 && counts.free == 0);
    store.tick();
    insert_all(&index, &rows, ROWS + 1);
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!((report.problems, report.rows), (vec![], ROWS));
    assert!(
        store.block_count() <= blocks + 3,
        "{} {blocks}",
        store.block_count()
    );
    // While a scan is under way, inserts leave them to the next vacuum.
    let blocks = store.block_count();
    let counts = index.remove(&mut |_| true).unwrap();
    assert!(counts.unused > 0 && counts.free == 0);
    insert_all(&index, &rows[..1000], 2 * ROWS + 1);
    assert!(store.block_count() > blocks);
    store.tick();
    let counts = index.remove(&mut |_| false).unwrap();
    assert!(counts.free > 0 && counts.free == counts.unused);
    let blocks = store.block_count();
    insert_all(&index, &rows[1000..], 2 * ROWS + 1001);
    let report = index.check(&mut |_, _, _| {}).unwrap();
    assert_eq!((report.problems, report.rows), (vec![], ROWS));
    assert_eq!(store.block_count(), blocks);
}
