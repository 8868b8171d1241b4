//! Crash safety: after every prefix of the records of inserts and vacuums, the
//! index is valid, answers queries, and can go on.

use super::fixture::*;
use crate::Metric;
use crate::hnsw::Storage;
use crate::mem_pages::MemPages;

/// What must hold after a crash at this point. Rows below `sure` were complete
/// before the operation began and are not touched by it.
fn assert_usable(store: &MemPages, vectors: &[Vec<f32>], sure: impl Fn(u64) -> bool) {
    let mut held = Vec::new();
    let report = open(store).check(&mut |tid, _| held.push(tid.0)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for (row, vector) in (0..).zip(vectors).filter(|(row, _)| sure(*row)) {
        assert!(held.contains(&row), "row {row} is lost");
        let found = nearest(store, vector, 200, 200);
        assert!(found.contains(&row), "row {row} is not found");
    }
}

fn replay_inserts(storage: Storage, dimension: u32) {
    let options = options((Metric::L2, storage), dimension);
    let count = if dimension > 5000 { 14 } else { 40 };
    let vectors = clustered(count, dimension as usize, 31);
    let store = empty(&options);
    let mut complete = vec![store.records()];
    for (i, vector) in (0..).zip(&vectors) {
        insert_all(&store, std::slice::from_ref(vector), i, 100 + i);
        complete.push(store.records());
    }
    for records in complete[0]..=store.records() {
        let crashed = store.replay(records);
        let done = complete.iter().filter(|&&c| c <= records).count() as u64 - 1;
        assert_usable(&crashed, &vectors, |row| row < done);
        // The rows whose insert did not end are dead: vacuum and go on.
        vacuum(&crashed, |row| row >= done);
        assert_valid(&crashed, 0..done);
        insert_all(&crashed, &vectors[done as usize..], done, 5);
        assert_valid(&crashed, 0..count as u64);
    }
}

#[test]
fn every_prefix_of_inserts_is_a_valid_index() {
    for storage in STORAGES {
        replay_inserts(storage, 6);
    }
}

#[test]
fn every_prefix_of_inserts_of_vectors_that_span_pages_is_a_valid_index() {
    // Of the fused slots, one record holds all of the first and not all of the
    // second.
    replay_inserts(Storage::Plain, 5000);
    replay_inserts(Storage::Fused, 3000);
    replay_inserts(Storage::Fused, 12_000);
}

#[test]
fn every_prefix_of_a_vacuum_is_a_valid_index() {
    let kinds = [
        (Storage::Plain, 6),
        (Storage::Plain, 2500),
        (Storage::Fused, 6),
        (Storage::Fused, 3000),
        (Storage::Fused, 12_000),
    ];
    for (storage, dimension) in kinds {
        // Every prefix is a copy of the pages: fewer of them where they are many.
        let count = if dimension > 3000 { 20 } else { 90 };
        let vectors = clustered(count, dimension, 41);
        let store = empty(&options((Metric::L2, storage), dimension as u32));
        insert_all(&store, &vectors, 0, 1);
        let is_dead = |row: u64| row % 3 != 1;
        let before = store.records();
        vacuum(&store, is_dead);
        assert!(store.records() > before + 10);
        for records in before..=store.records() {
            let crashed = store.replay(records);
            assert_usable(&crashed, &vectors, |row| !is_dead(row));
            // Inserts and scans go on beside what is left to do.
            insert_all(&crashed, &vectors[..5], 1000, 2);
            vacuum(&crashed, |row| row < 1000 && is_dead(row));
            let report = assert_valid(
                &crashed,
                (0..count as u64).filter(|&r| !is_dead(r)).chain(1000..1005),
            );
            assert_eq!(report.marked, 0);
        }
    }
}
