//! Damaged pages: the checker sees what matters, and nothing ever panics.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::HeapTid;
use crate::Metric;
use crate::hnsw::index::read_meta;
use crate::hnsw::{AnyCodec, Code, Codec, Index, Scan, Storage};
use crate::mem_pages::MemPages;
use crate::page::{BODY_LEN, PageStore, seal};

fn sample(storage: Storage) -> MemPages {
    let store = empty(&options((Metric::L2, storage), 6));
    insert_all(&store, &clustered(120, 6, 61), 0, 1);
    store
}

/// Opens a damaged index; `None` is an error, which is fine.
fn try_open(store: &MemPages) -> Option<Index<'_, MemPages, AnyCodec>> {
    let meta = read_meta(store).ok()?;
    let options = meta.options().ok()?;
    if options.dimension != 6 {
        return None;
    }
    Index::open(store, &meta, codec(&options)).ok()
}

/// Does everything one can do with an index. Errors are fine, panics are not.
fn exercise(store: &MemPages) {
    // Else nothing would look at the rest.
    store.damage(0, seal);
    let Some(index) = try_open(store) else { return };
    let _ = index.check(&mut |_, _| ());
    let mut code = Code::zeroed(index.codec().code_len());
    index
        .codec()
        .encode([0.5; 6].as_slice().into(), code.bytes_mut());
    let mut scan = Scan::new(index.codec().query_of_code(code.bytes()));
    for _ in 0..5 {
        let _ = scan.next_round(&index, 20);
    }
    let _ = index.insert(&code, HeapTid(999), 0.5);
    if let Ok(marked) = index.mark(&mut |tid| tid.0.is_multiple_of(2)) {
        let _ = index.repair(&marked);
        let _ = index.free(&marked);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_bytes_never_panic(
        fused: bool,
        damage in prop::collection::vec((0..100_u32, 0..BODY_LEN, any::<u8>()), 1..20)
    ) {
        let store = sample(STORAGES[usize::from(fused)]);
        let blocks = store.block_count();
        for (block, at, byte) in damage {
            store.damage(block % blocks, |body| body.0[at] = byte);
        }
        exercise(&store);
    }
}

#[test]
fn pages_of_noise_never_panic() {
    let mut rng = SmallRng::seed_from_u64(5);
    for round in 0..200 {
        let store = sample(STORAGES[round / 2 % 2]);
        let block = rng.random_range(0..store.block_count());
        store.damage(block, |body| {
            let from = if round % 2 == 0 { 0 } else { 56 };
            rng.fill(&mut body.0[from..]);
        });
        exercise(&store);
    }
}

#[test]
fn the_checker_sees_each_kind_of_damage() {
    // The slot of a vertex on level 0.
    let slot = |index: &Index<'_, MemPages, _>| {
        let bottom = |v: &u32| index.with_slot(*v, |slot| slot.header.level == 0).unwrap();
        index.layout.locate((5..).find(bottom).unwrap()).unwrap()
    };
    // (what, byte of the slot, new byte)
    for (what, at, byte) in [
        ("an unknown state", 0, 9_u8),
        ("a vertex that turned free", 0, 0),
        ("another level", 1, 5),
        ("too many rows", 2, 200),
        ("no rows", 2, 0),
        ("too many neighbours", 4, 255),
        ("a base that is another vertex", 12, 77),
        ("a vertex below the lowest", 8, 3),
        ("a neighbour that does not exist", 82, 255),
        ("a row that another vertex has", 16, 8),
        ("content in a reserved byte", 3, 1),
        ("content in an unused row", 40, 1),
    ] {
        let store = sample(Storage::Plain);
        let index = open(&store);
        let (block, start) = slot(&index);
        assert!(index.check(&mut |_, _| ()).unwrap().problems.is_empty());
        store.damage(block, |body| body.0[start + at] = byte);
        let report = index.check(&mut |_, _| ()).unwrap();
        assert!(!report.problems.is_empty(), "{what} was not seen");
    }
    // A neighbour twice, and itself.
    for copy_from in [84, 12] {
        let store = sample(Storage::Plain);
        let index = open(&store);
        let (block, start) = slot(&index);
        store.damage(block, |body| {
            body.0
                .copy_within(start + copy_from..start + copy_from + 4, start + 80);
        });
        let report = index.check(&mut |_, _| ()).unwrap();
        assert!(!report.problems.is_empty(), "copy from {copy_from}");
    }
}

#[test]
fn the_checker_sees_damage_to_the_codes_of_links() {
    let index_of = sample(Storage::Fused);
    let layout = open(&index_of).layout;
    // A vertex of level 0 has at least one link: its term, factor, and code.
    for at in [
        layout.links_at + 3,
        layout.links_at + 4 * 16 + 3,
        layout.links_at + 8 * 16 + 32,
        layout.code_at + 20,
    ] {
        let store = sample(Storage::Fused);
        let index = open(&store);
        let (block, start) = layout.locate(0).unwrap();
        assert!(index.check(&mut |_, _| ()).unwrap().problems.is_empty());
        store.damage(block, |body| body.0[start + at] ^= 0x51);
        let report = index.check(&mut |_, _| ()).unwrap();
        assert!(!report.problems.is_empty(), "byte {at}");
    }
}

#[test]
fn the_checker_sees_damage_to_the_metapage() {
    for (what, at, value) in [
        ("magic number", 0, 1_u32),
        ("format version", 4, 77),
        ("dimension", 8, 7),
        ("metric", 12, 99),
        ("m", 16, 1),
        ("slot size", 20, 8),
        ("entry point", 24, 119_000),
        ("level of the entry point", 28, 30),
        ("number of vertices", 32, 3_000_000),
        ("free chain", 36, 3),
        ("length of the free chain", 40, 5),
        ("storage", 44, 1),
        ("storage", 44, 9),
    ] {
        let store = sample(Storage::Plain);
        store.damage(0, |body| {
            body.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
            seal(body);
        });
        let sound = try_open(&store)
            .and_then(|index| index.check(&mut |_, _| ()).ok())
            .is_some_and(|report| report.problems.is_empty());
        assert!(!sound, "a wrong {what} was not seen");
    }
}

#[test]
fn a_damaged_count_does_not_make_the_index_grow() {
    for storage in STORAGES {
        let store = sample(storage);
        let blocks = store.block_count();
        store.damage(0, |body| {
            body.0[32..36].copy_from_slice(&3_000_000_u32.to_le_bytes());
            seal(body);
        });
        let index = open(&store);
        let code = encode(index.codec(), &[0.5; 6]);
        assert!(index.insert(&code, HeapTid(999), 0.5).is_err());
        assert_eq!(store.block_count(), blocks);
    }
}

#[test]
fn each_byte_of_the_metapage_is_told() {
    for at in 0..64 {
        let store = sample(Storage::Plain);
        store.damage(0, |body| body.0[at] ^= 0x10);
        assert!(read_meta(&store).is_err(), "byte {at}");
    }
}
