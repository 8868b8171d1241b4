//! Crash safety: after every prefix of the records of a build, inserts and vacuums,
//! the index is valid, answers queries, and can go on.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fixture::*;
use crate::Metric;
use crate::mem_pages::MemPages;
use crate::page::PageStore;
use crate::quantize::extended::Bits;

/// The rows that the index holds; it must be valid, and a scan of all lists must
/// return them.
fn rows_of(store: &MemPages, query: &[f32]) -> Vec<u64> {
    let index = open(store);
    let mut held = Vec::new();
    let report = index.check(&mut |tid, _, _| held.push(tid.0)).unwrap();
    assert_eq!(report.problems, []);
    held.sort_unstable();
    let mut found: Vec<u64> = all_rows(&index, query, 1000, true)
        .iter()
        .map(|r| r.1)
        .collect();
    found.sort_unstable();
    assert_eq!(found, held);
    held
}

#[test]
fn every_prefix_of_inserts_and_vacuums_is_a_valid_index() {
    let mut rng = SmallRng::seed_from_u64(21);
    // So many rows that code pages fill, or vectors so wide that few rows fill a page.
    for (metric, bits, dimension, count) in [
        (Metric::L2, Bits::Eight, 6, 900),
        (Metric::L2, Bits::Four, 1500, 150),
        (Metric::InnerProduct, Bits::Four, 1500, 150),
        (Metric::Cosine, Bits::Eight, 1500, 120),
        (Metric::Hamming, Bits::Eight, 8000, 150),
    ] {
        let vectors = clustered(&mut rng, count, dimension);
        let store = MemPages::new();
        let options = options(metric, dimension, bits);
        let index = built(&store, &options, &vectors[..20], 2);
        let mut complete = vec![store.records()];
        for (row, vector) in vectors.iter().enumerate().skip(20) {
            insert_all(&index, std::slice::from_ref(vector), row as u64 + 1);
            complete.push(store.records());
        }
        let inserted = store.records();
        let dies = |tid: u64| tid.is_multiple_of(3);
        index.remove(&mut |tid| dies(tid.0)).unwrap();
        assert!(store.records() > inserted + 4);
        for records in complete[0]..=store.records() {
            let crashed = store.replay(records);
            let done = 19 + complete.iter().filter(|&&c| c <= records).count() as u64;
            let held = rows_of(&crashed, &vectors[0]);
            // A row whose insert did not end may be there; one that was deleted may
            // be gone.
            let expected = |tid: &u64| *tid <= done && (records <= inserted || !dies(*tid));
            for tid in (1..=count as u64).filter(expected) {
                assert!(
                    held.contains(&tid),
                    "{options:?}, {records}: row {tid} is lost"
                );
            }
            assert!(held.iter().all(|&tid| tid <= done + 1));
            // Vacuum, and go on.
            let index = open(&crashed);
            index
                .remove(&mut |tid| dies(tid.0) || tid.0 > done)
                .unwrap();
            let living: Vec<u64> = (1..=done).filter(|&tid| !dies(tid)).collect();
            assert_eq!(rows_of(&crashed, &vectors[0]), living);
            insert_all(&index, &vectors[done as usize..], done + 1);
            let living = (1..=count as u64).filter(|&tid| tid > done || !dies(tid));
            assert_eq!(rows_of(&crashed, &vectors[0]), living.collect::<Vec<u64>>());
        }
    }
}

