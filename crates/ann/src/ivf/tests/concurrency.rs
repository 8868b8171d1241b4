//! Inserts, scans and vacuums at once, over the page locks of [`MemPages`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::fixture::*;
use crate::Metric;
use crate::ivf::codec::Level;
use crate::mem_pages::MemPages;
use crate::page::PageStore;
use crate::quantize::extended::Bits;

#[test]
fn inserts_scans_and_vacuums_at_once() {
    for has_branches in [false, true] {
        all_at_once(has_branches);
    }
}

fn all_at_once(has_branches: bool) {
    const FIRST: usize = 500;
    const ROWS: usize = 12_000;
    // So many that lists become sparse once most of them are removed.
    const BETWEEN_VACUUMS: u64 = 2000;
    let mut rng = SmallRng::seed_from_u64(51);
    let vectors = clustered(&mut rng, ROWS, 16);
    let store = MemPages::new();
    let options = options(Metric::L2, 16, Bits::Eight);
    built_with(&store, &options, &vectors[..FIRST], (3, has_branches));
    // Held by whoever may remember the number of a page.
    let under_way = RwLock::new(());
    let unlinked = AtomicU64::new(0);
    let next = AtomicU64::new(FIRST as u64);
    let inserting = AtomicBool::new(true);
    // Rows die only after their insert has ended, as in a database.
    let done: Vec<AtomicBool> = (0..ROWS).map(|row| AtomicBool::new(row < FIRST)).collect();
    let keeps = |row: u64| row.is_multiple_of(8);
    let dies = |tid: u64| !keeps(tid - 1) && done[tid as usize - 1].load(Ordering::Acquire);

    std::thread::scope(|scope| {
        let inserters: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let index = open(&store);
                    loop {
                        let row = next.fetch_add(1, Ordering::Relaxed) as usize;
                        let Some(vector) = vectors.get(row) else {
                            break;
                        };
                        let under_way = under_way.read();
                        insert_all(&index, std::slice::from_ref(vector), row as u64 + 1);
                        drop(under_way);
                        done[row].store(true, Ordering::Release);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let index = open(&store);
            let mut vacuumed = 0;
            while inserting.load(Ordering::Relaxed) {
                if next.load(Ordering::Relaxed) < vacuumed + BETWEEN_VACUUMS {
                    std::thread::yield_now();
                    continue;
                }
                vacuumed = next.load(Ordering::Relaxed);
                let counts = index.remove(&mut |tid| dies(tid.0)).unwrap();
                unlinked.fetch_add(counts.unlinked, Ordering::Relaxed);
                let _nobody = under_way.write();
                store.tick();
            }
        });
        scope.spawn(|| {
            let index = open(&store);
            while inserting.load(Ordering::Relaxed) {
                // Rows that were there before and stay are always found, once.
                let under_way = under_way.read();
                let found = all_rows(&index, &vectors[8], 1000, true);
                drop(under_way);
                let mut kept: Vec<u64> = found
                    .iter()
                    .map(|row| row.1)
                    .filter(|&tid| keeps(tid - 1) && tid <= FIRST as u64)
                    .collect();
                kept.sort_unstable();
                let expected = (1..=FIRST as u64).filter(|tid| keeps(tid - 1));
                assert_eq!(kept, expected.collect::<Vec<u64>>());
                assert_eq!(found[0].1, 9);
            }
        });
        for inserter in inserters {
            inserter.join().unwrap();
        }
        inserting.store(false, Ordering::Relaxed);
    });
    let index = open(&store);
    index.remove(&mut |tid| dies(tid.0)).unwrap();
    store.tick();
    let counts = index.remove(&mut |_| false).unwrap();
    let report = index
        .check(&mut |tid, _, _| assert!(keeps(tid.0 - 1)))
        .unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.rows, ROWS as u64 / 8);
    // No page was lost, and some were used again.
    let blocks = u64::from(store.block_count());
    assert_eq!(report.pages + counts.free, blocks);
    assert!(unlinked.into_inner() > 0);
    let layout = *index.codec().layout(Level::Rows);
    assert!(blocks < layout.pages(ROWS) as u64, "{blocks}");
}
