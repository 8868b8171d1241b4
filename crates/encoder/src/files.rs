//! A model's files: from a directory of the machine, or from bytes.
//!
//! What enters is a path or a map of names to bytes; what leaves is the files
//! with known names, each within its size limit. Nothing is interpreted here
//! beyond what it takes to know which files to read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;

use crate::bert;
use crate::error::Error;
use crate::sidecar;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const MODULES: &str = "modules.json";
pub(crate) const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
pub(crate) const PROMPTS: &str = "config_sentence_transformers.json";
pub(crate) const SAFETENSORS: &str = "model.safetensors";
/// The places of an ONNX export, the usual one first.
pub(crate) const ONNX: [&str; 2] = ["onnx/model.onnx", "model.onnx"];

/// Files that are read when they are there, besides the weights and the modules' own.
const DESCRIPTIONS: [&str; 6] = [
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    MODULES,
    SENTENCE_CONFIG,
    PROMPTS,
];

/// Configuration files have kilobytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The largest multilingual vocabularies have some 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Protobuf's limit, and so that of an ONNX graph in one piece.
const MAX_WEIGHT_BYTES: u64 = i32::MAX as u64;

/// The files of one model, by their path inside the model directory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    files: BTreeMap<String, Vec<u8>>,
}

impl ModelFiles {
    /// Takes a model as bytes.
    ///
    /// Files that a model is not made of are left out, as those of a directory are.
    ///
    /// # Errors
    /// [`Error::File`] for a file over its limit.
    pub fn new(mut files: BTreeMap<String, Vec<u8>>) -> Result<Self, Error> {
        files.retain(|name, _| size_limit(name).is_some());
        for (name, bytes) in &files {
            let size = bytes.len() as u64;
            match size_limit(name) {
                Some(limit) if size > limit => return Err(too_large(name, size, limit)),
                _ => {}
            }
        }
        Ok(ModelFiles { files })
    }

    /// Reads the known files of a model directory, and nothing else in it.
    ///
    /// Of several forms of the weights only the one that [`crate::compile()`] would
    /// take is read.
    ///
    /// # Errors
    /// [`Error::File`] for the first file that is there and can't be read, is no
    /// regular file or is over its size limit.
    pub fn read_directory(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(|error| file_error(path, &error))?;
        if !metadata.is_dir() {
            return Err(Error::File {
                path: path.display().to_string(),
                reason: "it is not a directory".to_owned(),
            });
        }
        let mut files = ModelFiles {
            files: BTreeMap::new(),
        };
        for name in DESCRIPTIONS {
            files.read(path, name)?;
        }
        for name in sidecar::module_files(&files)? {
            files.read(path, &name)?;
        }
        // The other form of the weights is read only if this one is not there,
        // or is not for us to take.
        if bert::can_write(&files) && files.read(path, SAFETENSORS)? {
            return Ok(files);
        }
        for name in ONNX {
            if files.read(path, name)? {
                return Ok(files);
            }
        }
        // Neither will do; with this one `compile` can say why.
        files.read(path, SAFETENSORS)?;
        Ok(files)
    }

    /// Reads a file if it is there.
    fn read(&mut self, directory: &Path, name: &str) -> Result<bool, Error> {
        let path = directory.join(name);
        let limit = size_limit(name).unwrap_or(MAX_CONFIG_BYTES);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(file_error(&path, &error)),
            Ok(_) => {}
        }
        // Without O_NONBLOCK, opening a named pipe would wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .map_err(|error| file_error(&path, &error))?;
        let bytes = read_bounded(&path, file, limit)?;
        self.files.insert(name.to_owned(), bytes);
        Ok(true)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// A file that the model can't do without.
    pub(crate) fn require(&self, name: &str) -> Result<&[u8], Error> {
        self.get(name).ok_or_else(|| Error::Incomplete {
            missing: format!("it has no \"{name}\""),
        })
    }

    /// A JSON file, if it is there.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        self.get(name)
            .map(|bytes| {
                serde_json::from_slice(bytes).map_err(|error| Error::malformed(name, error))
            })
            .transpose()
    }

    /// The ONNX export, with its name.
    pub(crate) fn onnx(&self) -> Option<(&'static str, &[u8])> {
        ONNX.into_iter()
            .find_map(|name| Some((name, self.get(name)?)))
    }
}

/// Whether `name` is the configuration of a sentence-transformers module: one
/// folder, such as `1_Pooling`, and the file.
pub(crate) fn is_module_config(name: &str) -> bool {
    name.strip_suffix("/config.json")
        .is_some_and(is_module_folder)
}

/// Whether `name` is the weights of such a module.
fn is_module_weights(name: &str) -> bool {
    let folder = name
        .strip_suffix(SAFETENSORS)
        .and_then(|name| name.strip_suffix('/'));
    folder.is_some_and(is_module_folder)
}

fn is_module_folder(folder: &str) -> bool {
    folder.len() <= 64
        && folder.starts_with(|first: char| first.is_ascii_digit())
        && folder
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn size_limit(name: &str) -> Option<u64> {
    if name == TOKENIZER {
        Some(MAX_TOKENIZER_BYTES)
    } else if name == SAFETENSORS || ONNX.contains(&name) || is_module_weights(name) {
        Some(MAX_WEIGHT_BYTES)
    } else if DESCRIPTIONS.contains(&name) || is_module_config(name) {
        Some(MAX_CONFIG_BYTES)
    } else {
        None
    }
}

fn read_bounded(path: &Path, file: File, limit: u64) -> Result<Vec<u8>, Error> {
    let metadata = file.metadata().map_err(|error| file_error(path, &error))?;
    if !metadata.is_file() {
        return Err(Error::File {
            path: path.display().to_string(),
            reason: "it is not a regular file".to_owned(),
        });
    }
    let size = metadata.len();
    if size > limit {
        return Err(too_large(&path.display().to_string(), size, limit));
    }
    let mut bytes = Vec::new();
    let expected = usize::try_from(size).map_err(|_| Error::memory(None))?;
    bytes
        .try_reserve_exact(expected)
        .map_err(|_| Error::memory(Some(expected)))?;
    // A file that grows while it is read must not grow past the limit.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| file_error(path, &error))?;
    let read = bytes.len() as u64;
    if read > limit {
        return Err(too_large(&path.display().to_string(), read, limit));
    }
    Ok(bytes)
}

fn file_error(path: &Path, error: &std::io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

fn too_large(path: &str, size: u64, limit: u64) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: format!("it has {size} bytes, the limit is {limit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_module_config, is_module_weights};

    #[test]
    fn only_numbered_folders_are_modules() {
        assert!(is_module_config("1_Pooling/config.json"));
        assert!(is_module_config("2_Dense/config.json"));
        assert!(is_module_weights("2_Dense/model.safetensors"));
        assert!(!is_module_weights("../model.safetensors"));
        assert!(!is_module_weights("model.safetensors"));
        for name in [
            "../config.json",
            "/config.json",
            "Pooling/config.json",
            "1_Pooling/../config.json",
            "1_Pooling/a/config.json",
            "1_Pooling/model.safetensors",
            "config.json",
        ] {
            assert!(!is_module_config(name), "{name}");
        }
    }
}
