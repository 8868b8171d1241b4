//! The graph that the crate writes for a BERT, against the naive forward pass.

mod common;

use std::collections::BTreeMap;

use common::{
    Bert, Family, Random, Shape, open, options, text, with_specials, words, write_directory,
};
use encoder::{ModelFiles, Pooling, compile};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn pooled(states: &[Vec<f64>], pooling: Pooling) -> Vec<f64> {
    let dimension = states[0].len();
    match pooling {
        Pooling::Mean => (0..dimension)
            .map(|i| states.iter().map(|state| state[i]).sum::<f64>() / states.len() as f64)
            .collect(),
        Pooling::Max => (0..dimension)
            .map(|i| states.iter().map(|state| state[i]).fold(f64::MIN, f64::max))
            .collect(),
        Pooling::Cls => states[0].clone(),
        Pooling::LastToken => states[states.len() - 1].clone(),
        Pooling::None => panic!("a BERT of ours gives token vectors"),
    }
}

fn add_pooling(files: &mut BTreeMap<String, Vec<u8>>, flag: &str, normalize: bool) {
    let mut modules = vec![
        json!({"path": "", "type": "sentence_transformers.models.Transformer"}),
        json!({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}),
    ];
    if normalize {
        modules
            .push(json!({"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}));
    }
    let mut config = serde_json::Map::new();
    config.insert(flag.to_owned(), Value::Bool(true));
    files.insert(
        "modules.json".to_owned(),
        Value::Array(modules).to_string().into_bytes(),
    );
    files.insert(
        "1_Pooling/config.json".to_owned(),
        Value::Object(config).to_string().into_bytes(),
    );
}

#[test]
fn the_forward_pass_is_that_of_a_bert() {
    let small = Shape::SMALL;
    let cases = [
        (
            Shape {
                layers: 1,
                heads: 1,
                hidden: 8,
                ..small
            },
            "",
            Dtype::F32,
            "pooling_mode_mean_tokens",
            Pooling::Mean,
            false,
        ),
        (
            Shape {
                layers: 2,
                heads: 2,
                ..small
            },
            "bert.",
            Dtype::F32,
            "pooling_mode_cls_token",
            Pooling::Cls,
            false,
        ),
        (
            Shape {
                layers: 3,
                heads: 4,
                ..small
            },
            "",
            Dtype::F32,
            "pooling_mode_mean_tokens",
            Pooling::Mean,
            true,
        ),
        (
            Shape {
                layers: 2,
                heads: 3,
                hidden: 24,
                ..small
            },
            "bert.",
            Dtype::F16,
            "pooling_mode_max_tokens",
            Pooling::Max,
            false,
        ),
        (
            Shape {
                layers: 1,
                heads: 4,
                hidden: 32,
                ..small
            },
            "",
            Dtype::BF16,
            "pooling_mode_lasttoken",
            Pooling::LastToken,
            true,
        ),
    ];
    for (index, (shape, prefix, dtype, flag, pooling, normalize)) in cases.into_iter().enumerate() {
        let bert = Bert::random(index as u64, shape, dtype);
        let mut files = bert.files(prefix);
        add_pooling(&mut files, flag, normalize);
        let model = compile(&ModelFiles::new(files).expect("files")).expect("compile");
        assert_eq!(model.settings.pooling, pooling);
        assert_eq!(model.settings.normalize, normalize);
        assert_eq!(model.settings.dimension, shape.hidden);
        assert_eq!(model.settings.max_tokens, shape.positions);
        let mut encoder = open(&model, options());
        encoder.probe().expect("probe");
        let mut random = Random::new(99);
        for count in [0, 1, 2, 5, 6, 7, 20, 62] {
            let words = words(&mut random, count, shape.vocabulary);
            let vector = encoder.embed(&[&text(&words)]).expect("embed");
            let mut expected = pooled(&bert.hidden_states(&with_specials(&words)), pooling);
            if normalize {
                let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
                expected.iter_mut().for_each(|x| *x /= length);
            }
            let scale = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            assert_eq!(vector.len(), expected.len());
            for (found, expected) in vector.iter().zip(&expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(
                    difference <= 1e-5 * scale,
                    "case {index}, {count} words: {found} for {expected}"
                );
            }
        }
    }
}

/// Linear layers after pooling, in files of their own.
#[test]
fn linear_layers_follow_the_pooling() {
    let bert = Bert::random(20, Shape::SMALL, Dtype::F32);
    let hidden = Shape::SMALL.hidden;
    let sizes = [
        (hidden, 9, true, "torch.nn.modules.activation.Tanh"),
        (9, 5, false, "torch.nn.Identity"),
    ];
    let mut files = bert.files("");
    add_pooling(&mut files, "pooling_mode_max_tokens", true);
    let mut modules: Vec<Value> = serde_json::from_slice(&files["modules.json"]).expect("modules");
    let normalize = modules.pop().expect("normalize");
    let mut random = Random::new(21);
    let mut layers = Vec::new();
    for (i, (inputs, outputs, bias, activation)) in sizes.into_iter().enumerate() {
        let folder = format!("{}_Dense", i + 2);
        modules.push(json!({"path": folder, "type": "sentence_transformers.models.Dense"}));
        let config = json!({"in_features": inputs, "out_features": outputs, "bias": bias,
                            "activation_function": activation});
        files.insert(
            format!("{folder}/config.json"),
            config.to_string().into_bytes(),
        );
        let weight: Vec<f32> = (0..inputs * outputs).map(|_| random.value()).collect();
        let biases: Vec<f32> = (0..outputs).map(|_| random.value()).collect();
        let mut tensors = vec![("linear.weight", vec![outputs, inputs], bytes(&weight))];
        if bias {
            tensors.push(("linear.bias", vec![outputs], bytes(&biases)));
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("view");
            (*name, view)
        });
        let saved = safetensors::serialize(views, None).expect("serialize");
        files.insert(format!("{folder}/model.safetensors"), saved);
        layers.push((
            weight,
            if bias { biases } else { vec![0.0; outputs] },
            i == 0,
        ));
    }
    modules.push(normalize);
    files.insert(
        "modules.json".to_owned(),
        Value::Array(modules).to_string().into_bytes(),
    );

    let model = compile(&ModelFiles::new(files.clone()).expect("files")).expect("compile");
    assert_eq!(
        (model.settings.dimension, model.settings.pooling),
        (5, Pooling::None)
    );
    let mut encoder = open(&model, options());
    encoder.probe().expect("probe");
    for count in [0, 1, 5, 6, 40] {
        let words = words(&mut random, count, Shape::SMALL.vocabulary);
        let mut expected = pooled(&bert.hidden_states(&with_specials(&words)), Pooling::Max);
        for (weight, bias, tanh) in &layers {
            let rows = weight.chunks_exact(expected.len()).zip(bias);
            let sums = rows.map(|(row, &bias)| {
                let products = row.iter().zip(&expected).map(|(&w, x)| f64::from(w) * x);
                products.sum::<f64>() + f64::from(bias)
            });
            expected = sums.map(|x| if *tanh { x.tanh() } else { x }).collect();
        }
        let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let vector = encoder.embed(&[&text(&words)]).expect("embed");
        for (found, expected) in vector.iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected / length).abs() < 1e-5,
                "{count} words"
            );
        }
    }

    files.remove("3_Dense/model.safetensors");
    let error = compile(&ModelFiles::new(files).expect("files")).expect_err("missing");
    assert!(
        error.to_string().contains("3_Dense/model.safetensors"),
        "{error}"
    );
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn relatives_of_bert_are_what_their_papers_say() {
    let families = [
        (Family::Roberta, "roberta."),
        (Family::DistilBert, "distilbert."),
        (Family::Mpnet, "mpnet."),
        (Family::Mpnet, ""),
    ];
    for (seed, (family, prefix)) in (10..).zip(families) {
        let shape = Shape {
            heads: 3,
            hidden: 24,
            positions: 220,
            ..Shape::SMALL
        };
        let bert = Bert::of(family, seed, shape, Dtype::F32);
        let model = compile(&ModelFiles::new(bert.files(prefix)).expect("files")).expect("compile");
        assert_eq!(model.settings.max_tokens, bert.room());
        let mut encoder = open(&model, options());
        encoder.probe().expect("probe");
        let mut random = Random::new(98);
        for count in [0, 1, 6, 7, 21, 140, bert.room() - 2] {
            let words = words(&mut random, count, shape.vocabulary);
            let vector = encoder.embed(&[&text(&words)]).expect("embed");
            let expected = pooled(&bert.hidden_states(&with_specials(&words)), Pooling::Mean);
            let scale = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            for (found, expected) in vector.iter().zip(&expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(
                    difference <= 1e-5 * scale,
                    "{family:?}, {count} words: {found} for {expected}"
                );
            }
        }
        // One token more than there are positions for.
        let longest = words(&mut random, bert.room() - 2, shape.vocabulary);
        let mut longer = longest.clone();
        longer.extend(&longest);
        assert_eq!(
            encoder.embed(&[&text(&longer)]).expect("longer"),
            encoder.embed(&[&text(&longest)]).expect("longest")
        );
    }
}

