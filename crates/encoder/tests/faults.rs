//! Missing, truncated and hostile files: an error that names them, never a panic.

mod common;

use std::collections::BTreeMap;

use common::{Bert, Random, Shape, open, options, write_directory};
use encoder::{Encoder, Error, ErrorKind, ModelFiles, Settings, compile};
use safetensors::Dtype;
use serde_json::{Value, json};

type Files = BTreeMap<String, Vec<u8>>;

fn files() -> Files {
    Bert::random(1, Shape::SMALL, Dtype::F32).files("")
}

fn outcome(files: Files) -> Result<(), Error> {
    compile(&ModelFiles::new(files)?).map(|_| ())
}

fn refused(files: Files) -> Error {
    outcome(files).expect_err("must be refused")
}

fn with_config(change: impl FnOnce(&mut Value)) -> Files {
    let mut files = files();
    let mut config = Bert::random(1, Shape::SMALL, Dtype::F32).config();
    change(&mut config);
    files.insert("config.json".to_owned(), config.to_string().into_bytes());
    files
}

#[test]
fn every_truncated_file_is_an_error_that_names_it() {
    let whole = files();
    for (name, bytes) in &whole {
        let mut random = Random::new(3);
        let mut lengths: Vec<usize> = (0..60).map(|_| random.below(bytes.len())).collect();
        lengths.extend([0, 1, 7, 8, 9, bytes.len() - 1]);
        for length in lengths {
            let mut files = whole.clone();
            files.insert(name.clone(), bytes[..length].to_vec());
            let error = refused(files);
            assert_eq!(
                error.kind(),
                ErrorKind::InvalidModel,
                "{name}, {length}: {error}"
            );
            assert!(
                error.to_string().contains(name.as_str()),
                "{name}, {length}: {error}"
            );
        }
    }
}

#[test]
fn random_files_are_survived() {
    let whole = files();
    arbtest::arbtest(|u| {
        let name = u.choose(&[
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "modules.json",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
            "tokenizer_config.json",
            "config_sentence_transformers.json",
        ])?;
        let mut files = whole.clone();
        let mut bytes = files.get(*name).cloned().unwrap_or_default();
        if u.ratio(1, 4)? || bytes.is_empty() {
            bytes = u.arbitrary()?;
        } else {
            for _ in 0..u.int_in_range(1..=4)? {
                // Headers are where the sizes are.
                let place = u.int_in_range(0..=bytes.len().min(4_000) - 1)?;
                bytes[place] = u.arbitrary()?;
            }
        }
        files.insert((*name).to_owned(), bytes);
        if let Err(error) = outcome(files) {
            assert!(!error.to_string().is_empty());
        }
        Ok(())
    })
    .budget_ms(3_000);
}

#[test]
fn missing_files_are_named() {
    for (missing, said) in [
        ("model.safetensors", "onnx/model.onnx"),
        ("tokenizer.json", "tokenizer.json"),
        ("config.json", "config.json"),
    ] {
        let mut files = files();
        files.remove(missing);
        let error = refused(files);
        assert_eq!(error.kind(), ErrorKind::File, "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("tokenizer.json"))
        );
    }
}

#[test]
fn other_files_of_a_directory_are_left_out() {
    let error = refused(BTreeMap::from([("model.pkl".to_owned(), Vec::new())]));
    assert_eq!(error.kind(), ErrorKind::File);
    let mut more = files();
    more.insert("vocab.txt".to_owned(), vec![0; 100]);
    let with = compile(&ModelFiles::new(more).unwrap()).unwrap();
    let without = compile(&ModelFiles::new(files()).unwrap()).unwrap();
    assert_eq!(with.sha256(), without.sha256());
}

#[test]
fn tensors_must_have_the_shape_of_the_configuration() {
    let error = refused(with_config(|config| config["hidden_size"] = json!(20)));
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert!(
        error
            .to_string()
            .contains("embeddings.word_embeddings.weight"),
        "{error}"
    );
    assert!(error.to_string().contains("[50, 20]"), "{error}");
    let error = refused(with_config(|config| config["num_hidden_layers"] = json!(3)));
    assert!(error.to_string().contains("encoder.layer.2."), "{error}");
    let error = refused(with_config(|config| {
        config["intermediate_size"] = json!(41)
    }));
    assert!(
        error.to_string().contains("intermediate.dense.weight"),
        "{error}"
    );
}

