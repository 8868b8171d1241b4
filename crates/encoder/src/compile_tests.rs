//! The way of an ONNX export, with tiny graphs that are written here: a table of
//! vectors, looked up by token.

use std::collections::BTreeMap;

use prost::Message;

use super::{CompiledModel, compile, file_sha256};
use crate::error::{Error, ErrorKind};
use crate::files::ModelFiles;
use crate::fixture::open;
use crate::onnx::{
    Attribute, FLOAT, Graph, INT32, INT64, Model, Node, OperatorSet, Tensor, ValueInfo,
};
use crate::settings::Pooling;

const TABLE: [[f32; 2]; 7] = [
    [100.0, 100.0],
    [1.0, 0.0],
    [0.5, 2.0],
    [0.25, 4.0],
    [3.0, 8.0],
    [7.0, -16.0],
    [-9.0, 32.0],
];

const TOKENIZER: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
              "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}}
}"#;

fn ids(name: &str, element: i32) -> ValueInfo {
    ValueInfo::tensor(name, element, &[Err("batch"), Err("sequence")])
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::floats(name, shape, values)
}

/// One vector per token, under this name.
fn by_token(output: &str, element: i32) -> Graph {
    Graph {
        node: vec![Node::new(
            "Gather",
            "",
            &["table", "input_ids"],
            output,
            Vec::new(),
        )],
        name: "lookup".to_owned(),
        initializer: vec![floats("table", &[7, 2], TABLE.as_flattened())],
        input: vec![ids("input_ids", element), ids("attention_mask", element)],
        output: vec![ValueInfo::tensor(
            output,
            FLOAT,
            &[Err("batch"), Err("sequence"), Ok(2)],
        )],
    }
}

/// The same, and the first token's vector as that of the text.
fn by_text() -> Graph {
    let mut graph = by_token("token_embeddings", INT64);
    graph.initializer.push(Tensor::integers("first", &[], &[0]));
    graph.node.push(Node::new(
        "Gather",
        "",
        &["token_embeddings", "first"],
        "sentence_embedding",
        vec![Attribute::int("axis", 1)],
    ));
    graph.output.push(ValueInfo::tensor(
        "sentence_embedding",
        FLOAT,
        &[Err("batch"), Ok(2)],
    ));
    graph
}

/// One vector per token, from which the greatest of the batch is subtracted.
fn by_batch() -> Graph {
    let mut graph = by_token("looked_up", INT64);
    let axes = vec![Attribute::ints("axes", &[0])];
    let greatest = Node::new("ReduceMax", "", &["looked_up"], "greatest", axes);
    let inputs = ["looked_up", "greatest"];
    let difference = Node::new("Sub", "", &inputs, "token_embeddings", Vec::new());
    graph.node.extend([greatest, difference]);
    let shape = [Err("batch"), Err("sequence"), Ok(2)];
    graph.output = vec![ValueInfo::tensor("token_embeddings", FLOAT, &shape)];
    graph
}

fn bytes(graph: Graph) -> Vec<u8> {
    let model = Model {
        ir_version: 8,
        producer_name: "test".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: 17,
        }],
    };
    model.encode_to_vec()
}

fn compiled(graph: Graph, more: &[(&str, &str)]) -> Result<CompiledModel, Error> {
    let mut files = BTreeMap::from([
        ("onnx/model.onnx".to_owned(), bytes(graph)),
        ("tokenizer.json".to_owned(), TOKENIZER.as_bytes().to_vec()),
    ]);
    for (name, text) in more {
        files.insert((*name).to_owned(), text.as_bytes().to_vec());
    }
    compile(&ModelFiles::new(files)?)
}

#[test]
fn token_vectors_of_either_integer_type_and_any_name() {
    for (output, element) in [
        ("last_hidden_state", INT64),
        ("token_embeddings", INT32),
        ("anything", INT64),
    ] {
        let model = compiled(by_token(output, element), &[]).expect("compile");
        assert_eq!(model.settings.output, output);
        assert_eq!(model.settings.dimension, 2);
        assert_eq!(model.settings.pooling, Pooling::Mean);
        assert_eq!(model.settings.architecture, "onnx");
        assert_eq!(
            model.graph,
            bytes(by_token(output, element)),
            "stored byte for byte"
        );
        let mut encoder = open(&model);
        encoder.probe().expect("probe");
        // [CLS] a b [SEP], without the padding's hundreds.
        let expected = [
            (0.5 + 3.0 + 7.0 + 0.25) / 4.0,
            (2.0 + 8.0 - 16.0 + 4.0) / 4.0,
        ];
        assert_eq!(encoder.embed(&["a b"]).expect("embed"), expected);
        // [CLS] [SEP] and [CLS] [UNK] [SEP].
        assert_eq!(
            encoder.embed(&["", "zzz"]).expect("embed"),
            [0.375, 3.0, (0.5 + 1.0 + 0.25) / 3.0, 2.0]
        );
    }
}

#[test]
fn a_model_that_looks_at_other_texts_is_refused() {
    // Words of the texts that a model is probed with.
    let words = [
        ("\"a\"", "\"stone\""),
        ("\"b\"", "\"bridge\""),
        ("\"c\"", "\"river\""),
    ];
    let replaced = |text: String, (from, to): (&str, &str)| text.replace(from, to);
    let tokenizer = words.into_iter().fold(TOKENIZER.to_owned(), replaced);
    let more = [("tokenizer.json", &tokenizer[..])];
    let honest = compiled(by_token("token_embeddings", INT64), &more).expect("compile");
    open(&honest).probe().expect("probe");
    let model = compiled(by_batch(), &more).expect("compile");
    let error = open(&model).probe().expect_err("probe");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error
            .to_string()
            .contains("another vector when other texts"),
        "{error}"
    );
}

