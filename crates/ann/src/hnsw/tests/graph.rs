//! Recall and validity after builds, inserts and vacuums.

use super::fixture::*;
use crate::Metric;
use crate::hnsw::check::Report;
use crate::hnsw::layout::Slot;
use crate::hnsw::{Code, Codec, Options, Scan, Storage};
use crate::quantize::bound::tests::operator;
use crate::{AnyVector, HeapTid};

const BUILT_OR_INSERTED: [(bool, Storage); 4] = [
    (true, Storage::Plain),
    (false, Storage::Plain),
    (true, Storage::Fused),
    (false, Storage::Fused),
];

fn numbered(vectors: &[Vec<f32>]) -> Vec<(u64, &Vec<f32>)> {
    (0..).zip(vectors).collect()
}

/// Nearly every vertex can be reached. Under inner product, short vectors are
/// near to nothing, not even to themselves, and their links are the first to be
/// pruned: there, most is enough.
fn assert_reachable(metric: Metric, report: &Report) {
    let limit = match metric {
        Metric::InnerProduct => report.elements / 2,
        _ => report.elements / 1000,
    };
    assert!(report.unreachable <= limit, "{metric:?}: {report:?}");
}

#[test]
fn inserted_index_finds_the_nearest() {
    for kind in KINDS {
        let vectors = clustered(2000, 24, 1);
        let queries = clustered(50, 24, 2);
        let store = empty(&options(kind, 24));
        insert_all(&store, &vectors, 0, 3);
        let report = assert_valid(&store, 0..2000);
        assert_reachable(kind.0, &report);
        let recall = recall(&store, &numbered(&vectors), &queries, 40);
        assert!(recall >= 0.95, "{kind:?}: {recall}");
    }
}

#[test]
fn built_index_finds_the_nearest() {
    for kind in KINDS {
        for threads in [0, 3] {
            let vectors = clustered(3000, 24, 4);
            let queries = clustered(50, 24, 5);
            let store = build_all(&options(kind, 24), &vectors, threads);
            let report = assert_valid(&store, 0..3000);
            assert_reachable(kind.0, &report);
            let recall = recall(&store, &numbered(&vectors), &queries, 40);
            assert!(recall >= 0.95, "{kind:?}, {threads} threads: {recall}");
        }
    }
}

/// Under inner product, the nearest are long: estimates of what is long and far from the
/// query have to tell as much as those of what is near.
#[test]
fn vectors_of_very_different_lengths_are_found_by_inner_product() {
    let vectors = of_different_lengths(8000, 96, 4);
    let queries = of_different_lengths(50, 96, 5);
    let options = options((Metric::InnerProduct, Storage::Fused), 96);
    let built = build_all(&options, &vectors, 1);
    let inserted = empty(&options);
    insert_all(&inserted, &vectors, 0, 3);
    for store in [built, inserted] {
        let recall = recall(&store, &numbered(&vectors), &queries, 10);
        assert!(recall >= 0.92, "{recall}");
    }
}

/// Rows that come in any order are written beside their neighbours: most
/// vertices are linked to the next one.
#[test]
fn a_build_writes_neighbours_side_by_side() {
    for storage in STORAGES {
        let vectors = clustered(3000, 24, 33);
        let store = build_all(&options((Metric::L2, storage), 24), &vectors, 1);
        let index = open(&store);
        let is_linked_to_next = |&vertex: &u32| {
            let look = |slot: Slot<'_>| slot.places().contains(&(vertex + 1));
            index.with_slot(vertex, look).unwrap()
        };
        let linked = (0..2999).filter(is_linked_to_next).count();
        assert!(linked > 2000, "{storage:?}: {linked}");
    }
}

