//! Inserts, scans and vacuums at once, over the page locks of [`MemPages`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::HeapTid;
use crate::Metric;
use crate::hnsw::Storage;

/// Rows in the index before everything starts.
const FIRST: usize = 400;

/// Most rows die, so that whole regions of the graph do.
fn keeps(row: u64) -> bool {
    row.is_multiple_of(4)
}

#[test]
fn inserts_scans_and_vacuums_at_once() {
    for storage in STORAGES {
        everything_at_once(storage, &clustered(6000, 16, 51));
    }
}

/// Postings come and go.
#[test]
fn inserts_scans_and_vacuums_of_equal_vectors_at_once() {
    let few = clustered(60, 16, 55);
    let vectors: Vec<_> = (0..6000).map(|row| few[row * 7 % 60].clone()).collect();
    for storage in STORAGES {
        everything_at_once(storage, &vectors);
    }
}

fn everything_at_once(storage: Storage, vectors: &[Vec<f32>]) {
    let options = options((Metric::L2, storage), 16);
    let store = build_all(&options, &vectors[..FIRST], 0);
    // Vacuum's barrier: inserts share it, vacuum takes it for a moment.
    let barrier = RwLock::new(());
    let next = AtomicU64::new(FIRST as u64);
    let inserting = AtomicBool::new(true);
    // Rows die only after their insert has ended, as in a database.
    let done: Vec<AtomicBool> = (0..vectors.len())
        .map(|row| AtomicBool::new(row < FIRST))
        .collect();
    let dies = |row: u64| !keeps(row) && done[row as usize].load(Ordering::Acquire);

    std::thread::scope(|scope| {
        let inserters: Vec<_> = (0..3)
            .map(|seed| {
                let (store, next) = (&store, &next);
                let (barrier, done) = (&barrier, &done);
                scope.spawn(move || {
                    let index = open(store);
                    let mut rng = SmallRng::seed_from_u64(seed);
                    loop {
                        let row = next.fetch_add(1, Ordering::Relaxed);
                        let Some(vector) = vectors.get(row as usize) else {
                            return;
                        };
                        let code = encode(index.codec(), vector);
                        let _share = barrier.read();
                        let uniform = 1.0 - rng.random::<f64>();
                        index.insert(&code, HeapTid(row), uniform).unwrap();
                        done[row as usize].store(true, Ordering::Release);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while inserting.load(Ordering::Relaxed) {
                let index = open(&store);
                let dead: Vec<bool> = (0..6000).map(dies).collect();
                let marked = index.mark(&mut |tid| dead[tid.0 as usize]).unwrap();
                drop(barrier.write());
                index.repair(&marked).unwrap();
                index.free(&marked).unwrap();
            }
        });
        scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(9);
            while inserting.load(Ordering::Relaxed) {
                let query = &vectors[rng.random_range(0..vectors.len())];
                // Rows that are never deleted are there from the beginning.
                let found = nearest(&store, query, 40, 40);
                assert!(found.len() > 20, "{found:?}");
            }
        });
        for inserter in inserters {
            inserter.join().unwrap();
        }
        inserting.store(false, Ordering::Relaxed);
    });

    vacuum(&store, dies);
    let live = || (0..6000).filter(|&row| keeps(row));
    let report = assert_valid(&store, live());
    assert_eq!(report.marked, 0);
    let rows: Vec<(u64, &Vec<f32>)> = live().map(|row| (row, &vectors[row as usize])).collect();
    // Of rows at the same distance, any are as good as others.
    let has_ties = vectors[0] == vectors[60];
    if !has_ties {
        // From where all rows died, a search has to choose among clusters that are
        // about equally far; an index that is built anew finds no more there.
        let near_rows: Vec<_> = clustered(160, 16, 52).into_iter().step_by(4).collect();
        let recall = recall(&store, &rows, &near_rows, 40);
        assert!(recall >= 0.99, "{recall}");
    }
}

/// Sessions that all find the index empty: each of their elements is found
/// afterwards, whichever became the entry point. There are so few that no list
/// is ever full and a link pruned.
#[test]
fn first_inserts_at_once() {
    let vectors = clustered(16, 4, 53);
    for seed in 0..60 {
        let options = options((Metric::L2, STORAGES[seed as usize % 2]), 4);
        let store = empty(&options);
        let ready = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (store, vectors, ready) = (&store, &vectors, &ready);
                scope.spawn(move || {
                    let index = open(store);
                    let mut rng = SmallRng::seed_from_u64(seed * 4 + thread);
                    ready.wait();
                    for row in (thread * 4)..(thread * 4 + 4) {
                        let code = encode(index.codec(), &vectors[row as usize]);
                        // Half of the elements are above level 0.
                        let uniform = if rng.random() { 1.0 } else { 0.1 };
                        index.insert(&code, HeapTid(row), uniform).unwrap();
                    }
                });
            }
        });
        let report = assert_valid(&store, 0..16);
        assert_eq!(report.unreachable, 0, "{seed}: {report:?}");
    }
}
