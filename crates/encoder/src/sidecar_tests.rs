//! What the files beside the weights mean.

use std::collections::BTreeMap;

use super::{Dense, Facts, module_files};
use crate::error::{Error, ErrorKind};
use crate::files::ModelFiles;
use crate::settings::Pooling;

fn files(contents: &[(&str, &str)]) -> ModelFiles {
    let files: BTreeMap<String, Vec<u8>> = contents
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    ModelFiles::new(files).expect("known names")
}

fn facts(contents: &[(&str, &str)]) -> Result<Facts, Error> {
    Facts::read(&files(contents))
}

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
]"#;

#[test]
fn nothing_said_means_the_defaults() {
    let facts = facts(&[]).expect("facts");
    assert_eq!(facts.pooling, Some(Pooling::Mean));
    assert!(!facts.normalize && facts.dense.is_empty() && !facts.lowercase);
    assert_eq!((facts.max_tokens, facts.pad_token_id), (512, 0));
    assert_eq!(
        (facts.query_prefix.as_str(), facts.passage_prefix.as_str()),
        ("", "")
    );
}

#[test]
fn a_whole_directory() {
    let facts = facts(&[
        ("config.json", r#"{"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 512, "pad_token_id": 3}"#),
        ("modules.json", MODULES),
        ("1_Pooling/config.json", r#"{"word_embedding_dimension": 8, "pooling_mode_cls_token": true}"#),
        ("sentence_bert_config.json", r#"{"max_seq_length": 256, "do_lower_case": true}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#),
        ("config_sentence_transformers.json", r#"{"prompts": {"query": "q: ", "document": "d: ", "sts": null}}"#),
    ])
    .expect("facts");
    assert_eq!(facts.architecture.as_deref(), Some("bert"));
    assert_eq!(facts.pooling, Some(Pooling::Cls));
    assert!(facts.normalize && facts.lowercase);
    assert_eq!((facts.max_tokens, facts.pad_token_id), (256, 3));
    assert_eq!(
        (facts.query_prefix.as_str(), facts.passage_prefix.as_str()),
        ("q: ", "d: ")
    );
}

#[test]
fn roberta_positions_start_after_the_padding_token() {
    let config =
        r#"{"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}"#;
    assert_eq!(
        facts(&[("config.json", config)]).expect("facts").max_tokens,
        512
    );
    let config =
        r#"{"model_type": "xlm-roberta", "max_position_embeddings": 2, "pad_token_id": 1}"#;
    assert!(facts(&[("config.json", config)]).is_err());
}

#[test]
fn the_tokenizers_padding_token_is_second_choice() {
    let tokenizer = r#"{"padding": {"pad_id": 7, "strategy": "BatchLongest"}}"#;
    assert_eq!(
        facts(&[("tokenizer.json", tokenizer)])
            .expect("facts")
            .pad_token_id,
        7
    );
}

#[test]
fn every_pooling_mode() {
    let pooling =
        |config: &str| facts(&[("1_Pooling/config.json", config)]).map(|facts| facts.pooling);
    for (config, expected) in [
        (r#"{"pooling_mode_mean_tokens": true}"#, Pooling::Mean),
        (r#"{"pooling_mode_max_tokens": true}"#, Pooling::Max),
        (r#"{"pooling_mode_lasttoken": true}"#, Pooling::LastToken),
        (r#"{"pooling_mode": "cls"}"#, Pooling::Cls),
    ] {
        assert_eq!(pooling(config).expect(config), Some(expected));
    }
    for (config, expected) in [
        (
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
            ErrorKind::Unsupported,
        ),
        (
            r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#,
            ErrorKind::Unsupported,
        ),
        (
            r#"{"pooling_mode": "weightedmean"}"#,
            ErrorKind::Unsupported,
        ),
        ("{}", ErrorKind::InvalidModel),
        ("[", ErrorKind::InvalidModel),
    ] {
        assert_eq!(
            pooling(config).expect_err(config).kind(),
            expected,
            "{config}"
        );
    }
}

#[test]
fn modules_that_lead_elsewhere_are_refused() {
    let modules = |path: &str, kind: &str| {
        format!(r#"[{{"path": "{path}", "type": "sentence_transformers.models.{kind}"}}]"#)
    };
    let outside = modules("../../etc", "Pooling");
    assert!(module_files(&files(&[("modules.json", &outside)])).is_err());
    let missing = modules("1_Pooling", "Pooling");
    let error = facts(&[("modules.json", &missing)]).expect_err("no such file");
    assert_eq!(error.kind(), ErrorKind::File);
    let strange = modules("1_LSTM", "LSTM");
    let error = facts(&[("modules.json", &strange)]).expect_err("unknown module");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn linear_layers_stand_behind_pooling() {
    let modules = |order: [&str; 2]| {
        let [first, second] = order.map(|kind| {
            format!(r#"{{"path": "1_{kind}", "type": "sentence_transformers.models.{kind}"}}"#)
        });
        format!("[{first}, {second}]")
    };
    let pooling = (
        "1_Pooling/config.json",
        r#"{"pooling_mode_cls_token": true}"#,
    );
    let read = |modules: &str, config: &str| {
        let contents = files(&[
            ("modules.json", modules),
            pooling,
            ("1_Dense/config.json", config),
        ]);
        Facts::read(&contents)?.dense_layers(&contents)
    };
    let behind = modules(["Pooling", "Dense"]);
    let config = r#"{"in_features": 8, "out_features": 3, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"}"#;
    let expected = Dense {
        weights: "1_Dense/model.safetensors".to_owned(),
        inputs: 8,
        outputs: 3,
        bias: false,
        tanh: false,
    };
    assert_eq!(read(&behind, config).expect("layers"), [expected]);
    let with_defaults = read(&behind, r#"{"in_features": 8, "out_features": 3}"#).expect("layers");
    assert!(with_defaults[0].bias && with_defaults[0].tanh);
    let kinds = [
        (
            modules(["Dense", "Pooling"]),
            config,
            ErrorKind::Unsupported,
        ),
        (
            modules(["Normalize", "Dense"]),
            config,
            ErrorKind::Unsupported,
        ),
        (
            behind.clone(),
            r#"{"in_features": 0, "out_features": 3}"#,
            ErrorKind::InvalidModel,
        ),
        (
            behind.clone(),
            r#"{"in_features": 8, "out_features": 16001}"#,
            ErrorKind::InvalidModel,
        ),
        (
            behind,
            r#"{"in_features": 8, "out_features": 3, "activation_function": "torch.nn.ReLU"}"#,
            ErrorKind::Unsupported,
        ),
    ];
    for (modules, config, kind) in kinds {
        assert_eq!(
            read(&modules, config).expect_err("refused").kind(),
            kind,
            "{modules} {config}"
        );
    }
}

#[test]
fn absurd_limits_are_errors() {
    for length in ["0", "-5", "0.5"] {
        let config = format!(r#"{{"max_seq_length": {length}}}"#);
        assert!(
            facts(&[("sentence_bert_config.json", &config)]).is_err(),
            "{length}"
        );
    }
    let config = r#"{"max_seq_length": 99999999}"#;
    let facts = facts(&[("sentence_bert_config.json", config)]).expect("facts");
    assert_eq!(facts.max_tokens, crate::MAX_TOKENS);
}

#[test]
fn the_limit_for_sentences_goes_before_the_tokenizers() {
    let limit = |sentence: &str, tokenizer: &str| {
        let config = r#"{"model_type": "bert", "max_position_embeddings": 512}"#;
        facts(&[
            ("config.json", config),
            ("sentence_bert_config.json", sentence),
            ("tokenizer_config.json", tokenizer),
        ])
        .expect("facts")
        .max_tokens
    };
    let of_256 = r#"{"max_seq_length": 256}"#;
    assert_eq!(limit(of_256, r#"{"model_max_length": 16}"#), 256);
    assert_eq!(limit(of_256, r#"{"model_max_length": 400}"#), 256);
    // It cannot be longer than the model has positions.
    assert_eq!(
        limit(r#"{"max_seq_length": 600}"#, r#"{"model_max_length": 16}"#),
        512
    );
    // None, and the tokenizer's own counts.
    for sentence in ["{}", r#"{"max_seq_length": null}"#] {
        assert_eq!(limit(sentence, r#"{"model_max_length": 16}"#), 16);
    }
}

#[test]
fn the_limit_for_sentences_has_a_file_for_each_family() {
    for family in [
        "bert",
        "roberta",
        "distilbert",
        "camembert",
        "albert",
        "xlm-roberta",
        "xlnet",
        "mpnet",
    ] {
        let name = format!("sentence_{family}_config.json");
        let facts = facts(&[
            (&name, r#"{"max_seq_length": 128, "do_lower_case": true}"#),
            ("tokenizer_config.json", r#"{"model_max_length": 512}"#),
        ])
        .expect("facts");
        assert_eq!((facts.max_tokens, facts.lowercase), (128, true), "{family}");
    }
    // Where there are several, one of them counts.
    let facts = facts(&[
        ("sentence_roberta_config.json", r#"{"max_seq_length": 100}"#),
        ("sentence_bert_config.json", r#"{"max_seq_length": 200}"#),
    ])
    .expect("facts");
    assert_eq!(facts.max_tokens, 200);
}