/// Of strings of bits, the distances that are found are the least ones: many
/// rows are as near as each other.
#[test]
fn an_index_of_bits_finds_the_nearest() {
    for metric in [Metric::Hamming, Metric::Jaccard] {
        // Not a multiple of 64.
        let options = options((metric, Storage::Plain), 200);
        let codec = codec(&options);
        let rows = clustered(1500, 200, 31);
        let bits = |vector: &[f32]| -> Vec<u8> {
            let pack = |chunk: &[f32]| chunk.iter().fold(0, |b, &x| b << 1 | u8::from(x > 0.0));
            vector.chunks(8).map(pack).collect()
        };
        let encode = |vector: &[f32]| {
            let mut code = Code::zeroed(codec.code_len());
            assert!(codec.encode(AnyVector::Bits(&bits(vector)), code.bytes_mut()));
            code
        };
        let store = empty(&options);
        let index = open(&store);
        for (row, vector) in (0_u32..).zip(&rows) {
            let uniform = 1.0 - f64::from(row * 37 % 1500) / 1500.0;
            let row = HeapTid(u64::from(row));
            index.insert(&encode(vector), row, uniform).unwrap();
        }
        assert_valid(&store, 0..1500);
        let mut found = 0;
        for query in clustered(50, 200, 32) {
            let query = codec.query(AnyVector::Bits(&bits(&query))).unwrap();
            let mut keys: Vec<f32> = rows
                .iter()
                .map(|row| codec.key(&query, encode(row).bytes()))
                .collect();
            keys.sort_by(f32::total_cmp);
            let nearest = Scan::new(query).next_round(&index, 40).unwrap();
            let within = nearest.iter().take(10).filter(|f| f.distance <= keys[9]);
            found += within.count();
        }
        assert!(found >= 475, "{metric:?}: {found} of 500");
    }
}

/// Vacuums a third of the rows away and compares with an index that never had
/// them.
fn vacuum_a_third(storage: Storage, is_dead: impl Fn(u64) -> bool) {
    let options = options((Metric::L2, storage), 24);
    let vectors = clustered(3000, 24, 6);
    let queries = clustered(100, 24, 7);
    let store = build_all(&options, &vectors, 1);
    let before = open(&store).meta().unwrap().vertex_count;

    vacuum(&store, &is_dead);
    let rest: Vec<(u64, &Vec<f32>)> = numbered(&vectors)
        .into_iter()
        .filter(|(row, _)| !is_dead(*row))
        .collect();
    let report = assert_valid(&store, rest.iter().map(|r| r.0));
    assert_eq!(report.marked, 0);
    assert!(report.free_slots >= 1000, "{report:?}");
    assert!(report.unreachable <= 3, "{report:?}");

    let kept: Vec<Vec<f32>> = rest.iter().map(|r| r.1.clone()).collect();
    let fresh = build_all(&options, &kept, 1);
    let fresh_recall = recall(&fresh, &numbered(&kept), &queries, 40);
    let vacuumed_recall = recall(&store, &rest, &queries, 40);
    assert!(
        vacuumed_recall >= fresh_recall - 0.01,
        "{storage:?}: {vacuumed_recall} instead of {fresh_recall}"
    );

    insert_all(&store, &clustered(900, 24, 99), 10_000, 8);
    let report = assert_valid(&store, rest.iter().map(|r| r.0).chain(10_000..10_900));
    assert!(report.free_slots < 200, "{report:?}");
    assert!(open(&store).meta().unwrap().vertex_count <= before + 100);
}

#[test]
fn vacuumed_index_is_as_good_as_a_new_one_and_reuses_slots() {
    for storage in STORAGES {
        vacuum_a_third(storage, |row| row % 5 < 2 && row < 2600);
    }
}

#[test]
fn vacuum_of_whole_clusters_keeps_the_graph_together() {
    // Rows of the same cluster are 24 apart.
    for storage in STORAGES {
        vacuum_a_third(storage, |row| row % 3 == 0);
    }
}

