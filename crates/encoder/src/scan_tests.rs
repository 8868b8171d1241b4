//! Graphs of our own making, and what a hostile author would do to them.

use prost::Message;

use super::{Refusal, scan};
use crate::onnx::{FLOAT, Graph, INT64, Model, Node, OperatorSet, Tensor, ValueInfo};

fn model() -> Model {
    Model {
        ir_version: 8,
        producer_name: "test".to_owned(),
        graph: Some(Graph {
            node: vec![Node::new(
                "Gather",
                "",
                &["table", "input_ids"],
                "out",
                Vec::new(),
            )],
            name: "graph".to_owned(),
            initializer: vec![Tensor::new("table", FLOAT, &[2, 1], vec![0; 8])],
            input: vec![ValueInfo::tensor("input_ids", INT64, &[Err("b"), Err("s")])],
            output: vec![ValueInfo::tensor(
                "out",
                FLOAT,
                &[Err("b"), Err("s"), Ok(1)],
            )],
        }),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: 17,
        }],
    }
}

/// A length-delimited field.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint((number << 3) | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn is_external(bytes: &[u8]) -> bool {
    match scan(bytes) {
        Err(Refusal::Unsupported(reason)) => reason.contains("external data"),
        _ => false,
    }
}

#[test]
fn a_graph_tells_its_inputs_and_outputs() {
    let model = model();
    let bytes = model.encode_to_vec();
    assert_eq!(Model::decode(bytes.as_slice()).expect("decode"), model);
    let scan = scan(&bytes).expect("scan");
    assert_eq!(scan.inputs[0].name, "input_ids");
    assert_eq!(scan.inputs[0].element(), Some(INT64));
    assert_eq!(scan.inputs[0].shape(), Some(vec![None, None]));
    assert_eq!(scan.outputs[0].shape(), Some(vec![None, None, Some(1)]));
    assert_eq!(scan.initializers, ["table"]);
    assert!(!scan.dynamic_quantization);
}

#[test]
fn external_data_is_refused_wherever_a_tensor_can_stand() {
    // data_location = EXTERNAL, an unknown location, and external_data alone.
    let tensors = [
        [varint(14 << 3), varint(1)].concat(),
        [varint(14 << 3), varint(7)].concat(),
        [varint(14 << 3), varint(1), varint(14 << 3), varint(9)].concat(),
        field(13, &field(1, b"location")),
    ];
    for tensor in &tensors {
        let in_attribute = field(5, tensor);
        let in_graph = field(5, tensor);
        let node_with = |attribute: &[u8]| field(5, attribute);
        let graphs = [
            in_graph.clone(),                                    // initializer
            field(15, &field(1, tensor)),                        // sparse values
            field(15, &field(2, tensor)),                        // sparse indices
            field(1, &node_with(&in_attribute)),                 // attribute t
            field(1, &node_with(&field(10, tensor))),            // tensors
            field(1, &node_with(&field(6, &in_graph))),          // nested graph
            field(1, &node_with(&field(11, &in_graph))),         // nested graphs
            field(1, &node_with(&field(22, &field(1, tensor)))), // sparse_tensor
            field(1, &node_with(&field(23, &field(2, tensor)))), // sparse_tensors
        ];
        for (index, graph) in graphs.iter().enumerate() {
            assert!(is_external(&field(7, graph)), "graph {index}");
        }
        let function = field(7, &node_with(&in_attribute));
        assert!(is_external(&field(25, &function)), "function node");
        assert!(
            is_external(&field(25, &field(11, &in_attribute))),
            "function default"
        );
        assert!(is_external(&field(20, &field(2, &in_graph))), "training");
    }
}

#[test]
fn an_explicit_default_location_is_fine() {
    let tensor = [varint(14 << 3), varint(0)].concat();
    assert!(scan(&field(7, &field(5, &tensor))).is_ok());
}

#[test]
fn dynamic_quantization_is_noticed() {
    let mut model = model();
    let graph = model.graph.as_mut().expect("graph");
    graph.node.push(Node::new(
        "DynamicQuantizeLinear",
        "",
        &["out"],
        "q",
        Vec::new(),
    ));
    assert!(
        scan(&model.encode_to_vec())
            .expect("scan")
            .dynamic_quantization
    );
}

#[test]
fn a_second_graph_and_another_format_are_refused() {
    let one = model().encode_to_vec();
    assert!(matches!(
        scan(&[one.clone(), one].concat()),
        Err(Refusal::Malformed(_))
    ));
    assert!(matches!(
        scan(b"\x20\0\0\0ORTM\0\0\0\0"),
        Err(Refusal::Unsupported(_))
    ));
    assert!(matches!(scan(b""), Err(Refusal::Malformed(_))));
}

#[test]
fn depth_and_number_of_messages_are_bounded() {
    let mut graph = Vec::new();
    for _ in 0..200 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    assert!(matches!(
        scan(&field(7, &graph)),
        Err(Refusal::Malformed(_))
    ));
    // A million empty nodes in two million bytes.
    let nodes = [0x0a_u8, 0x00].repeat(1_000_001);
    assert!(matches!(
        scan(&field(7, &nodes)),
        Err(Refusal::Malformed(_))
    ));
}

#[test]
fn every_truncation_is_refused_or_at_least_survived() {
    let bytes = model().encode_to_vec();
    for length in 0..bytes.len() {
        // Cut between two fields of the outermost message, the rest is a message still.
        let _ = scan(&bytes[..length]);
    }
    assert!(matches!(
        scan(&bytes[..bytes.len() / 2]),
        Err(Refusal::Malformed(_))
    ));
}

#[test]
fn random_bytes_are_survived() {
    arbtest::arbtest(|u| {
        let bytes: Vec<u8> = u.arbitrary()?;
        let _ = scan(&bytes);
        let _ = scan(&field(7, &bytes));
        Ok(())
    })
    .budget_ms(300);
}
