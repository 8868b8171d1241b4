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
    insert_all(&index, &vectors[20..30], 21);
    assert_eq!(store.block_count(), blocks);
    insert_all(&index, &vectors[30..], 31);
    assert_eq!(
        rows_of(&store, &vectors[0]),
        (1..=400).collect::<Vec<u64>>()
    );
}
