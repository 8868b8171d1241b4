//! Models for unit tests, and what they give.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::compile::{CompiledModel, compile};
use crate::encoder::{Encoder, Options, Provider};
use crate::evaluation::cosine;
use crate::files::ModelFiles;
use crate::graph::Graph;
use crate::onnx::Tensor;
use crate::quantize::{QuantizeOptions, quantize};
use crate::runtime::load_runtime;
use crate::settings::Precision;

fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    PathBuf::from(value.unwrap_or_else(|| panic!("set {name}, as `make test` does")))
}

/// all-MiniLM-L6-v2.
pub(crate) fn minilm() -> CompiledModel {
    let files = ModelFiles::read_directory(&variable("INSITU_MINILM")).unwrap();
    compile(&files).unwrap()
}

/// Names of the graphs in `tests/data/exports`, as exporters write them, of plain operators.
pub(crate) const EXPORTS: [&str; 4] = [
    "bert-torchscript",
    "bert-dynamo",
    "distilbert-torchscript",
    "mpnet-dynamo",
];

/// Matrices of each export: four of attention, two behind it, in two layers.
pub(crate) const MATRICES: usize = 12;

const TOKENIZER: &str = r###"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
              "vocab": {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}}
}"###;

/// Numbers without a pattern, in −0.2..0.2.
fn noise(count: usize, seed: &mut u64) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((*seed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * 0.2
    };
    (0..count).map(|_| next()).collect()
}

/// The model of an export, whose large weights are noise.
pub(crate) fn export(name: &str) -> CompiledModel {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/exports");
    let stripped = std::fs::read(directory.join(format!("{name}.onnx"))).unwrap();
    let weights = std::fs::read(directory.join("weights.json")).unwrap();
    let weights: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_slice(&weights).unwrap();
    let mut graph = Graph::read(&stripped).unwrap();
    let mut seed = 7;
    for (name, shape) in &weights[name] {
        let values = noise(shape.iter().product(), &mut seed);
        graph.add_initializer(Tensor::floats(name, shape, &values));
    }
    let model_type = name.split('-').next().unwrap();
    let config = format!(
        r#"{{"model_type": "{model_type}", "hidden_size": 64, "pad_token_id": 1,
             "max_position_embeddings": 130}}"#
    );
    let files = [
        ("config.json", config.into_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes().to_vec()),
        ("onnx/model.onnx", graph.write(None)),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes));
    compile(&ModelFiles::new(BTreeMap::from(files)).unwrap()).unwrap()
}

pub(crate) fn smaller(model: &CompiledModel, precision: Precision) -> CompiledModel {
    quantize(
        model,
        precision,
        &QuantizeOptions::default(),
        &mut |_, _| true,
    )
    .unwrap()
}

pub(crate) fn open(model: &CompiledModel) -> Encoder {
    load_runtime(&variable("INSITU_ONNXRUNTIME")).unwrap();
    let options = Options {
        provider: Provider::Cpu,
        threads: 2,
        batch_tokens: 4_096,
        interrupted: || false,
    };
    let settings = model.settings.clone();
    Encoder::new(&model.graph, &model.tokenizer, settings, options).unwrap()
}

/// Texts of 0 to 100 words, of which the exports know three.
fn texts() -> Vec<String> {
    let mut seed = 11;
    let word = |value: f32| match value {
        ..-0.05 => "a",
        ..0.1 => "b",
        _ => "c",
    };
    let of_words = |count| {
        let words: Vec<&str> = noise(count, &mut seed).into_iter().map(word).collect();
        words.join(" ")
    };
    [0, 1, 2, 5, 6, 7, 30, 100].map(of_words).to_vec()
}

/// The least cosine of the vectors of texts in two models.
pub(crate) fn least_cosine(a: &CompiledModel, b: &CompiledModel) -> f64 {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let [ours, theirs] = [a, b].map(|model| open(model).embed(&texts).unwrap());
    let dimension = a.settings.dimension;
    let rows = ours
        .chunks_exact(dimension)
        .zip(theirs.chunks_exact(dimension));
    rows.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min)
}
