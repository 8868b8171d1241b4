//! Nanoseconds a distance, per instruction set and dimension.

use ann::{SparseVector, distance, simd};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn distances(c: &mut Criterion) {
    for dimension in [96_usize, 384, 1536] {
        let a: Vec<f32> = (0..dimension).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = (0..dimension).map(|i| (i as f32).cos()).collect();
        let mut group = c.benchmark_group(format!("dimension {dimension}"));
        group.throughput(Throughput::Bytes(dimension as u64 * 8));
        for set in simd::available() {
            for (name, kernel) in [
                ("l2_squared", set.single.l2_squared),
                ("inner_product", set.single.inner_product),
                ("l1", set.single.l1),
            ] {
                group.bench_function(BenchmarkId::new(name, set.name), |bench| {
                    bench.iter(|| kernel(black_box(&a), black_box(&b)))
                });
            }
        }
    }
}

/// What the operators do, beside what the kernels alone would give: the difference is the
/// look at the sums.
fn operators(c: &mut Criterion) {
    let kernels = simd::kernels();
    for dimension in [96_usize, 384] {
        let a: Vec<f32> = (0..dimension).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = (0..dimension).map(|i| (i as f32).cos()).collect();
        let mut group = c.benchmark_group(format!("operators, dimension {dimension}"));
        group.bench_function("cosine, unchecked", |bench| {
            bench.iter(|| {
                let (ab, aa, bb) = (kernels.single.cosine_parts)(black_box(&a), black_box(&b));
                let norms = (f64::from(aa) * f64::from(bb)).sqrt();
                1.0 - (f64::from(ab) / norms).clamp(-1.0, 1.0)
            })
        });
        group.bench_function("cosine", |bench| {
            bench.iter(|| distance::cosine(kernels, black_box(&a[..]), black_box(&b[..])))
        });
        group.bench_function("l2, unchecked", |bench| {
            bench.iter(|| {
                f64::from((kernels.single.l2_squared)(black_box(&a), black_box(&b))).sqrt()
            })
        });
        group.bench_function("l2", |bench| {
            bench.iter(|| distance::l2(kernels, black_box(&a[..]), black_box(&b[..])))
        });
        group.bench_function("inner product, unchecked", |bench| {
            bench.iter(|| f64::from((kernels.single.inner_product)(black_box(&a), black_box(&b))))
        });
        group.bench_function("inner product", |bench| {
            bench.iter(|| distance::inner_product(kernels, black_box(&a[..]), black_box(&b[..])))
        });
    }
}

fn sparse_distances(c: &mut Criterion) {
    for components in [32_u32, 200] {
        // Indices that no pattern foretells, of which a part is in both.
        let indices = |seed: u32| -> Vec<u32> {
            let mut state = seed;
            let mut index = 0;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                index += 1 + (state >> 24) % 12;
                index
            };
            (0..components).map(|_| next()).collect()
        };
        let rows: Vec<Vec<u32>> = (0..1000).map(indices).collect();
        let values = vec![0.5; components as usize];
        let vector = |indices| SparseVector {
            indices,
            values: &values,
        };
        let mut group = c.benchmark_group(format!("{components} components, 1000 rows"));
        for set in simd::available() {
            for (name, kernel) in [
                ("l2_squared", set.sparse.l2_squared),
                ("inner_product", set.sparse.inner_product),
                ("l1", set.sparse.l1),
            ] {
                group.bench_function(BenchmarkId::new(name, set.name), |bench| {
                    let query = vector(&rows[0]);
                    bench.iter(|| {
                        rows.iter()
                            .map(|row| kernel(query, vector(row)))
                            .sum::<f32>()
                    })
                });
            }
        }
    }
}

fn bits(c: &mut Criterion) {
    for dimension in [384_usize, 1024, 64_000] {
        let a: Vec<u8> = (0..dimension / 8).map(|i| (i * 37) as u8).collect();
        let b: Vec<u8> = (0..dimension / 8).map(|i| (i * 91) as u8).collect();
        let mut group = c.benchmark_group(format!("{dimension} bits"));
        for set in simd::available() {
            group.bench_function(BenchmarkId::new("hamming", set.name), |bench| {
                bench.iter(|| (set.hamming)(black_box(&a), black_box(&b)))
            });
            group.bench_function(BenchmarkId::new("common_bits", set.name), |bench| {
                bench.iter(|| (set.common_bits)(black_box(&a), black_box(&b)))
            });
        }
    }
}

criterion_group!(benches, distances, operators, sparse_distances, bits);
criterion_main!(benches);
