//! Inserts, scans and vacuums at once, over the page locks of [`MemPages`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::Metric;
use crate::hnsw::HeapTid;

#[test]
fn inserts_scans_and_vacuums_at_once() {
    let options = options(Metric::L2, 16);
    let vectors = clustered(2400, 16, 51);
    let store = empty(&options);
    // Vacuum's barrier: inserts share it, vacuum takes it for a moment.
    let barrier = RwLock::new(());
    let next = AtomicU64::new(0);
    let inserting = AtomicBool::new(true);
    // Rows die only after their insert has ended, as in a database.
    let done: Vec<AtomicBool> = vectors.iter().map(|_| AtomicBool::new(false)).collect();
    let is_dead = |row: u64| row.is_multiple_of(4) && done[row as usize].load(Ordering::Acquire);

    std::thread::scope(|scope| {
        let inserters: Vec<_> = (0..3)
            .map(|seed| {
                let (store, vectors, next) = (&store, &vectors, &next);
                let (barrier, done) = (&barrier, &done);
                scope.spawn(move || {
                    let index = open(store);
                    let mut rng = SmallRng::seed_from_u64(seed);
                    loop {
                        let row = next.fetch_add(1, Ordering::Relaxed);
                        let Some(vector) = vectors.get(row as usize) else {
                            return;
                        };
                        let code = encode(index.options(), vector);
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
                let marked = index.mark(&mut |tid| is_dead(tid.0)).unwrap();
                drop(barrier.write());
                index.repair(&marked).unwrap();
                index.free(&marked).unwrap();
            }
        });
        scope.spawn(|| {
            let mut rng = SmallRng::seed_from_u64(9);
            while inserting.load(Ordering::Relaxed) {
                let query = &vectors[rng.random_range(0..vectors.len())];
                nearest(&store, query, 40, 10);
            }
        });
        for inserter in inserters {
            inserter.join().unwrap();
        }
        inserting.store(false, Ordering::Relaxed);
    });

    vacuum(&store, is_dead);
    let live = || (0..2400).filter(|&row| !is_dead(row));
    let report = assert_valid(&store, live());
    assert_eq!(report.marked, 0);
    let rows: Vec<(u64, &Vec<f32>)> = live().map(|row| (row, &vectors[row as usize])).collect();
    let recall = recall(&store, &rows, &clustered(40, 16, 52), 40);
    assert!(recall >= 0.95, "{recall}");
}