/// Under inner product, long vectors are everybody's neighbours: those that
/// come in must be found, and so must the rest once others are gone.
#[test]
fn rows_replaced_by_longer_ones_are_found() {
    for storage in STORAGES {
        let mut found = 0.0;
        for seed in 0..4 {
            let kind = (Metric::InnerProduct, storage);
            let options = Options {
                m: 16,
                ef_construction: 64,
                seed,
                ..options(kind, 48)
            };
            let vectors = normal_clusters(5100, 48, 4);
            let (vectors, queries) = vectors.split_at(5000);
            let store = build_all(&options, &vectors[..2500], 0);
            insert_all(&store, &vectors[2500..], 2500, seed + 100);
            vacuum(&store, |row| row % 3 == 0);

            let is_replaced = |row: u64| row < 5000 && row % 5 == 1;
            let mut rows = numbered(vectors);
            rows.retain(|(row, _)| row % 3 != 0);
            let longer: Vec<Vec<f32>> = rows
                .iter()
                .filter(|(row, _)| is_replaced(*row))
                .map(|(_, v)| v.iter().zip(&vectors[1]).map(|(a, b)| a + b).collect())
                .collect();
            insert_all(&store, &longer, 5000, seed + 200);
            vacuum(&store, is_replaced);
            rows.retain(|(row, _)| !is_replaced(*row));
            rows.extend((5000..).zip(&longer));
            assert_valid(&store, rows.iter().map(|r| r.0));
            found += recall(&store, &rows, queries, 100) / 4.0;
        }
        assert!(found >= 0.985, "{storage:?}: {found}");
    }
}

/// What is left of a graph with few links is no worse than a new graph of the rest.
#[test]
fn the_quarter_that_vacuum_leaves_is_found() {
    let (mut left, mut new) = (0.0, 0.0);
    for seed in 0..4 {
        let options = Options {
            m: 4,
            ef_construction: 8,
            seed,
            ..options((Metric::L2, Storage::Plain), 24)
        };
        let vectors = normal_clusters(8100, 24, seed + 5);
        let (vectors, queries) = vectors.split_at(8000);
        let store = build_all(&options, vectors, 0);
        vacuum(&store, |row| row >= 2000);
        let rows = &numbered(vectors)[..2000];
        let report = assert_valid(&store, rows.iter().map(|r| r.0));
        assert!(report.unreachable <= 10, "{report:?}");
        left += recall(&store, rows, queries, 40) / 4.0;
        new += recall(&build_all(&options, &vectors[..2000], 0), rows, queries, 40) / 4.0;
    }
    assert!(left >= new, "{left} of what is left, {new} of what is new");
}

/// Where many vertices are turned down by their neighbours: short vectors
/// under inner product, and equal vectors.
#[test]
fn vacuum_leaves_no_link_to_the_dead() {
    for kind in KINDS {
        let options = options(kind, 8);
        let mut vectors = clustered(1500, 8, 13);
        for row in 0..600 {
            vectors[row] = vectors[row % 3].clone();
        }
        let store = empty(&options);
        insert_all(&store, &vectors, 0, 3);
        for round in 0..4 {
            let is_dead = |row: u64| row % 5 <= round;
            vacuum(&store, is_dead);
            assert_valid(&store, (0..1500).filter(|&row| !is_dead(row)));
        }
    }
}

#[test]
fn everything_deleted_leaves_an_empty_index_that_takes_rows_again() {
    for storage in STORAGES {
        let vectors = clustered(300, 8, 9);
        let store = empty(&options((Metric::L2, storage), 8));
        insert_all(&store, &vectors, 0, 1);
        vacuum(&store, |_| true);
        let report = assert_valid(&store, []);
        assert_eq!((report.elements, report.levels), (0, 0));
        assert!(nearest(&store, &vectors[0], 40, 10).is_empty());
        insert_all(&store, &vectors, 0, 2);
        assert_valid(&store, 0..300);
        assert_eq!(nearest(&store, &vectors[7], 40, 1), [7]);
    }
}

