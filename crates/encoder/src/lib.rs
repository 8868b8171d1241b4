//! Text in, vectors out.
//!
//! **What enters** is a model as others publish it, a directory or the bytes of
//! its files ([`ModelFiles`]): either an ONNX export of any encoder
//! (`onnx/model.onnx`), or `model.safetensors` with a `config.json` of the BERT
//! family, for which this crate writes the ONNX graph itself with ONNX
//! Runtime's fused operators. [`compile()`] turns it into a [`CompiledModel`]: the
//! graph, the tokenizer and the [`Settings`], which are all that is ever needed
//! again and all that a database has to keep.
//!
//! **What leaves** is an [`Encoder`], one ONNX Runtime session with its
//! tokenizer, which turns texts into rows of `f32`.
//!
//! # An embedding depends on (model, text) and on nothing else
//!
//! Not on the other texts of the call, their order, the number of threads or
//! the batch size, bit for bit, for as long as the machine and ONNX Runtime's
//! version stay the same. Generated columns and index expressions rest on this.
//! It is reached so:
//!
//! * Only texts of equal length share a batch, and none is padded, so every matrix that a
//!   text meets has a size of its own choosing, except for the number of rows, and ONNX
//!   Runtime computes a row of a matrix product in the same order however many rows there
//!   are. Where every node of a graph is an operator of ours, padding has no part in any
//!   sum ([`Settings::padding_free`]), and texts of about the same length share a batch if
//!   that is quicker.
//! * Pooling and normalization happen here, one after the other over the real
//!   tokens, in `f64`.
//! * A graph with dynamic quantization takes its scale from all rows at once.
//!   Such a graph is run one text at a time ([`Settings::one_by_one`]).
//! * Sessions ask for deterministic kernels, and [`Encoder::probe`] checks the
//!   promise before a model is stored.
//!
//! # Threads
//!
//! Nothing with threads exists before [`Encoder::new`]. Every thread is created
//! with all signals blocked (see `threads`). Tokenization stays on the caller's
//! thread.
//!
//! # GPUs
//!
//! With [`Provider::Cuda`] a model of floats runs on an NVIDIA GPU, if the ONNX
//! Runtime that was loaded has been built for it; its libraries are loaded only
//! then. What a GPU runs is told in `gpu`. It adds numbers in an order that depends on the
//! sizes of a batch, so a vector's last digits are neither those that a processor gives
//! nor always the same: [`Encoder::probe`] allows for that there, and only there.
//!
//! # Sources
//!
//! The graph is that of BERT (Devlin et al., 2019); pooling, normalization and
//! the files that describe them are those of Sentence-BERT (Reimers & Gurevych,
//! 2019) and the sentence-transformers library. The operators are documented in
//! ONNX Runtime's `ContribOperators.md`, the file formats in `onnx.proto` and in
//! the safetensors format description.

mod bert;
mod chunk;
mod compile;
mod encoder;
mod error;
mod evaluation;
mod files;
#[cfg(test)]
mod fixture;
mod gpu;
mod graph;
mod library;
mod onnx;
mod operators;
mod pooling;
mod quantize;
mod runtime;
mod scan;
mod settings;
mod sidecar;
mod threads;
mod tokenizer;
mod watchdog;
mod weights;

pub use chunk::Chunk;
pub use compile::{CompileOptions, CompiledModel, compile, compile_with, file_sha256};
pub use encoder::{Encoder, Options, Provider};
pub use error::{Error, ErrorKind};
pub use evaluation::{Comparison, compare};
pub use files::ModelFiles;
pub use quantize::{QuantizeOptions, Scheme, quantize};
pub use runtime::{load_runtime, runtime_providers, runtime_version};
pub use settings::{MAX_DIMENSION, MAX_TOKENS, Pooling, Precision, Settings};
pub use tokenizer::MAX_TEXT_BYTES;
