//! An embedding depends on (model, text) alone, bit for bit.

mod common;

use common::{Bert, Random, Shape, minilm, same_in_any_company, text, words};
use safetensors::Dtype;

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
