//! An embedding depends on (model, text) alone, bit for bit.

mod common;

use common::{Bert, Random, Shape, minilm, same_in_any_company, text, tokenizer, words};
use encoder::{ModelFiles, compile};
use safetensors::Dtype;
use serde_json::Value;

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
        same_in_any_company(&bert.compile(), &texts, 4);
    }
}

/// Without special tokens a text may be a single one, and its matrices a row.
#[test]
fn texts_of_one_token() {
    for (seed, heads, hidden) in [(5, 2, 16), (6, 4, 64), (7, 6, 384)] {
        let shape = Shape {
            heads,
            hidden,
            intermediate: 4 * hidden,
            ..Shape::SMALL
        };
        let bert = Bert::random(seed, shape, Dtype::F32);
        let mut files = bert.files("");
        let mut tokenizer = tokenizer(shape.vocabulary);
        tokenizer["post_processor"] = Value::Null;
        files.insert(
            "tokenizer.json".to_owned(),
            tokenizer.to_string().into_bytes(),
        );
        let model = compile(&ModelFiles::new(files).expect("files")).expect("compile");
        let mut random = Random::new(seed);
        let mut texts = vec![String::new()];
        for count in [1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 17] {
            texts.push(text(&words(&mut random, count, shape.vocabulary)));
        }
        same_in_any_company(&model, &texts, 8);
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
    same_in_any_company(&minilm(), &texts, 1);
}