#[test]
fn long_texts_are_cut_at_the_limit() {
    let bert = Bert::random(1, Shape::SMALL, Dtype::F32);
    let model = bert.compile();
    let mut encoder = open(&model, options());
    let words = words(&mut Random::new(5), 500, Shape::SMALL.vocabulary);
    // 64 positions, two of them for the special tokens.
    let cut = encoder.embed(&[&text(&words[..62])]).expect("cut");
    for count in [63, 64, 100, 500] {
        let long = encoder.embed(&[&text(&words[..count])]).expect("long");
        assert_eq!(long, cut, "{count} words");
    }
    let shorter = encoder.embed(&[&text(&words[..61])]).expect("shorter");
    assert_ne!(shorter, cut);
    assert_eq!(encoder.count_tokens(&text(&words)).expect("count"), 502);
}

#[test]
fn white_space_does_not_count() {
    let bert = Bert::random(2, Shape::SMALL, Dtype::F32);
    let mut encoder = open(&bert.compile(), options());
    let plain = encoder.embed(&["w5 w6", ""]).expect("plain");
    assert_eq!(
        encoder.embed(&["  w5\n w6 \t", " \n"]).expect("spaced"),
        plain
    );
    assert_eq!(encoder.embed(&[]).expect("nothing"), Vec::<f32>::new());
}

#[test]
fn a_directory_and_its_bytes_are_the_same_model() {
    let bert = Bert::random(3, Shape::SMALL, Dtype::F32);
    let mut files = bert.files("bert.");
    add_pooling(&mut files, "pooling_mode_cls_token", true);
    let directory = tempfile::tempdir().expect("directory");
    write_directory(directory.path(), &files);
    // Not ours to read.
    std::fs::write(directory.path().join("pytorch_model.bin"), b"pickle").expect("write");
    std::fs::write(directory.path().join("README.md"), b"# A model").expect("write");
    let read = ModelFiles::read_directory(directory.path()).expect("read");
    let from_directory = compile(&read).expect("compile");
    let from_bytes = compile(&ModelFiles::new(files).expect("files")).expect("compile");
    assert_eq!(from_directory, from_bytes);
    assert_eq!(from_directory.sha256(), from_bytes.sha256());
    assert_eq!(from_directory.sha256().len(), 64);
    let mut other = from_bytes;
    other.settings.normalize = false;
    assert_ne!(from_directory.sha256(), other.sha256());
}
