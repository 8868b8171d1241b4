//! Graphs as exporters write them, of plain operators: in `tests/data/exports`, whose
//! large weights are random numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{QuantizeOptions, quantize};
use crate::compile::{CompiledModel, compile};
use crate::encoder::{Encoder, Options, Provider};
use crate::files::ModelFiles;
use crate::gpu::{OnGpu, for_gpu};
use crate::graph::Graph;
use crate::onnx::Tensor;
use crate::runtime::load_runtime;
use crate::settings::Precision;

const EXPORTS: [(&str, &str, &[u8]); 4] = [
    (
        "bert",
        "bert-torchscript",
        include_bytes!("../../tests/data/exports/bert-torchscript.onnx"),
    ),
    (
        "bert",
        "bert-dynamo",
        include_bytes!("../../tests/data/exports/bert-dynamo.onnx"),
    ),
    (
        "distilbert",
        "distilbert-torchscript",
        include_bytes!("../../tests/data/exports/distilbert-torchscript.onnx"),
    ),
    (
        "mpnet",
        "mpnet-dynamo",
        include_bytes!("../../tests/data/exports/mpnet-dynamo.onnx"),
    ),
];

const WEIGHTS: &str = include_str!("../../tests/data/exports/weights.json");

const TOKENIZER: &str = r###"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
              "vocab": {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}}
}"###;

/// Matrices of each export: four of attention, two behind it, in two layers.
const MATRICES: usize = 12;

fn random(count: usize, seed: &mut u64) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((*seed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * 0.2
    };
    (0..count).map(|_| next()).collect()
}

/// The model of an export, and how its graph is found in it.
fn model(model_type: &str, name: &str, stripped: &[u8]) -> CompiledModel {
    let weights: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(WEIGHTS).unwrap();
    let mut graph = Graph::read(stripped).unwrap();
    let mut seed = 7;
    for (name, shape) in &weights[name] {
        let values = random(shape.iter().product(), &mut seed);
        graph.add_initializer(Tensor::floats(name, shape, &values));
    }
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

fn texts() -> Vec<String> {
    let mut seed = 11;
    [0, 1, 2, 5, 6, 7, 30, 100]
        .map(|count| {
            let words = random(count, &mut seed);
            let words: Vec<&str> = words
                .iter()
                .map(|&value| if value < -0.05 { "a" } else if value < 0.1 { "b" } else { "c" })
                .collect();
            words.join(" ")
        })
        .to_vec()
}

fn open(model: &CompiledModel) -> Encoder {
    let path = std::env::var_os("INSITU_ONNXRUNTIME").expect("set INSITU_ONNXRUNTIME");
    load_runtime(&PathBuf::from(path)).unwrap();
    let options = Options {
        provider: Provider::Cpu,
        threads: 2,
        batch_tokens: 4_096,
        interrupted: || false,
    };
    let settings = model.settings.clone();
    Encoder::new(&model.graph, &model.tokenizer, settings, options).unwrap()
}

/// The least cosine of the texts' vectors in two models.
fn least_cosine(a: &CompiledModel, b: &CompiledModel) -> f64 {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let [a, b] = [a, b].map(|model| open(model).embed(&texts).unwrap());
    let rows = a.chunks_exact(64).zip(b.chunks_exact(64));
    rows.map(|(a, b)| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    })
    .fold(1.0, f64::min)
}

#[test]
fn exports_of_plain_operators_are_quantized() {
    for (model_type, name, stripped) in EXPORTS {
        let model = model(model_type, name, stripped);
        open(&model).probe().unwrap();
        for (precision, least) in [
            (Precision::Fp16, 0.99999),
            (Precision::Int8, 0.998),
            (Precision::Int4, 0.95),
        ] {
            let options = QuantizeOptions::default();
            let smaller = quantize(&model, precision, &options, &mut |_, _| true).unwrap();
            open(&smaller).probe().unwrap();
            let cosine = least_cosine(&model, &smaller);
            assert!(cosine >= least, "{name} {precision:?}: {cosine}");
            if precision == Precision::Fp16 {
                continue;
            }
            let graph = Graph::read(&smaller.graph).unwrap();
            let nodes = (0..graph.len()).map(|index| graph.node(index));
            let of = |operator| nodes.clone().filter(move |node| node.op_type == operator);
            assert_eq!(of("QuantizedLinear").count(), MATRICES, "{name}");
            let has_bias = |node: &&crate::onnx::Node| node.input.get(3).is_some_and(|b| !b.is_empty());
            assert_eq!(of("QuantizedLinear").filter(has_bias).count(), MATRICES, "{name}");
            assert_eq!(of("QuantizedEmbedding").count(), 1, "{name}");
            let is_stored = |node: &&crate::onnx::Node| graph.initializer(&node.input[1]).is_some();
            assert_eq!(of("MatMul").filter(is_stored).count(), 0, "{name}");
        }
    }
}

/// What a GPU would run, run on the processor.
#[test]
fn fp16_exports_compute_with_16_bits_on_a_gpu() {
    for (model_type, name, stripped) in EXPORTS {
        let model = model(model_type, name, stripped);
        let options = QuantizeOptions::default();
        let halved = quantize(&model, Precision::Fp16, &options, &mut |_, _| true).unwrap();
        let OnGpu {
            graph,
            output,
            pooling,
        } = for_gpu(&halved.graph, &halved.settings).unwrap();
        let mut lowered = halved;
        lowered.graph = graph;
        lowered.settings.output = output;
        lowered.settings.pooling = pooling;
        let cosine = least_cosine(&model, &lowered);
        assert!(cosine >= 0.9999, "{name}: {cosine}");
        let graph = Graph::read(&lowered.graph).unwrap();
        let nodes = (0..graph.len()).map(|index| graph.node(index));
        let in_half = nodes.filter(|node| {
            node.op_type == "MatMul" && node.input[1].ends_with(".fp16")
        });
        assert_eq!(in_half.count(), MATRICES, "{name}");
    }
}
