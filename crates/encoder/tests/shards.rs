//! Weights in several files, as large models have them.

mod common;

use std::collections::BTreeMap;

use common::{Bert, Shape, write_directory};
use encoder::{Error, ErrorKind, ModelFiles, compile};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

type Files = BTreeMap<String, Vec<u8>>;

fn shard(number: usize) -> String {
    format!("model-0000{number}-of-00003.safetensors")
}

fn map_of(files: &Files) -> BTreeMap<String, String> {
    let index: Value = serde_json::from_slice(&files[INDEX]).expect("index");
    serde_json::from_value(index["weight_map"].clone()).expect("map")
}

fn set_map(files: &mut Files, map: &BTreeMap<String, String>) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    files.insert(INDEX.to_owned(), index.to_string().into_bytes());
}

/// The same files with the weights in three instead of one.
fn split(mut files: Files) -> Files {
    let whole = files.remove(WHOLE).expect("weights");
    let tensors = SafeTensors::deserialize(&whole).expect("tensors");
    let mut map = BTreeMap::new();
    let mut parts: BTreeMap<String, Vec<(String, TensorView<'_>)>> = BTreeMap::new();
    let mut views = tensors.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    for (i, (name, view)) in views.into_iter().enumerate() {
        map.insert(name.clone(), shard(1 + i % 3));
        parts
            .entry(shard(1 + i % 3))
            .or_default()
            .push((name, view));
    }
    for (name, views) in parts {
        files.insert(name, safetensors::serialize(views, None).expect("shard"));
    }
    set_map(&mut files, &map);
    files
}

fn whole() -> Files {
    Bert::random(5, Shape::SMALL, Dtype::F32).files("bert.")
}

fn refused(files: &Files) -> Error {
    let directory = tempfile::tempdir().expect("directory");
    write_directory(directory.path(), files);
    let from_directory = ModelFiles::read_directory(directory.path())
        .and_then(|files| compile(&files))
        .expect_err("must be refused");
    let from_bytes = ModelFiles::new(files.clone())
        .and_then(|files| compile(&files))
        .expect_err("must be refused");
    assert_eq!(from_directory.to_string(), from_bytes.to_string());
    from_bytes
}

#[test]
fn several_files_are_the_same_model_as_one() {
    let expected = compile(&ModelFiles::new(whole()).expect("files")).expect("compile");
    let files = split(whole());
    let from_bytes = ModelFiles::new(files.clone()).expect("files");
    assert_eq!(compile(&from_bytes).expect("compile"), expected);
    let directory = tempfile::tempdir().expect("directory");
    write_directory(directory.path(), &files);
    let read = ModelFiles::read_directory(directory.path()).expect("read");
    assert_eq!(compile(&read).expect("compile"), expected);
    // The one file is what counts where it is there.
    let mut both = whole();
    both.insert(INDEX.to_owned(), b"no JSON".to_vec());
    let both = ModelFiles::new(both).expect("files");
    assert_eq!(compile(&both).expect("compile"), expected);
}

#[test]
fn a_missing_shard_is_named() {
    let mut files = split(whole());
    files.remove(&shard(2));
    let error = refused(&files);
    assert_eq!(error.kind(), ErrorKind::File);
    assert_eq!(
        error.to_string(),
        format!(
            "the model is incomplete: {INDEX} refers to \"{}\", which is not there",
            shard(2)
        )
    );
}

#[test]
fn a_tensor_that_is_elsewhere_is_named() {
    let mut files = split(whole());
    let mut map = map_of(&files);
    let (tensor, place) = map.iter_mut().next().expect("a tensor");
    assert_eq!(*place, shard(1));
    *place = shard(3);
    let tensor = tensor.clone();
    set_map(&mut files, &map);
    let error = refused(&files);
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert_eq!(
        error.to_string(),
        format!(
            "\"{}\" is not valid: it has no tensor \"{tensor}\", which {INDEX} says is in it",
            shard(3)
        )
    );
}

#[test]
fn a_tensor_that_the_index_leaves_out_is_named() {
    let mut files = split(whole());
    let mut map = map_of(&files);
    let name = "bert.embeddings.LayerNorm.bias";
    map.remove(name).expect("the tensor");
    set_map(&mut files, &map);
    let error = refused(&files);
    assert!(error.to_string().contains(INDEX), "{error}");
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    for path in [
        "../model-00001-of-00003.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..",
        "",
        "config.json",
        "model.bin",
    ] {
        let mut files = split(whole());
        let mut map = map_of(&files);
        *map.values_mut().next().expect("a place") = path.to_owned();
        set_map(&mut files, &map);
        let error = refused(&files);
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{path}");
        assert!(
            error
                .to_string()
                .contains("not the name of a file of weights beside it"),
            "{error}"
        );
    }
}

#[test]
fn damaged_indexes_and_shards_are_named() {
    for index in [
        "",
        "{}",
        "[]",
        r#"{"weight_map": {}}"#,
        r#"{"weight_map": {"a": 3}}"#,
    ] {
        let mut files = split(whole());
        files.insert(INDEX.to_owned(), index.as_bytes().to_vec());
        let error = refused(&files);
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{index}");
        assert!(error.to_string().contains(INDEX), "{error}");
    }
    let mut files = split(whole());
    files.get_mut(&shard(2)).expect("shard").truncate(100);
    let error = refused(&files);
    assert_eq!(error.kind(), ErrorKind::InvalidModel);
    assert!(error.to_string().contains(&shard(2)), "{error}");
}

#[test]
fn reading_and_compiling_can_be_stopped() {
    let directory = tempfile::tempdir().expect("directory");
    write_directory(directory.path(), &split(whole()));
    let stopped = ModelFiles::read_directory_unless(directory.path(), || true);
    assert_eq!(stopped.expect_err("stopped").kind(), ErrorKind::Interrupted);
    let files = ModelFiles::new(split(whole())).expect("files");
    let stopped = compile(&files.unless(|| true));
    assert_eq!(stopped.expect_err("stopped").kind(), ErrorKind::Interrupted);
}
