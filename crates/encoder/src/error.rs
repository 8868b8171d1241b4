//! What can go wrong between a text and its vector.
//!
//! Every message is a sentence for the person who typed the SQL: it names the
//! file, the value and the limit. [`Error::kind`] is what a caller maps to an
//! error code, [`Error::hint`] is what there is to do about it.

use std::io;
use std::path::PathBuf;

use memory::OutOfMemory;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// ONNX Runtime's shared library can't be used.
    #[error("could not load ONNX Runtime from \"{}\": {reason}", path.display())]
    Runtime {
        /// The path that was asked for.
        path: PathBuf,
        /// Why it does not do.
        reason: String,
    },
    /// ONNX Runtime's shared library is not whole.
    #[error("ONNX Runtime's library \"{path}\" is damaged: {reason}")]
    DamagedRuntime {
        /// The path that was asked for.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An encoder was asked for before the library was loaded.
    #[error("ONNX Runtime is not loaded")]
    RuntimeNotLoaded,
    /// A file or directory can't be read.
    #[error("could not read \"{}\": {reason}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why it can't be read.
        reason: String,
    },
    /// A file that the model needs is not there.
    #[error("the model is incomplete: {missing}")]
    Incomplete {
        /// What is missing, as a clause.
        missing: String,
    },
    /// A file does not hold what its name promises.
    #[error("\"{file}\" is not valid: {reason}")]
    Malformed {
        /// The file, by its path inside the model directory.
        file: String,
        /// What contradicts what, with value and limit.
        reason: String,
    },
    /// A sound model that this version can't run faithfully.
    #[error("the model is not supported: {reason}")]
    Unsupported {
        /// What it asks for.
        reason: String,
    },
    /// ONNX Runtime refused the graph.
    #[error("ONNX Runtime does not accept the model's graph: {reason}")]
    Graph {
        /// ONNX Runtime's own words.
        reason: String,
    },
    /// The model can't run where it is to.
    #[error("could not run the model on a CUDA device: {reason}")]
    Provider {
        /// ONNX Runtime's own words, or ours.
        reason: String,
    },
    /// The settings that were stored with a model contradict themselves.
    #[error("the model's settings are not valid: {reason}")]
    Settings {
        /// The setting, its value and its limit.
        reason: String,
    },
    /// What the caller asks for can't be.
    #[error("{reason}")]
    Argument {
        /// The argument, its value and its limit.
        reason: String,
    },
    /// No smaller model can be made of this one.
    #[error("the model cannot be quantized: {reason}")]
    NotQuantizable {
        /// Why.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("could not tokenize the text: {reason}")]
    Tokenizer {
        /// What the tokenizer said.
        reason: String,
    },
    /// [`crate::Options::interrupted`] said so. Nothing is lost, the encoder goes on working.
    #[error("embedding was interrupted")]
    Interrupted,
    /// The model ran, or tried to, and gave no usable vectors.
    #[error("could not run the model: {reason}")]
    Inference {
        /// What went wrong, in ONNX Runtime's or our words.
        reason: String,
    },
    /// The system has no memory for it.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// ONNX Runtime has no memory for it.
    #[error("out of memory for {what}: {reason}")]
    NoMemory {
        /// What ONNX Runtime was to do.
        what: &'static str,
        /// ONNX Runtime's own words.
        reason: String,
    },
    /// ONNX Runtime got no thread.
    #[error("could not get threads for {what}: {reason}")]
    NoThreads {
        /// What ONNX Runtime was to do.
        what: &'static str,
        /// ONNX Runtime's own words.
        reason: String,
    },
    /// The operating system refused a thread or a signal mask.
    #[error("could not get {what}: {reason}")]
    Resource {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        reason: String,
    },
}

/// The families of errors that a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The ONNX Runtime library is missing, foreign or too old.
    Runtime,
    /// A file can't be read or is not there.
    File,
    /// A model's file, graph or settings are broken.
    InvalidModel,
    /// A sound model with a feature that is not implemented.
    Unsupported,
    /// The caller asks for something that can't be.
    Argument,
    /// The tokenizer failed on a text.
    Tokenizer,
    /// The caller's own wish to stop.
    Interrupted,
    /// Running the model failed.
    Inference,
    /// Memory ran out.
    Memory,
    /// Threads ran out, or there is no device.
    Resource,
}

