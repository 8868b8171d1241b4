//! What a GPU would run, run on the processor: what that can't compute with 16 bits,
//! ONNX Runtime widens there.

use super::for_gpu;
use crate::compile::CompiledModel;
use crate::fixture::{EXPORTS, MATRICES, export, least_cosine, minilm, smaller};
use crate::graph::Graph;
use crate::settings::{Pooling, Precision};

/// The model as a GPU would run it.
fn on_gpu(model: &CompiledModel) -> CompiledModel {
    let (graph, settings) = for_gpu(&model.graph, &model.settings).unwrap();
    CompiledModel {
        graph,
        settings,
        ..model.clone()
    }
}

#[test]
fn the_graph_for_a_gpu_gives_the_vectors_of_the_stored_one() {
    for (precision, pooling, least) in [
        (Precision::Fp32, Pooling::Mean, 0.999_999_9),
        (Precision::Fp32, Pooling::Cls, 0.999_999_9),
        (Precision::Fp32, Pooling::Max, 0.999_999_9),
        (Precision::Fp32, Pooling::LastToken, 0.999_999_9),
        (Precision::Fp16, Pooling::Mean, 0.999_99),
    ] {
        let mut model = minilm();
        model.settings.pooling = pooling;
        if precision != Precision::Fp32 {
            model = smaller(&model, precision);
        }
        let changed = on_gpu(&model);
        let is_in_graph = matches!(pooling, Pooling::Mean | Pooling::Cls);
        let left = if is_in_graph { Pooling::None } else { pooling };
        assert_eq!(changed.settings.pooling, left);
        let cosine = least_cosine(&model, &changed);
        assert!(cosine >= least, "{precision:?} {pooling:?}: {cosine}");
    }
}

#[test]
fn an_fp16_model_computes_with_16_bits_from_one_end_to_the_other() {
    let changed = on_gpu(&smaller(&minilm(), Precision::Fp16));
    let graph = Graph::read(&changed.graph).unwrap();
    let casts: Vec<&str> = (0..graph.len())
        .filter(|&index| graph.node(index).op_type == "Cast")
        .map(|index| graph.node(index).output[0].as_str())
        .collect();
    // The hidden states at the end, and the mask that pools them.
    assert_eq!(casts, ["last_hidden_state", "insitu.gpu.mask"]);
    for name in graph.initializer_names() {
        let is_float = graph.initializer(&name).and_then(|t| t.as_floats());
        assert!(is_float.is_none(), "{name} has 32 bits");
    }
}

#[test]
fn fp16_exports_compute_their_products_with_16_bits() {
    for name in EXPORTS {
        let model = export(name);
        let changed = on_gpu(&smaller(&model, Precision::Fp16));
        let cosine = least_cosine(&model, &changed);
        assert!(cosine >= 0.9999, "{name}: {cosine}");
        let graph = Graph::read(&changed.graph).unwrap();
        let nodes = (0..graph.len()).map(|index| graph.node(index));
        let in_half =
            nodes.filter(|node| node.op_type == "MatMul" && node.input[1].ends_with(".fp16"));
        assert_eq!(in_half.count(), MATRICES, "{name}");
    }
}
