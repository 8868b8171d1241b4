//! Nanoseconds of the kernels of fused vertices and of lists, per instruction set and
//! dimension: what a query prepares, what a visit computes, what a link or a row costs.

use std::hint::black_box;

use ann::quantize::extended::Bits;
use ann::simd::{self, Line, Terms};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn kernels(c: &mut Criterion) {
    for dimension in [128_usize, 384, 1536] {
        let query: Vec<f32> = (0..dimension).map(|i| (i as f32).sin()).collect();
        let code: Vec<i8> = (0..dimension)
            .map(|i| ((i * 37 % 255) as i16 - 127) as i8)
            .collect();
        let block: Vec<u8> = (0..dimension * 4).map(|i| (i * 101 % 256) as u8).collect();
        let mut group = c.benchmark_group(format!("dimension {dimension}"));
        for set in simd::available() {
            let mut bench = |name: &str, run: &mut dyn FnMut()| {
                group.bench_function(BenchmarkId::new(name, set.name), |bench| {
                    bench.iter(&mut *run)
                });
            };
            bench("own code against a query", &mut || {
                black_box((set.inner_product_i8)(black_box(&query), black_box(&code)));
            });
            bench("two codes", &mut || {
                black_box((set.inner_product_bytes)(
                    black_box(&code),
                    black_box(&code),
                ));
            });
            let mut table = vec![0; dimension * 4];
            bench("table of a query", &mut || {
                (set.fill_table)(black_box(&query), 0.02, &mut table);
                black_box(&table);
            });
            let mut sums = [0; 32];
            bench("32 codes of neighbours", &mut || {
                (set.scan_block)(black_box(&table), black_box(&block), &mut sums);
                black_box(&sums);
            });
            let terms = Terms {
                add: &[1.0; 32],
                rescale: &[-0.5; 32],
                deviation: &[0.1; 32],
            };
            let line = Line {
                step: 0.02,
                offset: -1.0,
                key: 2.0,
                reach: 4.0,
                limit: 1.5,
            };
            let (mut keys, mut least) = ([0.0; 32], [0.0; 32]);
            bench("keys and bounds of 32 members", &mut || {
                black_box((set.bounds)(
                    black_box(&sums),
                    &terms,
                    &line,
                    &mut keys,
                    &mut least,
                ));
            });
            let mut grid = vec![0; dimension];
            for (name, bits) in [
                ("grid of a row, 8 bits", Bits::Eight),
                ("grid of a row, 4 bits", Bits::Four),
            ] {
                bench(name, &mut || {
                    black_box((set.encode_grid)(bits, black_box(&query), &mut grid));
                });
            }
            bench("factors of a row", &mut || {
                black_box((set.relate_grid)(
                    black_box(&query),
                    black_box(&query),
                    &grid,
                    dimension,
                ));
            });
            let mut bits = vec![0; dimension / 8];
            bench("code of a neighbour", &mut || {
                black_box((set.sign_code)(
                    black_box(&query),
                    0.01,
                    black_box(&code),
                    0.9,
                    &mut bits,
                ));
            });
            let mut values: Vec<f32> = query.iter().copied().cycle().take(1024).collect();
            bench("Hadamard transform of 1024", &mut || {
                (set.hadamard)(black_box(&mut values));
            });
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