#[test]
fn absurd_numbers_are_errors() {
    for name in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
    ] {
        for number in [
            json!(0),
            json!(-1),
            json!(1_u64 << 40),
            json!(u64::MAX),
            json!(1e300),
            json!("1"),
        ] {
            let shown = number.clone();
            let error = refused(with_config(|config| config[name] = number));
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::InvalidModel | ErrorKind::Unsupported
                ),
                "{name} {shown}: {error}"
            );
        }
    }
    let error = refused(with_config(|config| {
        config["num_attention_heads"] = json!(3)
    }));
    assert!(error.to_string().contains("multiple"), "{error}");
}

#[test]
fn other_architectures_say_what_they_lack() {
    for (name, value) in [
        ("model_type", json!("t5")),
        ("hidden_act", json!("gelu_new")),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
    ] {
        let error = refused(with_config(|config| config[name] = value));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_tokenizer_with_more_words_than_the_table_is_refused() {
    let mut files = files();
    files.insert(
        "tokenizer.json".to_owned(),
        common::tokenizer(51).to_string().into_bytes(),
    );
    let error = refused(files);
    assert!(error.to_string().contains("50"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut bert = Bert::random(1, Shape::SMALL, Dtype::F32);
    let name = "encoder.layer.1.output.dense.bias";
    bert.tensors.get_mut(name).expect("tensor").1[3] = f32::NAN;
    let error = refused(bert.files(""));
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn directories_are_read_with_care() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path();
    assert_eq!(
        ModelFiles::read_directory(&path.join("nothing"))
            .expect_err("missing")
            .kind(),
        ErrorKind::File
    );
    let empty = ModelFiles::read_directory(path).expect("an empty directory can be read");
    assert_eq!(compile(&empty).expect_err("empty").kind(), ErrorKind::File);

    write_directory(path, &files());
    assert!(ModelFiles::read_directory(&path.join("config.json")).is_err());
    std::fs::remove_file(path.join("config.json")).expect("remove");
    std::fs::create_dir(path.join("config.json")).expect("a folder instead");
    let error = ModelFiles::read_directory(path).expect_err("a folder is no file");
    assert!(error.to_string().contains("config.json"), "{error}");

    // Larger than any configuration; sparse, so it costs no disk.
    std::fs::remove_dir(path.join("config.json")).expect("remove");
    let large = std::fs::File::create(path.join("config.json")).expect("create");
    large.set_len(1 << 30).expect("grow");
    let error = ModelFiles::read_directory(path).expect_err("too large");
    assert!(error.to_string().contains("1073741824"), "{error}");

    // A pipe without a writer must not be waited for.
    std::fs::remove_file(path.join("config.json")).expect("remove");
    let made = std::process::Command::new("mkfifo")
        .arg(path.join("config.json"))
        .status()
        .expect("mkfifo");
    assert!(made.success());
    let error = ModelFiles::read_directory(path).expect_err("a pipe");
    assert!(error.to_string().contains("regular"), "{error}");
}

#[test]
fn a_stored_model_that_was_tampered_with_is_an_error() {
    let model = Bert::random(1, Shape::SMALL, Dtype::F32).compile();
    open(&model, options());
    let graph_error = |graph: &[u8]| {
        Encoder::new(graph, &model.tokenizer, model.settings.clone(), options())
            .expect_err("must be refused")
            .kind()
    };
    for length in [0, 1, 10, model.graph.len() / 2, model.graph.len() - 1] {
        assert_eq!(
            graph_error(&model.graph[..length]),
            ErrorKind::InvalidModel,
            "{length}"
        );
    }
    assert_eq!(graph_error(b"no graph at all"), ErrorKind::InvalidModel);

    let with = |change: fn(&mut Settings)| {
        let mut settings = model.settings.clone();
        change(&mut settings);
        Encoder::new(&model.graph, &model.tokenizer, settings, options())
    };
    let changes: [fn(&mut Settings); 4] = [
        |s| s.dimension = 0,
        |s| s.max_tokens = 2,
        |s| s.output = "pooler_output".to_owned(),
        |s| s.vocabulary = Some(10),
    ];
    for change in changes {
        assert_eq!(
            with(change).expect_err("refused").kind(),
            ErrorKind::InvalidModel
        );
    }
    let mut wrong = with(|s| s.dimension = 17).expect("only a run can tell");
    assert_eq!(
        wrong.probe().expect_err("17 of 16").kind(),
        ErrorKind::Inference
    );
    // More tokens than the table has positions: ONNX Runtime finds out.
    let mut wrong = with(|s| s.max_tokens = 1_000).expect("only a run can tell");
    let long = "w5 ".repeat(500);
    assert_eq!(
        wrong.embed(&[&long]).expect_err("too long").kind(),
        ErrorKind::Inference
    );
    wrong.embed(&["w5"]).expect("goes on working");
}
