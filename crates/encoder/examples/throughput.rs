//! Embeds texts as they come, and says how long a bare session takes. The project's
//! benchmark holds this against the same calls in SQL.
//!
//! ```text
//! throughput MODEL_DIRECTORY ONNXRUNTIME_LIBRARY THREADS PRECISION
//! ```
//!
//! Each line of the standard input is a JSON array of texts, which are embedded in one
//! call. The answer is a line `{"milliseconds": …, "tokens": …}`; tokens are those that
//! the model sees, special ones included, cut-off ones not. They are counted while the
//! clock stands still.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use encoder::{
    Encoder, ModelFiles, Options, Precision, Provider, QuantizeOptions, compile, load_runtime,
    quantize,
};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, library, threads, precision] = arguments.as_slice() else {
        return Err(
            "usage: throughput MODEL_DIRECTORY ONNXRUNTIME_LIBRARY THREADS PRECISION".into(),
        );
    };
    let precision = Precision::from_name(precision).ok_or("no such precision")?;
    let threads: usize = threads.parse()?;

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
    for line in std::io::stdin().lock().lines() {
        let texts: Vec<String> = serde_json::from_str(&line?)?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let start = Instant::now();
        encoder.embed(&texts)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let mut tokens = 0;
        for text in texts {
            tokens += encoder.count_tokens(text)?.min(max_tokens);
        }
        let answer = json!({"milliseconds": milliseconds, "tokens": tokens});
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