#[test]
fn equal_vectors_share_vertices_and_are_all_returned() {
    let same = vec![clustered(1, 8, 3).remove(0); 95];
    let others = clustered(200, 8, 4);
    for (built, storage) in BUILT_OR_INSERTED {
        let options = options((Metric::Cosine, storage), 8);
        let vectors: Vec<_> = same.iter().chain(&others).cloned().collect();
        let store = if built {
            build_all(&options, &vectors, 0)
        } else {
            let store = empty(&options);
            insert_all(&store, &vectors, 0, 5);
            store
        };
        let report = assert_valid(&store, 0..295);
        assert!(report.elements < 295 - 80, "{report:?}");
        let mut rows = nearest(&store, &same[0], 60, 95);
        rows.sort_unstable();
        assert_eq!(rows, (0..95).collect::<Vec<_>>());
    }
}

#[test]
fn a_thousand_equal_vectors_are_all_reached() {
    let mut vectors = clustered(3000, 8, 12);
    for row in 1000..2000 {
        vectors[row] = vectors[0].clone();
    }
    for (built, storage) in BUILT_OR_INSERTED {
        let options = options((Metric::L2, storage), 8);
        let store = if built {
            build_all(&options, &vectors, 1)
        } else {
            let store = empty(&options);
            insert_all(&store, &vectors, 0, 5);
            store
        };
        let report = assert_valid(&store, 0..3000);
        let what = format!("built: {built}, {storage:?}");
        assert_eq!(report.unreachable, 0, "{what}: {report:?}");
        // They share one vertex, or a few that were linked at the same time.
        assert!(report.elements < 2010, "{what}: {report:?}");
        assert!(nearest(&store, &vectors[0], 10, 2000).len() > 1000);
        // And they don't hide the rest.
        let queries = clustered(100, 8, 13);
        let recall = recall(&store, &numbered(&vectors), &queries, 40);
        assert!(recall >= 0.95, "{what}: {recall}");

        // Some go, then all but one: the rows that stay are found, and the
        // slots of the others are used again.
        vacuum(&store, |row| row % 2 == 1 && (1000..2000).contains(&row));
        let stay = |row: &u64| row.is_multiple_of(2) || !(1000..2000).contains(row);
        let report = assert_valid(&store, (0..3000).filter(stay));
        assert_eq!(report.marked, 0, "{what}: {report:?}");
        vacuum(&store, |row| (1000..1999).contains(&row) || row == 0);
        let rest = (1..1000).chain([1999]).chain(2000..3000);
        let stay = |row: &u64| *row != 1999;
        assert_valid(&store, rest.filter(stay));
        assert!(nearest(&store, &vectors[0], 40, 40).len() >= 10);
        let slots = open(&store).meta().unwrap().vertex_count;
        insert_all(&store, &vectors[1000..2000], 1000, 6);
        assert_valid(&store, 1..3000);
        assert!(open(&store).meta().unwrap().vertex_count <= slots + 2);
    }
}

#[test]
fn vectors_of_every_size_can_be_stored() {
    // Around the sizes where slots start to share pages and to span them, and
    // where a record cannot hold all of a slot's pages.
    let plain = [1, 2, 3, 1000, 1001, 1980, 2000, 2001, 4000, 16_000];
    let fused = [1, 2, 3, 64, 65, 768, 1536, 1537, 2100, 6000, 9000, 16_000];
    let kinds = plain.map(|d| (Storage::Plain, d)).into_iter();
    for (storage, dimension) in kinds.chain(fused.map(|d| (Storage::Fused, d))) {
        let options = options((Metric::L2, storage), dimension);
        let vectors = clustered(60, dimension as usize, 11);
        for threads in [None, Some(1)] {
            let store = match threads {
                Some(threads) => build_all(&options, &vectors, threads),
                None => {
                    let store = empty(&options);
                    insert_all(&store, &vectors, 0, 5);
                    store
                }
            };
            assert_valid(&store, 0..60);
            for row in [0, 31, 59] {
                let found = nearest(&store, &vectors[row], 60, 1);
                assert_eq!(found, [row as u64], "{dimension} dimensions");
            }
            vacuum(&store, |row| row < 30);
            assert_valid(&store, 30..60);
            insert_all(&store, &vectors[..30], 0, 6);
            assert_valid(&store, 0..60);
        }
    }
}

