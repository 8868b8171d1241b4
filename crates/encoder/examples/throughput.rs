//! Embeds the lines of a file and prints one line of JSON: how fast a bare
//! session does it. The project's benchmark holds this against the same work in
//! SQL.
//!
//! ```text
//! throughput MODEL_DIRECTORY ONNXRUNTIME_LIBRARY TEXT_FILE TEXTS_PER_CALL THREADS PRECISION
//! ```
//!
//! Tokens are those that the model sees: special ones included, cut-off ones not.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use encoder::{
    Encoder, ModelFiles, Options, Precision, Provider, QuantizeOptions, compile, load_runtime,
    quantize,
};
use serde_json::json;

/// Repeats the file until so much time has passed, for a steady figure.
const AT_LEAST: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, library, file, texts_per_call, threads, precision] = arguments.as_slice() else {
        return Err(
            "usage: throughput MODEL_DIRECTORY ONNXRUNTIME_LIBRARY TEXT_FILE TEXTS_PER_CALL \
                    THREADS PRECISION"
                .into(),
        );
    };
    let precision = Precision::from_name(precision).ok_or("no such precision")?;
    let texts_per_call: usize = texts_per_call.parse()?;
    let threads: usize = threads.parse()?;
    let content = std::fs::read_to_string(file)?;
    let texts: Vec<&str> = content.lines().collect();
    if texts.is_empty() || texts_per_call == 0 {
        return Err("there is nothing to embed".into());
    }

    load_runtime(Path::new(library))?;
    let mut model = compile(&ModelFiles::read_directory(Path::new(model))?)?;
    if precision != Precision::Fp32 {
        model = quantize(
            &model,
            precision,
            &QuantizeOptions::default(),
            &mut |_, _| true,
        )?;
    }
    let max_tokens = model.settings.max_tokens;
    let mut encoder = Encoder::new(
        &model.graph,
        &model.tokenizer,
        model.settings,
        Options {
            provider: Provider::Cpu,
            threads,
            batch_tokens: 4_096,
            interrupted: || false,
        },
    )?;
    let mut tokens = Vec::with_capacity(texts.len());
    for text in &texts {
        tokens.push(encoder.count_tokens(text)?.min(max_tokens));
    }
    // The first run takes memory that later ones find there.
    let warm = texts_per_call.min(texts.len());
    encoder.embed(&texts[..warm])?;

    let (mut calls, mut embedded) = (0_u32, 0_usize);
    let start = Instant::now();
    while start.elapsed() < AT_LEAST {
        for (texts, tokens) in texts
            .chunks(texts_per_call)
            .zip(tokens.chunks(texts_per_call))
        {
            encoder.embed(texts)?;
            calls += 1;
            embedded += tokens.iter().sum::<usize>();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "texts_per_call": texts_per_call,
            "tokens_per_second": embedded as f64 / seconds,
            "milliseconds_per_call": seconds * 1e3 / f64::from(calls),
        })
    );
    Ok(())
}
