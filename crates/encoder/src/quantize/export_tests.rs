//! Graphs as exporters write them, of plain operators.

use crate::fixture::{EXPORTS, MATRICES, export, least_cosine, open, smaller};
use crate::graph::Graph;
use crate::onnx::Node;
use crate::settings::Precision;

#[test]
fn exports_of_plain_operators_are_quantized() {
    for name in EXPORTS {
        let model = export(name);
        open(&model).probe().unwrap();
        for (precision, least) in [
            (Precision::Fp16, 0.99999),
            (Precision::Int8, 0.998),
            (Precision::Int4, 0.95),
        ] {
            let smaller = smaller(&model, precision);
            open(&smaller).probe().unwrap();
            let cosine = least_cosine(&model, &smaller);
            assert!(cosine >= least, "{name} {precision:?}: {cosine}");
            if precision == Precision::Fp16 {
                continue;
            }
            let graph = Graph::read(&smaller.graph).unwrap();
            let nodes = (0..graph.len()).map(|index| graph.node(index));
            let of = |operator| nodes.clone().filter(move |node| node.op_type == operator);
            let has_bias = |node: &&Node| node.input.get(3).is_some_and(|bias| !bias.is_empty());
            let is_stored = |node: &&Node| graph.initializer(&node.input[1]).is_some();
            assert_eq!(of("QuantizedLinear").count(), MATRICES, "{name}");
            assert_eq!(
                of("QuantizedLinear").filter(has_bias).count(),
                MATRICES,
                "{name}"
            );
            assert_eq!(of("QuantizedEmbedding").count(), 1, "{name}");
            assert_eq!(of("MatMul").filter(is_stored).count(), 0, "{name}");
        }
    }
}
