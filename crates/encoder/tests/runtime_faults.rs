//! ONNX Runtime missing, foreign, too old: one clear error, and no harm done.
//!
//! One test, because a process loads the library once and for all.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Bert, Shape, options, variable};
use encoder::{Encoder, Error, ErrorKind, load_runtime, runtime_version};
use safetensors::Dtype;

/// A library that says it is ONNX Runtime 1.2.3.
const OLD: &str = r#"
#[repr(C)]
pub struct Base { get_api: extern "C" fn(u32) -> usize, get_version: extern "C" fn() -> *const u8 }
extern "C" fn get_api(_: u32) -> usize { 0 }
extern "C" fn get_version() -> *const u8 { b"1.2.3\0".as_ptr() }
static BASE: Base = Base { get_api, get_version };
#[unsafe(no_mangle)]
pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
"#;

fn build(directory: &Path, name: &str, source: &str) -> std::path::PathBuf {
    let file = directory.join(format!("{name}.rs"));
    let library = directory.join(format!("lib{name}.so"));
    std::fs::write(&file, source).expect("source");
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "cdylib",
            "-A",
            "warnings",
            "-o",
        ])
        .arg(&library)
        .arg(&file)
        .status()
        .expect("rustc runs");
    assert!(status.success());
    library
}

fn reason(path: &Path) -> String {
    let error = load_runtime(path).expect_err("must not load");
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.hint().is_some());
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

#[test]
fn failures_are_clear_and_a_good_library_still_loads_afterwards() {
    let model = Bert::random(1, Shape::SMALL, Dtype::F32).compile();
    let encoder = || {
        Encoder::new(
            &model.graph,
            &model.tokenizer,
            model.settings.clone(),
            options(),
        )
    };
    assert!(matches!(
        encoder().expect_err("nothing loaded"),
        Error::RuntimeNotLoaded
    ));
    assert!(runtime_version().is_err());

    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path();
    assert!(reason(&path.join("libonnxruntime.so")).contains("No such file"));
    assert!(reason(Path::new("libonnxruntime.so")).contains("absolute"));
    assert!(reason(path).contains("regular"));
    let text = path.join("text.so");
    std::fs::write(
        &text,
        "this is no library, but it is long enough for a header".repeat(9),
    )
    .expect("write");
    reason(&text);
    let empty = path.join("empty.so");
    std::fs::write(&empty, "").expect("write");
    reason(&empty);
    let foreign = build(
        path,
        "foreign",
        "#[unsafe(no_mangle)] pub extern \"C\" fn other() {}",
    );
    assert!(reason(&foreign).contains("OrtGetApiBase"));
    let old = build(path, "old", OLD);
    let message = reason(&old);
    assert!(
        message.contains("1.2.3") && message.contains("1.17"),
        "{message}"
    );
    assert!(matches!(
        encoder().expect_err("still nothing"),
        Error::RuntimeNotLoaded
    ));

    let good = variable("INSITU_ONNXRUNTIME");
    load_runtime(&good).expect("loads");
    load_runtime(&good).expect("a second time for free");
    let message = reason(&old);
    assert!(message.contains(&good.display().to_string()), "{message}");
    encoder().expect("encoder").probe().expect("probe");
    runtime_version().expect("version");
}
