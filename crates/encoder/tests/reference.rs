//! Small random models of every family against vectors that another implementation,
//! Hugging Face's transformers on PyTorch, computed once: `data/reference.py` says how.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{
    Bert, Family, Random, Shape, open, options, text, variable, with_specials, words,
    write_directory,
};
use encoder::{ModelFiles, compile};
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Long enough for an MPNet's last bucket of distances, from 128 on.
const SHAPE: Shape = Shape {
    heads: 3,
    hidden: 24,
    positions: 200,
    ..Shape::SMALL
};

/// Words of the texts; two special tokens stand around them.
const COUNTS: [usize; 6] = [0, 1, 6, 7, 40, 190];

/// The files of a model for each value of `model_type`, by that.
fn models() -> BTreeMap<&'static str, BTreeMap<String, Vec<u8>>> {
    let families = [
        ("bert", Family::Bert),
        ("roberta", Family::Roberta),
        ("xlm-roberta", Family::Roberta),
        ("camembert", Family::Roberta),
        ("distilbert", Family::DistilBert),
        ("mpnet", Family::Mpnet),
    ];
    let with_files = |(seed, (name, family)): (u64, (&'static str, Family))| {
        let bert = Bert::of(family, seed, SHAPE, Dtype::F32);
        let mut config = bert.config();
        config["model_type"] = json!(name);
        if name != "bert" && name != "distilbert" {
            // As published models of these families have it. MPNet's code knows no other.
            config["pad_token_id"] = json!(1);
        }
        let mut files = bert.files("");
        files.insert("config.json".to_owned(), config.to_string().into_bytes());
        (name, files)
    };
    (30..).zip(families).map(with_files).collect()
}

/// The texts' words.
fn texts() -> Vec<Vec<u32>> {
    let mut random = Random::new(97);
    let of_words = |count| words(&mut random, count, SHAPE.vocabulary);
    COUNTS.into_iter().map(of_words).collect()
}

#[test]
fn vectors_are_those_of_another_implementation() {
    let reference: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("data/reference.json")).expect("reference");
    let models = models();
    assert!(models.keys().eq(reference.keys()));
    for (name, files) in models {
        let expected = &reference[name];
        assert_eq!(
            expected["sha256"],
            format!("{:x}", Sha256::digest(&files["model.safetensors"])),
            "{name}: the vectors are those of other weights"
        );
        let model = compile(&ModelFiles::new(files).expect("files")).expect("compile");
        let mut encoder = open(&model, options());
        let rows = expected["means"].as_array().expect("rows");
        assert_eq!(rows.len(), COUNTS.len());
        for (words, row) in texts().iter().zip(rows) {
            let found = encoder.embed(&[&text(words)]).expect("embed");
            let row: Vec<f64> = serde_json::from_value(row.clone()).expect("a row");
            assert_eq!(found.len(), row.len());
            for (found, expected) in found.iter().zip(row) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5,
                    "{name}, {} words: {found} for {expected}",
                    words.len()
                );
            }
        }
    }
}

/// Writes what `data/reference.py` reads, into the directory REFERENCE_MODELS.
#[test]
#[ignore = "it writes files for data/reference.py"]
fn write_models_for_another_implementation() {
    let directory = variable("REFERENCE_MODELS");
    for (name, files) in models() {
        write_directory(&directory.join(name), &files);
    }
    let ids: Vec<Vec<u32>> = texts().iter().map(|words| with_specials(words)).collect();
    fs::write(directory.join("ids.json"), json!(ids).to_string()).expect("ids");
}
