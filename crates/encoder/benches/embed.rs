//! How fast texts become vectors in a bare session, without a database:
//! all-MiniLM-L6-v2 with 32 texts of 128 tokens, 32 short real ones, and one of
//! 16 tokens. Throughput is in tokens.
//!
//! Needs `INSITU_MINILM` (model directory) and `INSITU_ONNXRUNTIME` (library).

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encoder::{Encoder, ModelFiles, Options, Provider, compile, load_runtime};

const SENTENCES: [&str; 8] = [
    "convert PDF files into pictures from the command line",
    "a library for reading and writing compressed archives",
    "daemon that synchronizes the system clock over the network",
    "fast text editor with syntax highlighting and plugins",
    "tool to recover deleted files from damaged disks",
    "terminal program that plays music from a playlist",
    "documentation and examples for the graphics toolkit",
    "monitors network traffic and shows it by process",
];

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("the environment variable {name} is not set; `make bench` sets it")
        })
}

/// A text of exactly so many tokens, special ones included: every word here is one token.
fn text_of(tokens: usize) -> String {
    ["stone", "bridge", "river", "city"]
        .iter()
        .cycle()
        .take(tokens - 2)
        .copied()
        .collect::<Vec<&str>>()
        .join(" ")
}

fn embed(criterion: &mut Criterion) {
    load_runtime(&variable("INSITU_ONNXRUNTIME")).expect("ONNX Runtime loads");
    let files = ModelFiles::read_directory(&variable("INSITU_MINILM")).expect("files");
    let model = compile(&files).expect("compile");
    let cases: [(&str, Vec<String>); 3] = [
        ("32 texts of 128 tokens", vec![text_of(128); 32]),
        (
            "32 short texts",
            (0..32)
                .map(|i| SENTENCES[i % SENTENCES.len()].to_owned())
                .collect(),
        ),
        ("1 text of 16 tokens", vec![text_of(16)]),
    ];
    for (name, texts) in &cases {
        let mut group = criterion.benchmark_group(*name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(10));
        for threads in [1, 2] {
            let mut encoder = Encoder::new(
                &model.graph,
                &model.tokenizer,
                model.settings.clone(),
                Options {
                    provider: Provider::Cpu,
                    threads,
                    batch_tokens: 4_096,
                    interrupted: || false,
                },
            )
            .expect("encoder");
            let tokens: usize = texts
                .iter()
                .map(|text| encoder.count_tokens(text).expect("count"))
                .sum();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
                bencher.iter(|| encoder.embed(black_box(&texts)).expect("embed"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, embed);
criterion_main!(benches);
