//! all-MiniLM-L6-v2 as published, against what its own library computes.

mod common;

use common::{minilm, open, options, variable};
use encoder::{CompileOptions, ModelFiles, Pooling, compile_with};

#[test]
fn settings_are_those_of_its_files() {
    let settings = minilm().settings;
    assert_eq!(settings.architecture, "bert");
    assert_eq!(settings.dimension, 384);
    assert_eq!(settings.max_tokens, 256);
    assert_eq!(settings.pooling, Pooling::Mean);
    assert!(settings.normalize);
    assert_eq!(settings.vocabulary, Some(30_522));
    assert!(!settings.one_by_one);
}

#[test]
fn cosines_are_those_of_sentence_transformers() {
    let mut encoder = open(&minilm(), options());
    encoder.probe().expect("probe");
    let vectors = encoder
        .embed(&[
            "A man is eating food.",
            "A man is eating a piece of bread.",
            "The girl is carrying a baby.",
            "A man is riding a horse.",
        ])
        .expect("embed");
    let rows: Vec<&[f32]> = vectors.chunks_exact(384).collect();
    let cosine = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    assert!((cosine(rows[0], rows[0]) - 1.0).abs() < 1e-6);
    for (row, expected) in [(1, 0.7553), (2, -0.105), (3, 0.247)] {
        let found = cosine(rows[0], rows[row]);
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
}

#[test]
fn tokens_are_counted_with_the_special_ones() {
    let encoder = open(&minilm(), options());
    assert_eq!(encoder.count_tokens("").expect("count"), 2);
    assert_eq!(
        encoder
            .count_tokens("A man is eating food.")
            .expect("count"),
        8
    );
    assert_eq!(
        encoder.count_tokens(&"word ".repeat(1_000)).expect("count"),
        1_002
    );
}

#[test]
fn vectors_can_be_cut_off() {
    let files = ModelFiles::read_directory(&variable("INSITU_MINILM")).expect("files");
    let with = |dimensions| compile_with(&files, &CompileOptions { dimensions });
    let texts = ["A man is eating food.", "", "The girl is carrying a baby."];
    let whole = open(&minilm(), options()).embed(&texts).expect("whole");
    let cut = with(Some(100)).expect("cut");
    assert_eq!(cut.settings.dimension, 100);
    let mut encoder = open(&cut, options());
    encoder.probe().expect("probe");
    let cut = encoder.embed(&texts).expect("embed");
    assert_eq!(cut.len(), 300);
    for (whole, cut) in whole.chunks(384).zip(cut.chunks(100)) {
        let length = whole[..100].iter().map(|x| x * x).sum::<f32>().sqrt();
        for (whole, cut) in whole.iter().zip(cut) {
            assert!((whole / length - cut).abs() < 1e-6);
        }
    }
    // All of them are the model as it is.
    assert_eq!(with(Some(384)).expect("all"), minilm());
    assert_eq!(with(None).expect("none"), minilm());
    for dimensions in [0, 385] {
        let error = with(Some(dimensions)).expect_err("refused");
        assert!(
            error.to_string().contains("between 1 and the 384"),
            "{error}"
        );
    }
}
