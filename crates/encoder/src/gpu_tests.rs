//! What a GPU would run, run on the processor: what that can't compute with 16 bits,
//! ONNX Runtime widens there.

use std::path::PathBuf;

use super::{OnGpu, for_gpu};
use crate::compile::{CompiledModel, compile};
use crate::encoder::{Encoder, Options, Provider};
use crate::files::ModelFiles;
use crate::graph::Graph;
use crate::quantize::{QuantizeOptions, quantize};
use crate::runtime::load_runtime;
use crate::settings::{Pooling, Precision};

const TEXTS: [&str; 4] = [
    "",
    "river",
    "A stone bridge crosses the river.",
    "In May the prices of houses rose, but those of flats fell by a tenth, as they had in March.",
];

fn variable(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("set {name}")))
}

fn minilm(precision: Precision, pooling: Pooling) -> CompiledModel {
    let files = ModelFiles::read_directory(&variable("INSITU_MINILM")).unwrap();
    let mut model = compile(&files).unwrap();
    model.settings.pooling = pooling;
    if precision == Precision::Fp32 {
        return model;
    }
    let options = QuantizeOptions::default();
    quantize(&model, precision, &options, &mut |_, _| true).unwrap()
}

fn embed(model: &CompiledModel) -> Vec<f32> {
    load_runtime(&variable("INSITU_ONNXRUNTIME")).unwrap();
    let options = Options {
        provider: Provider::Cpu,
        threads: 2,
        batch_tokens: 4_096,
        interrupted: || false,
    };
    let settings = model.settings.clone();
    let mut encoder = Encoder::new(&model.graph, &model.tokenizer, settings, options).unwrap();
    encoder.embed(&TEXTS).unwrap()
}

#[test]
fn the_graph_for_a_gpu_gives_the_vectors_of_the_stored_one() {
    for (precision, pooling, most) in [
        (Precision::Fp32, Pooling::Mean, 1e-6),
        (Precision::Fp32, Pooling::Cls, 1e-6),
        (Precision::Fp32, Pooling::Max, 1e-6),
        (Precision::Fp16, Pooling::Mean, 3e-3),
    ] {
        let mut model = minilm(precision, pooling);
        let expected = embed(&model);
        let OnGpu {
            graph,
            output,
            pooling: left,
        } = for_gpu(&model.graph, &model.settings).unwrap();
        let is_in_graph = pooling != Pooling::Max;
        assert_eq!(left, if is_in_graph { Pooling::None } else { pooling });
        model.graph = graph;
        model.settings.output = output;
        model.settings.pooling = left;
        for (found, expected) in embed(&model).iter().zip(&expected) {
            let difference = (found - expected).abs();
            assert!(difference <= most, "{precision:?} {pooling:?}: {found}, {expected}");
        }
    }
}

#[test]
fn an_fp16_model_computes_with_16_bits_from_one_end_to_the_other() {
    let model = minilm(Precision::Fp16, Pooling::Mean);
    let lowered = for_gpu(&model.graph, &model.settings).unwrap();
    let graph = Graph::read(&lowered.graph).unwrap();
    let casts: Vec<&str> = (0..graph.len())
        .filter(|&index| graph.node(index).op_type == "Cast")
        .map(|index| graph.node(index).output[0].as_str())
        .collect();
    // The hidden states at the end, and the mask that pools them.
    assert_eq!(casts, ["last_hidden_state", "gpu.mask"]);
    for name in graph.initializer_names() {
        let is_float = graph.initializer(&name).and_then(|t| t.as_floats()).is_some();
        assert!(!is_float, "{name} has 32 bits");
    }
}
