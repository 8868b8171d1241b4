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
        let found = nearest(store, vector, 200, 1000);
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

/// Rows that go into postings: those of two vectors that come again and again.
fn equal_vectors(count: usize, dimension: usize) -> Vec<Vec<f32>> {
    let two = clustered(2, dimension, 77);
    (0..count).map(|row| two[row % 2].clone()).collect()
}

#[test]
fn every_prefix_of_inserts_and_vacuums_of_postings_is_a_valid_index() {
    // Enough for several postings to a vector.
    for (storage, count) in [(Storage::Plain, 150), (Storage::Fused, 750)] {
        let options = options((Metric::L2, storage), 6);
        let vectors = equal_vectors(count as usize, 6);
        let store = empty(&options);
        let mut complete = vec![store.records()];
        for (i, vector) in (0..).zip(&vectors) {
            insert_all(&store, std::slice::from_ref(vector), i, 100 + i);
            complete.push(store.records());
        }
        let inserted = store.records();
        // Whole postings go, from the middle of a chain too, then one element.
        let dies = |row: u64| (count / 10..count * 3 / 4).contains(&row);
        vacuum(&store, dies);
        let thinned = store.records();
        assert!(thinned > inserted + 4);
        vacuum(&store, |row| row % 2 == 0);
        assert!(store.records() > thinned + 4);
        for records in complete[0]..=store.records() {
            let crashed = store.replay(records);
            let done = complete.iter().filter(|&&c| c <= records).count() as u64 - 1;
            let lives = |row: u64| {
                row < done
                    && (records <= inserted || !dies(row))
                    && (records <= thinned || row % 2 == 1)
            };
            assert_usable(&crashed, &vectors, lives);
            vacuum(&crashed, |row| !lives(row));
            let report = assert_valid(&crashed, (0..count).filter(|&row| lives(row)));
            assert_eq!(report.marked, 0, "{records}: {report:?}");
            insert_all(&crashed, &vectors[..30], 1000, 5);
            assert_valid(
                &crashed,
                (0..count).filter(|&row| lives(row)).chain(1000..1030),
            );
        }
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
