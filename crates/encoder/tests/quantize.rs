//! Models in fewer bits: what they keep, what they weigh, and that they say the
//! same in any company.

mod common;

use common::{
    Bert, Family, Random, Shape, minilm, open, options, runtime, same_in_any_company, text, words,
};
use encoder::{
    CompiledModel, Encoder, Error, ErrorKind, Precision, QuantizeOptions, compare, quantize,
};
use safetensors::Dtype;

/// One line of text each, about software, of 5 to 60 words.
fn sentences() -> Vec<String> {
    let subjects = [
        "A daemon",
        "The library",
        "This tool",
        "A small editor",
        "The plugin",
    ];
    let verbs = [
        "reads",
        "compresses",
        "draws",
        "synchronizes",
        "encrypts",
        "searches",
        "indexes",
    ];
    let objects = [
        "archives of photographs",
        "the system clock over the network",
        "mail",
        "rows of a database",
        "three-dimensional models",
        "music from a playlist",
        "disks with bad sectors",
        "traffic between processes",
    ];
    let ends = [
        "from the command line.",
        "for the desktop.",
        "written in C.",
        "with plugins in Python.",
        "and prints a report that people who run servers in many places read in the morning.",
    ];
    let mut random = Random::new(5);
    let mut pick = |from: &[&str]| from[random.below(from.len())].to_owned();
    (0..400)
        .map(|_| {
            format!(
                "{} {} {} {}",
                pick(&subjects),
                pick(&verbs),
                pick(&objects),
                pick(&ends)
            )
        })
        .collect()
}

fn smaller(model: &CompiledModel, precision: Precision, json: &str) -> CompiledModel {
    let options = QuantizeOptions::from_json(json).expect("options");
    let smaller = quantize(model, precision, &options, &mut |_, _| true).expect("quantize");
    assert_eq!(smaller.settings.precision, precision);
    assert_eq!(smaller.tokenizer, model.tokenizer);
    smaller
}