#[test]
fn a_graph_that_pools_is_left_to_it() {
    let modules = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
    let model = compiled(by_text(), &[("modules.json", modules)]).expect("compile");
    assert_eq!(model.settings.pooling, Pooling::None);
    let mut encoder = open(&model);
    encoder.probe().expect("probe");
    let vector = encoder.embed(&["a b c"]).expect("embed");
    let length = (0.25_f64 + 4.0).sqrt();
    assert_eq!(vector, [(0.5 / length) as f32, (2.0 / length) as f32]);
    // The same module is beyond a graph that gives token vectors only.
    let graph = by_token("last_hidden_state", INT64);
    let error = compiled(graph, &[("modules.json", modules)]).expect_err("Dense");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn dynamic_quantization_runs_texts_alone() {
    let mut graph = by_token("last_hidden_state", INT64);
    // Its scale comes from all the rows of a batch; its results go nowhere here.
    let mut node = Node::new(
        "DynamicQuantizeLinear",
        "",
        &["last_hidden_state"],
        "q",
        Vec::new(),
    );
    node.output
        .extend(["q_scale".to_owned(), "q_zero".to_owned()]);
    graph.node.push(node);
    let model = compiled(graph, &[]).expect("compile");
    assert!(model.settings.one_by_one);
    open(&model).probe().expect("probe");
}

#[test]
fn inputs_and_outputs_that_are_not_ours_are_refused() {
    let graph = || by_token("last_hidden_state", INT64);
    let changes: [fn(&mut Graph); 5] = [
        |graph| graph.input.push(ids("position_ids", INT64)),
        |graph| graph.input[1] = ids("attention_mask", FLOAT),
        |graph| {
            graph.input.remove(0);
        },
        |graph| graph.output.clear(),
        |graph| {
            graph.output[0] =
                ValueInfo::tensor("last_hidden_state", 10, &[Err("b"), Err("s"), Ok(2)])
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut graph = graph();
        change(&mut graph);
        let error = compiled(graph, &[]).expect_err("must be refused");
        assert_eq!(
            error.kind(),
            ErrorKind::Unsupported,
            "change {index}: {error}"
        );
        assert!(error.to_string().contains("onnx/model.onnx"), "{error}");
    }
    // An initializer that is declared among the inputs needs no filling.
    let mut old_style = graph();
    old_style
        .input
        .push(ValueInfo::tensor("table", FLOAT, &[Ok(7), Ok(2)]));
    compiled(old_style, &[]).expect("compile");
}

#[test]
fn the_dimension_may_come_from_the_configuration() {
    let mut graph = by_token("last_hidden_state", INT64);
    graph.output[0] = ValueInfo::tensor(
        "last_hidden_state",
        FLOAT,
        &[Err("batch"), Err("sequence"), Err("hidden")],
    );
    let error = compiled(graph.clone(), &[]).expect_err("no dimension");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let config = r#"{"model_type": "roberta", "hidden_size": 2, "max_position_embeddings": 12, "pad_token_id": 1}"#;
    let model = compiled(graph.clone(), &[("config.json", config)]).expect("compile");
    assert_eq!(
        (model.settings.dimension, model.settings.max_tokens),
        (2, 10)
    );
    assert_eq!(model.settings.architecture, "roberta");
    open(&model).probe().expect("probe");
    // A lie is found out by running.
    let config = r#"{"hidden_size": 3}"#;
    let model = compiled(graph, &[("config.json", config)]).expect("compile");
    assert_eq!(
        open(&model).probe().expect_err("2, not 3").kind(),
        ErrorKind::Inference
    );
}

#[test]
fn vectors_that_are_not_finite_are_errors() {
    let mut graph = by_token("last_hidden_state", INT64);
    let mut table = TABLE;
    table[4][1] = f32::INFINITY;
    graph.initializer[0] = floats("table", &[7, 2], table.as_flattened());
    let mut encoder = open(&compiled(graph, &[]).expect("compile"));
    let error = encoder.embed(&["b", "a"]).expect_err("infinite");
    assert_eq!(error.kind(), ErrorKind::Inference);
    encoder.embed(&["b", "c"]).expect("goes on working");
}

#[test]
fn ids_beyond_the_table_are_errors() {
    let mut graph = by_token("last_hidden_state", INT64);
    graph.initializer[0] = floats("table", &[6, 2], TABLE[..6].as_flattened());
    let mut encoder = open(&compiled(graph, &[]).expect("compile"));
    assert_eq!(
        encoder.embed(&["c"]).expect_err("7th row").kind(),
        ErrorKind::Inference
    );
    encoder.embed(&["b"]).expect("goes on working");
}

#[test]
fn truncated_graphs_name_the_file() {
    let whole = bytes(by_token("last_hidden_state", INT64));
    // The last four bytes say which operators it uses; ONNX Runtime misses them.
    for length in 0..whole.len() - 4 {
        let files = BTreeMap::from([
            ("model.onnx".to_owned(), whole[..length].to_vec()),
            ("tokenizer.json".to_owned(), TOKENIZER.as_bytes().to_vec()),
        ]);
        let files = ModelFiles::new(files).expect("files");
        let error = compile(&files).expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{length}: {error}");
        assert!(error.to_string().contains("model.onnx"), "{error}");
    }
}

#[test]
fn a_file_is_named_by_its_sha256() {
    // From FIPS 180-4's examples.
    assert_eq!(
        file_sha256(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        file_sha256(b""),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}