/// Sparse lists are written anew, and their pages are used again. After a crash at any
/// point, nothing is lost, and two vacuums make up for what did not end.
#[test]
fn every_prefix_of_writing_lists_anew_is_a_valid_index() {
    let mut rng = SmallRng::seed_from_u64(23);
    let vectors = clustered(&mut rng, 700, 300);
    let store = MemPages::new();
    let options = options(Metric::L2, 300, Bits::Eight);
    let index = built_with(&store, &options, &vectors[..500], (4, true));
    let stays = |tid: u64| tid.is_multiple_of(5);
    let begun = store.records();
    let counts = index.remove(&mut |tid| !stays(tid.0)).unwrap();
    assert!(counts.unlinked > 0 && counts.free == 0, "{counts:?}");
    let removed = store.records();
    store.tick();
    let counts = index.remove(&mut |_| false).unwrap();
    assert_eq!((counts.unused, counts.unlinked), (counts.free, 0));
    let blocks = store.block_count();
    insert_all(&index, &vectors[500..], 501);
    // Few of the free pages are needed.
    assert_eq!(store.block_count(), blocks);
    for records in begun..=store.records() {
        let crashed = store.replay(records);
        let held = rows_of(&crashed, &vectors[0]);
        let mut expected = (1..=500).filter(|&tid| stays(tid));
        assert!(expected.all(|tid| held.contains(&tid)), "{records}");
        if records > removed {
            assert!(held.iter().all(|&tid| stays(tid) || tid > 500), "{records}");
        }
        let index = open(&crashed);
        insert_all(&index, &vectors[..3], 1001);
        index
            .remove(&mut |tid| tid.0 <= 500 && !stays(tid.0))
            .unwrap();
        crashed.tick();
        let counts = index.remove(&mut |_| false).unwrap();
        let report = index.check(&mut |_, _, _| {}).unwrap();
        assert_eq!((report.problems, counts.unlinked), (vec![], 0));
        assert_eq!(counts.unused, counts.free, "{records}");
        // No page is lost.
        let pages = u64::from(crashed.block_count());
        assert_eq!(report.pages + counts.free, pages, "{records}");
        let mut living: Vec<u64> = held
            .into_iter()
            .filter(|&tid| stays(tid) || tid > 500)
            .collect();
        living.extend(1001..1004);
        assert_eq!(rows_of(&crashed, &vectors[0]), living);
    }
}

/// The same where nobody else is there, so that pages are used again by the vacuum that has
/// emptied them, and where inserts empty pages that were waiting.
#[test]
fn every_prefix_of_using_pages_again_is_a_valid_index() {
    let mut rng = SmallRng::seed_from_u64(24);
    let vectors = clustered(&mut rng, 700, 300);
    for alone in [true, false] {
        let store = MemPages::new();
        let options = options(Metric::L2, 300, Bits::Eight);
        let index = built_with(&store, &options, &vectors[..500], (4, true));
        let stays = |tid: u64| tid.is_multiple_of(5);
        let begun = store.records();
        store.set_alone(alone);
        let counts = index.remove(&mut |tid| !stays(tid.0)).unwrap();
        assert!(
            counts.unlinked > 0 && (counts.free > 0) == alone,
            "{counts:?}"
        );
        let removed = store.records();
        store.tick();
        let blocks = store.block_count();
        insert_all(&index, &vectors[500..], 501);
        assert_eq!(store.block_count(), blocks);
        for records in begun..=store.records() {
            let crashed = store.replay(records);
            let held = rows_of(&crashed, &vectors[0]);
            let mut expected = (1..=500).filter(|&tid| stays(tid));
            assert!(expected.all(|tid| held.contains(&tid)), "{records}");
            assert!(records <= removed || held.iter().all(|&tid| stays(tid) || tid > 500));
            crashed.set_alone(true);
            let index = open(&crashed);
            let counts = index
                .remove(&mut |tid| tid.0 <= 500 && !stays(tid.0))
                .unwrap();
            let report = index.check(&mut |_, _, _| {}).unwrap();
            assert_eq!((report.problems, counts.unused), (vec![], counts.free));
            // No page is lost.
            let pages = u64::from(crashed.block_count());
            assert_eq!(report.pages + counts.free, pages, "{records}");
        }
    }
}

#[test]
fn a_page_that_a_crash_left_unused_is_used() {
    let mut rng = SmallRng::seed_from_u64(22);
    let vectors = clustered(&mut rng, 400, 1500);
    let store = MemPages::new();
    let index = built(
        &store,
        &options(Metric::L2, 1500, Bits::Eight),
        &vectors[..20],
        2,
    );
    drop(store.extend().unwrap());
    let blocks = store.block_count();
    let counts = index.remove(&mut |_| false).unwrap();
    assert_eq!((counts.unused, counts.free), (1, 1));
    insert_all(&index, &vectors[20..30], 21);
    assert_eq!(store.block_count(), blocks);
    insert_all(&index, &vectors[30..], 31);
    assert_eq!(
        rows_of(&store, &vectors[0]),
        (1..=400).collect::<Vec<u64>>()
    );
}
