//! An embedding depends on (model, text) alone, bit for bit.

mod common;

use common::{Bert, Random, Shape, bits, minilm, open, options, text, words};
use encoder::{CompiledModel, Options};
use safetensors::Dtype;

/// Every text alone, then in many compositions, with other limits and threads.
fn check(model: &CompiledModel, texts: &[String], rounds: usize) {
    let mut encoder = open(model, options());
    let dimension = encoder.dimension();
    let alone: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| bits(&encoder.embed(&[text.as_str()]).expect("alone")))
        .collect();
    let mut random = Random::new(17);
    for threads in [1, 2, 3] {
        for batch_tokens in [1, 100, 1_000, 1_000_000] {
            let mut encoder = open(
                model,
                Options {
                    threads,
                    batch_tokens,
                    ..options()
                },
            );
            for _ in 0..rounds {
                let chosen: Vec<usize> = (0..1 + random.below(40))
                    .map(|_| random.below(texts.len()))
                    .collect();
                let batch: Vec<&str> = chosen.iter().map(|&text| texts[text].as_str()).collect();
                let together = bits(&encoder.embed(&batch).expect("together"));
                for (&text, vector) in chosen.iter().zip(together.chunks_exact(dimension)) {
                    assert_eq!(
                        vector, alone[text],
                        "text {text}, {threads} threads, {batch_tokens} tokens a batch"
                    );
                }
            }
        }
    }
}

#[test]
fn small_models() {
    for (seed, heads, hidden) in [(1, 2, 16), (2, 3, 24), (3, 4, 64), (4, 1, 8)] {
        let shape = Shape {
            heads,
            hidden,
            ..Shape::SMALL
        };
        let bert = Bert::random(seed, shape, Dtype::F32);
        let mut random = Random::new(seed);
        let mut texts = vec![String::new(), "unknown words only".to_owned()];
        for count in 1..80 {
            texts.push(text(&words(&mut random, count, shape.vocabulary)));
        }
        check(&bert.compile(), &texts, 4);
    }
}

#[test]
fn minilm_with_real_sentences() {
    let sentences = [
        "",
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "A man is riding a horse.",
        "Convert a PDF file into pictures, page by page, from the command line.",
        "Größe und Gewicht der Bücher",
        "数据库里的向量",
        "🙂🙂🙂",
    ];
    let mut texts: Vec<String> = sentences.iter().map(|&text| text.to_owned()).collect();
    for count in [2, 3, 5, 9, 40] {
        texts.push(sentences[1..6].join(" ").repeat(count));
    }
    check(&minilm(), &texts, 1);
}