#[test]
fn minilm_keeps_what_is_promised() {
    let model = minilm();
    let texts = sentences();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let reference = open(&model, options()).embed(&texts).expect("embed");
    for (precision, json, cosine, recall, size) in [
        (Precision::Fp16, "{}", 0.99999, 0.99, 0.51),
        (Precision::Int8, "{}", 0.998, 0.93, 0.27),
        (Precision::Int8, r#"{"block": 128}"#, 0.998, 0.93, 0.27),
        (Precision::Int4, "{}", 0.95, 0.7, 0.22),
        (Precision::Int4, r#"{"scheme": "affine"}"#, 0.96, 0.7, 0.222),
        (
            Precision::Int4,
            r#"{"scheme": "kmeans", "block": 64}"#,
            0.96,
            0.7,
            0.21,
        ),
    ] {
        let model_in_fewer_bits = smaller(&model, precision, json);
        let mut encoder = open(&model_in_fewer_bits, options());
        encoder.probe().expect("probe");
        let vectors = encoder.embed(&texts).expect("embed");
        let found = compare((&vectors, 384), (&reference, 384), 10, || false).expect("compare");
        let what = format!("{precision:?} {json}: {:?}, {}", found.mean(), found.recall);
        assert!(found.mean().expect("mean") >= cosine, "{what}");
        assert!(found.recall >= recall, "{what}");
        let part = model_in_fewer_bits.graph.len() as f64 / model.graph.len() as f64;
        assert!(part <= size, "{what}: {part} of the size");
    }
}

/// As in `determinism.rs`, for models of whole numbers, whose work is cut in other
/// ways.
#[test]
fn a_text_has_the_same_vector_in_any_company() {
    let model = minilm();
    let mut texts: Vec<String> = sentences().into_iter().take(20).collect();
    texts.extend([
        String::new(),
        "insitu".to_owned(),
        sentences()[..12].join(" "),
    ]);
    for (precision, json) in [
        (Precision::Int8, "{}"),
        (Precision::Int4, r#"{"block": 64}"#),
    ] {
        same_in_any_company(&smaller(&model, precision, json), &texts, 4);
    }
}

/// Against the forward pass in `f64`: sizes that fill no register, other heads.
#[test]
fn small_models_are_near_their_floats() {
    for (family, seed, heads, hidden) in [
        (Family::Bert, 1, 5, 80),
        (Family::Roberta, 2, 2, 64),
        (Family::DistilBert, 3, 1, 72),
        (Family::Mpnet, 4, 4, 64),
    ] {
        let shape = Shape {
            heads,
            hidden,
            intermediate: 150,
            vocabulary: 1_000,
            ..Shape::SMALL
        };
        let bert = Bert::of(family, seed, shape, Dtype::F32);
        let model = bert.compile();
        let mut random = Random::new(seed);
        let texts: Vec<String> = (1..40)
            .map(|count| text(&words(&mut random, count, shape.vocabulary)))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let exact = open(&model, options()).embed(&texts).expect("exact");
        let int8 = smaller(&model, Precision::Int8, "{}");
        let found = open(&int8, options()).embed(&texts).expect("int8");
        let compared = compare((&found, hidden), (&exact, hidden), 3, || false).expect("compare");
        let lowest = compared.cosines.expect("cosines")[0];
        assert!(
            lowest > 0.99,
            "{family:?}, {heads} heads of {hidden}: {lowest}"
        );
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let model = Bert::random(1, Shape::SMALL, Dtype::F32).compile();
    let refused = |model: &CompiledModel, precision, json: &str, kind, needle: &str| {
        let result = QuantizeOptions::from_json(json)
            .and_then(|options| quantize(model, precision, &options, &mut |_, _| true));
        let error = result.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(needle), "{error}");
    };
    use ErrorKind::{Argument, Unsupported};
    // All of its matrices are tiny.
    refused(
        &model,
        Precision::Int8,
        "{}",
        Unsupported,
        "no constant matrix",
    );
    refused(&model, Precision::Fp32, "{}", Unsupported, "fp32");
    refused(
        &model,
        Precision::Int8,
        r#"{"scheme": "affine"}"#,
        Argument,
        "int4",
    );
    refused(
        &model,
        Precision::Int8,
        r#"{"block": 5}"#,
        Argument,
        "block is 5",
    );
    refused(&model, Precision::Int8, r#"{"bits": 5}"#, Argument, "bits");
    let int8 = smaller(&minilm(), Precision::Int8, "{}");
    refused(&int8, Precision::Int4, "{}", Unsupported, "fp32");
}

#[test]
fn quantizing_can_be_stopped() {
    let options = QuantizeOptions::default();
    let mut calls = 0;
    let result = quantize(&minilm(), Precision::Int8, &options, &mut |done, count| {
        calls += 1;
        assert!(done <= count);
        done < 10
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(calls, 11);
}

/// A graph of our operators may come from anywhere: whatever byte of it is wrong,
/// a session does not open, a run fails, or a vector comes out.
#[test]
fn damaged_graphs_are_errors() {
    runtime();
    let shape = Shape {
        hidden: 64,
        heads: 2,
        layers: 1,
        intermediate: 96,
        vocabulary: 1_100,
        ..Shape::SMALL
    };
    let model = smaller(
        &Bert::random(7, shape, Dtype::F32).compile(),
        Precision::Int4,
        r#"{"scheme": "affine"}"#,
    );
    let mut random = Random::new(11);
    let texts = [3, 9].map(|count| text(&words(&mut random, count, shape.vocabulary)));
    let texts = texts.each_ref().map(String::as_str);
    let end = model
        .graph
        .windows(15)
        .position(|bytes| bytes == b"QuantizedLinear")
        .expect("operator");
    let mut refused = 0;
    for round in 0..300 {
        let mut graph = model.graph.clone();
        // The nodes are at the beginning, most bytes behind them are weights.
        let limit = if round % 3 == 0 { graph.len() } else { 2 * end };
        let at = random.below(limit.min(graph.len()));
        graph[at] = random.number() as u8;
        let opened = Encoder::new(&graph, &model.tokenizer, model.settings.clone(), options());
        match opened.and_then(|mut encoder| encoder.embed(&texts)) {
            Ok(vectors) => assert_eq!(vectors.len(), 2 * 64),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{refused}");
}