#[test]
fn rounds_return_every_row_once() {
    for storage in STORAGES {
        rounds_return_every_row(storage);
    }
}

fn rounds_return_every_row(storage: Storage) {
    let vectors = clustered(500, 12, 21);
    let store = build_all(&options((Metric::L2, storage), 12), &vectors, 0);
    let index = open(&store);
    let mut scan = Scan::new(query_of(&index, &vectors[3]));
    let mut rows = Vec::new();
    loop {
        let round = scan.next_round(&index, 40).unwrap();
        if round.is_empty() {
            break;
        }
        assert!(round.len() <= 40);
        assert!(round.windows(2).all(|w| w[0].distance <= w[1].distance));
        rows.extend(round.iter().flat_map(|f| scan.heap_tids(f)).map(|t| t.0));
    }
    assert_eq!(rows[0], 3);
    rows.sort_unstable();
    assert_eq!(rows, (0..500).collect::<Vec<_>>());
}

#[test]
fn tiny_memory_budget_is_full_not_exceeded() {
    let options = options((Metric::L2, Storage::Plain), 64);
    let builder = crate::hnsw::Builder::new(codec(&options), options, 300 * 1024, 1).unwrap();
    let vectors = clustered(5000, 64, 2);
    let added = vectors
        .iter()
        .position(|v| {
            let code = encode(&codec(&options), v);
            builder.add(&code, HeapTid(0)) == crate::hnsw::build::Added::Full
        })
        .unwrap();
    // 64 dimensions and m = 8 take at least 256 + 128 bytes.
    assert!(added > 100 && added < 300 * 1024 / 384, "{added}");
}

#[test]
fn hostile_values_do_not_break_the_graph() {
    for kind in KINDS {
        let mut vectors = clustered(100, 4, 1);
        for x in [f32::MAX, -f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e30] {
            vectors.push(vec![x; 4]);
            vectors.push(vec![x, 0.0, 0.0, -x]);
        }
        let count = vectors.len() as u64;
        let store = empty(&options(kind, 4));
        insert_all(&store, &vectors, 0, 1);
        assert_valid(&store, 0..count);
        for query in &vectors {
            assert!(!nearest(&store, query, 40, 10).is_empty());
        }
        assert_valid(&build_all(&options(kind, 4), &vectors, 1), 0..count);
    }
}

/// What the executor relies on: no bound exceeds the exact distance.
#[test]
fn bounds_never_exceed_the_distance() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let mut vectors = clustered(400, 24, 71);
        for (row, scale) in [1e-40_f32, 1e-20, 1e-3, 1e3, 1e15].into_iter().enumerate() {
            for x in &mut vectors[row] {
                *x *= scale;
            }
        }
        let options = options((metric, Storage::Fused), 24);
        let store = build_all(&options, &vectors, 0);
        let index = open(&store);
        let kernels = crate::simd::kernels();
        for vector in &vectors {
            let mut scan = Scan::new(query_of(&index, vector));
            for found in scan.next_round(&index, 100).unwrap() {
                for tid in scan.heap_tids(&found) {
                    let row = &vectors[tid.0 as usize];
                    let exact = operator(kernels, metric, vector, row);
                    assert!(
                        found.bound <= exact || exact.is_nan(),
                        "{metric:?}: {} is not below {exact}",
                        found.bound
                    );
                }
            }
        }
    }
}
