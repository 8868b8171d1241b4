//! Damaged pages: the checker sees what matters, and nothing ever panics.

use std::sync::Arc;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::fixture::*;
use crate::ivf::codec::Codec;
use crate::ivf::index::{Index, read_mean, read_meta};
use crate::ivf::layout::{ENTRY_HEAD, HEADER};
use crate::ivf::scan::Scan;
use crate::mem_pages::MemPages;
use crate::page::{BODY_LEN, PageStore, seal};
use crate::quantize::extended::Bits;
use crate::quantize::fastscan::BLOCK;
use crate::{AnyVector, HeapTid, Metric};

fn sample() -> MemPages {
    let mut rng = SmallRng::seed_from_u64(61);
    let rows = clustered(&mut rng, 300, 6);
    let store = MemPages::new();
    built(&store, &options(Metric::L2, 6, Bits::Four), &rows, 4);
    store
}

/// An index with branches, some lists of which are longer than a page, and have been
/// written anew.
fn sample_with_branches() -> MemPages {
    let mut rng = SmallRng::seed_from_u64(62);
    let rows = clustered(&mut rng, 2400, 6);
    let store = MemPages::new();
    let options = options(Metric::L2, 6, Bits::Four);
    let index = built_with(&store, &options, &rows, (4, true));
    let removed = index.remove(&mut |tid| tid.0 > 30 && !tid.0.is_multiple_of(5));
    assert!(removed.unwrap().unlinked > 0);
    insert_all(&index, &rows[..200], 1000);
    store
}

/// Does everything one can do with an index. Errors are fine, panics are not.
fn exercise(store: &MemPages) {
    // Else nothing would look at the rest.
    store.damage(0, seal);
    let Ok(meta) = read_meta(store) else { return };
    let Ok(options) = meta.options() else { return };
    if options.dimension != 6 {
        return;
    }
    let Some(codec) = Codec::new(&options) else {
        return;
    };
    let Ok(mean) = read_mean(store, &meta) else {
        return;
    };
    let codec = codec.with_mean(mean);
    let index: Index<'_, MemPages, Arc<Codec>> = Index::open(store, Arc::new(codec), meta);
    let _ = index.check(&mut |_, _, _| ());
    let _ = index.statistics();
    let vector = [0.5_f32; 6];
    let vector = AnyVector::Components(&vector);
    if let Some(prepared) = index.codec().prepare(vector) {
        let mut scan = Scan::new(index.codec().query(prepared), true);
        while let Ok(true) = scan.take_lists(&index, 2) {
            while let Ok(Some(_)) = scan.next_row(&index) {}
        }
    }
    let _ = index.insert(vector, HeapTid(999));
    let _ = index.remove(&mut |tid| !tid.0.is_multiple_of(9));
    store.tick();
    let _ = index.insert(vector, HeapTid(998));
    let _ = index.remove(&mut |_| true);
    let _ = index.insert(vector, HeapTid(997));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_bytes_never_panic(
        damage in prop::collection::vec((0..100_u32, 0..BODY_LEN, any::<u8>()), 1..20),
        near_the_beginning: bool, has_branches: bool,
    ) {
        let store = if has_branches { sample_with_branches() } else { sample() };
        let blocks = store.block_count();
        for (block, at, byte) in damage {
            let at = if near_the_beginning { at % 128 } else { at };
            store.damage(block % blocks, |body| body.0[at] = byte);
        }
        exercise(&store);
    }
}

#[test]
fn pages_of_noise_never_panic() {
    let mut rng = SmallRng::seed_from_u64(5);
    for round in 0..200 {
        let store = sample();
        let block = rng.random_range(0..store.block_count());
        store.damage(block, |body| {
            let from = if round % 2 == 0 { 0 } else { HEADER };
            rng.fill(&mut body.0[from..]);
        });
        exercise(&store);
    }
}

#[test]
fn pages_that_point_to_each_other_never_hang() {
    let samples = [sample(), sample_with_branches()];
    for sample in samples {
        let records = sample.records();
        let blocks = 0..sample.block_count();
        let targets = blocks.flat_map(|block| [0, 1, block, block ^ 1].map(|to| (block, to)));
        for (block, target) in targets {
            for at in (0..64).step_by(4) {
                let store = sample.replay(records);
                store.damage(block, |body| {
                    body.0[at..at + 4].copy_from_slice(&target.to_ne_bytes());
                });
                exercise(&store);
            }
        }
    }
}

#[test]
fn the_checker_sees_each_kind_of_damage() {
    let store = sample();
    let index = open(&store);
    // The first list's page and its first code page.
    let (list, link) = lists(&index)[0];
    let mut codes = 0;
    index
        .walk(list, link, |_, directory, _| {
            codes = directory[0];
            Ok(())
        })
        .unwrap();
    let layout = *index.layout_of(list.number);
    let entry = layout.entry_at(0);
    assert!(layout.columns < layout.blocks * BLOCK);
    let directory = HEADER + 8;
    let last_bits = directory + 4 * (layout.code_pages + layout.blocks) - 1;
    // (what, page, byte, new byte)
    for (what, block, at, byte) in [
        ("another kind of page", link.head, 0, 9_u8),
        ("a page of another list", link.head, 4, 77),
        ("fewer members than there are", link.head, 2, 1),
        ("another generation", link.head, 8, 77),
        ("a next page that is another list's", link.head, 12, 1),
        ("another first page", link.head, HEADER, 77),
        ("a stamp of a page of nobody", link.head, HEADER + 4, 1),
        ("a code page that is not one", link.head, directory, 0),
        (
            "a member in a column without entry",
            link.head,
            last_bits,
            128,
        ),
        ("codes of another list", codes, 4, 77),
        ("codes of another generation", codes, 8, 77),
        ("codes of another page", codes, 12, 77),
        ("a row that another member is", codes, entry, 2),
        (
            "a value that the short code contradicts",
            codes,
            entry + ENTRY_HEAD,
            128,
        ),
    ] {
        let store = sample();
        let index = open(&store);
        let check = || index.check(&mut |_, _, _| ());
        assert_eq!(check().unwrap().problems, []);
        store.damage(block, |body| {
            body.0[at] = match what {
                "a value that the short code contradicts" => body.0[at] ^ byte,
                "a row that another member is" => body.0[entry + layout.entry_len],
                _ => byte,
            };
        });
        let seen = check().map_or(true, |report| !report.problems.is_empty());
        assert!(seen, "{what} was not seen");
    }
}

#[test]
fn each_byte_of_the_metapage_is_told() {
    for at in 0..64 {
        let store = sample();
        store.damage(0, |body| body.0[at] ^= 0x10);
        assert!(read_meta(&store).is_err(), "byte {at}");
    }
}