impl Error {
    /// The family this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Runtime { .. } | Error::DamagedRuntime { .. } | Error::RuntimeNotLoaded => {
                ErrorKind::Runtime
            }
            Error::File { .. } | Error::Incomplete { .. } => ErrorKind::File,
            Error::Malformed { .. } | Error::Graph { .. } | Error::Settings { .. } => {
                ErrorKind::InvalidModel
            }
            Error::Argument { .. } => ErrorKind::Argument,
            Error::Unsupported { .. } | Error::NotQuantizable { .. } => ErrorKind::Unsupported,
            Error::Tokenizer { .. } => ErrorKind::Tokenizer,
            Error::Interrupted => ErrorKind::Interrupted,
            Error::Inference { .. } => ErrorKind::Inference,
            Error::OutOfMemory(_) | Error::NoMemory { .. } => ErrorKind::Memory,
            Error::Resource { .. } | Error::NoThreads { .. } | Error::Provider { .. } => {
                ErrorKind::Resource
            }
        }
    }

    /// What the person who sees the error can do, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Runtime { .. } | Error::RuntimeNotLoaded => Some(format!(
                "Give the path of libonnxruntime.so, version 1.{} or later.",
                ort::MINOR_VERSION
            )),
            Error::DamagedRuntime { .. } => Some(
                "An installation may have been interrupted, or another file put in its place: \
                 install it again."
                    .to_owned(),
            ),
            Error::Provider { .. } => Some(
                "It takes an NVIDIA GPU, its driver, CUDA, and a build of ONNX Runtime for CUDA; or \
                 choose the provider cpu, or auto."
                    .to_owned(),
            ),
            Error::Incomplete { .. } => Some(
                "A model needs \"tokenizer.json\" and either \"onnx/model.onnx\" or, for the \
                 BERT family, \"model.safetensors\" with \"config.json\"."
                    .to_owned(),
            ),
            Error::Unsupported { .. } => Some(
                "An ONNX export of the model with the inputs input_ids, attention_mask and \
                 token_type_ids, a float output and no external data may work."
                    .to_owned(),
            ),
            Error::OutOfMemory(_) | Error::NoMemory { .. } => Some(
                "The system has no more memory for this session, or a limit was set for it."
                    .to_owned(),
            ),
            Error::NoThreads { .. } => Some(
                "Decrease insitu.threads, or raise the system's limit of threads.".to_owned(),
            ),
            Error::Malformed { .. } => {
                Some("The file may be truncated: compare it with its source.".to_owned())
            }
            _ => None,
        }
    }

    pub(crate) fn malformed(file: impl Into<String>, reason: impl ToString) -> Self {
        Error::Malformed {
            file: file.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Error::Unsupported {
            reason: reason.into(),
        }
    }

    pub(crate) fn inference(reason: impl ToString) -> Self {
        Error::of_runtime("running the model", reason, |reason| Error::Inference {
            reason,
        })
    }

    /// An error of ONNX Runtime's: if it tells of memory or threads, that; else what
    /// `otherwise` makes of it.
    pub(crate) fn of_runtime(
        what: &'static str,
        reason: impl ToString,
        otherwise: impl FnOnce(String) -> Self,
    ) -> Self {
        /// std::bad_alloc, and what the arenas of onnxruntime/core/framework say.
        const MEMORY: [&str; 4] = [
            "bad_alloc",
            "Failed to allocate memory",
            "out of memory",
            "Cannot allocate memory",
        ];
        /// What pthread_create gives, as std::system_error has it.
        const THREADS: [&str; 2] = ["Resource temporarily unavailable", "pthread_create"];
        let reason = reason.to_string();
        let tells_of = |words: &[&str]| words.iter().any(|&words| reason.contains(words));
        if tells_of(&MEMORY) {
            Error::NoMemory { what, reason }
        } else if tells_of(&THREADS) {
            Error::NoThreads { what, reason }
        } else {
            otherwise(reason)
        }
    }
}

/// What the system says about an error, without the number.
pub(crate) fn system_reason(error: &io::Error) -> String {
    let reason = error.to_string();
    match (error.raw_os_error(), reason.rfind(" (os error ")) {
        (Some(_), Some(end)) => reason[..end].to_owned(),
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind};

    #[test]
    fn memory_and_threads_are_no_faults_of_the_graph() {
        let of = |reason: &str| {
            let otherwise = |reason| Error::Graph { reason };
            Error::of_runtime("opening the model", reason, otherwise).kind()
        };
        assert_eq!(of("Exception caught: std::bad_alloc"), ErrorKind::Memory);
        let arena = "Failed to allocate memory for requested buffer of size 93763584";
        assert_eq!(of(arena), ErrorKind::Memory);
        assert_eq!(of("Resource temporarily unavailable"), ErrorKind::Resource);
        assert_eq!(of("No Op registered for Foo"), ErrorKind::InvalidModel);
    }
}
