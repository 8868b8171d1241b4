//! Nanoseconds a distance, per instruction set and dimension.

use ann::simd;
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

criterion_group!(benches, distances);
criterion_main!(benches);
