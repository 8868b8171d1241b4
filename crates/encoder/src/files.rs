//! A model's files: from a directory of the machine, or from bytes.
//!
//! What enters is a path or a map of names to bytes; what leaves is the files
//! with known names, each within its size limit. Nothing is interpreted here
//! beyond what it takes to know which files to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use memory::vec;
use nix::fcntl::OFlag;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bert;
use crate::error::{Error, system_reason};
use crate::sidecar;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const MODULES: &str = "modules.json";
/// The library's own configuration has a name for each family; the first that is there
/// counts, as for the library.
pub(crate) const SENTENCE_CONFIGS: [&str; 8] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
    "sentence_mpnet_config.json",
];
pub(crate) const PROMPTS: &str = "config_sentence_transformers.json";
pub(crate) const SAFETENSORS: &str = "model.safetensors";
/// Says which of several files has which tensor, where there is no [`SAFETENSORS`].
pub(crate) const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
/// The places of an ONNX export, the usual one first.
pub(crate) const ONNX: [&str; 2] = ["onnx/model.onnx", "model.onnx"];

/// Files that are read when they are there, besides the weights and the modules' own.
const DESCRIPTIONS: [&str; 5] = [CONFIG, TOKENIZER, TOKENIZER_CONFIG, MODULES, PROMPTS];

/// Configuration files have kilobytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The largest multilingual vocabularies have some 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Protobuf's limit, and so that of an ONNX graph in one piece.
const MAX_WEIGHT_BYTES: u64 = i32::MAX as u64;

/// What is read of a large file before the caller is asked whether to stop.
const READ_BYTES: u64 = 4 << 20;

/// The files of one model, by their path inside the model directory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    files: BTreeMap<String, Vec<u8>>,
    /// Whether the caller wants to stop.
    interrupted: fn() -> bool,
}

/// The index of weights in several files.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ModelFiles {
    /// Takes a model as bytes.
    ///
    /// Files that a model is not made of are left out, as those of a directory are.
    ///
    /// # Errors
    /// [`Error::File`] for a file over its limit; [`Error::Malformed`] if the index of
    /// weights in several files can't be read.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Result<Self, Error> {
        let mut files = ModelFiles {
            files,
            interrupted: || false,
        };
        let shards = files.shards()?.unwrap_or_default();
        let is_shard = |name: &str| shards.iter().any(|shard| shard == name);
        files
            .files
            .retain(|name, _| size_limit(name).is_some() || is_shard(name));
        let mut of_weights = 0;
        for (name, bytes) in &files.files {
            let size = bytes.len() as u64;
            let limit = match size_limit(name) {
                Some(limit) => limit,
                None => {
                    of_weights += size;
                    MAX_WEIGHT_BYTES.saturating_sub(of_weights - size)
                }
            };
            if size > limit {
                return Err(too_large(Path::new(name), size, limit));
            }
        }
        Ok(files)
    }

    /// Has [`crate::compile()`] ask now and then whether to stop with
    /// [`Error::Interrupted`].
    pub fn unless(self, interrupted: fn() -> bool) -> Self {
        ModelFiles {
            interrupted,
            ..self
        }
    }

    /// Reads the known files of a model directory, and nothing else in it.
    ///
    /// Of several forms of the weights only the one that [`crate::compile()`] would
    /// take is read.
    ///
    /// # Errors
    /// [`Error::File`] for the first file that is there and can't be read, is no
    /// regular file or is over its size limit; [`Error::Incomplete`] and
    /// [`Error::Malformed`] if the index of weights in several files names one that is
    /// not there or not beside it.
    pub fn read_directory(path: &Path) -> Result<Self, Error> {
        Self::read_directory_unless(path, || false)
    }

    /// As [`ModelFiles::read_directory`]; `interrupted` is asked now and then, then and by
    /// [`crate::compile()`], whether to stop.
    ///
    /// # Errors
    /// Also [`Error::Interrupted`].
    pub fn read_directory_unless(path: &Path, interrupted: fn() -> bool) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(|error| file_error(path, &error))?;
        if !metadata.is_dir() {
            return Err(Error::File {
                path: path.to_owned(),
                reason: "it is not a directory".to_owned(),
            });
        }
        let mut files = ModelFiles {
            files: BTreeMap::new(),
            interrupted,
        };
        for name in DESCRIPTIONS.into_iter().chain(SENTENCE_CONFIGS) {
            files.read(path, name)?;
        }
        for name in sidecar::module_files(&files)? {
            files.read(path, &name)?;
        }
        // The other form of the weights is read only if this one is not there,
        // or is not for us to take.
        if bert::can_write(&files) && files.read_weights(path)? {
            return Ok(files);
        }
        for name in ONNX {
            if files.read(path, name)? {
                return Ok(files);
            }
        }
        // Neither will do; with this one `compile` can say why.
        if !files.read(path, SAFETENSORS)? {
            files.read(path, SAFETENSORS_INDEX)?;
        }
        Ok(files)
    }

    /// Reads the weights, in one file or in several, if they are there.
    fn read_weights(&mut self, directory: &Path) -> Result<bool, Error> {
        if self.read(directory, SAFETENSORS)? {
            return Ok(true);
        }
        if !self.read(directory, SAFETENSORS_INDEX)? {
            return Ok(false);
        }
        let mut limit = MAX_WEIGHT_BYTES;
        for shard in self.shards()?.unwrap_or_default() {
            if !self.read_up_to(directory, &shard, limit)? {
                return Err(missing_shard(&shard));
            }
            limit -= self.get(&shard).map_or(0, |bytes| bytes.len() as u64);
        }
        Ok(true)
    }

    /// The files that the index of weights names, if there is one, each once.
    fn shards(&self) -> Result<Option<BTreeSet<String>>, Error> {
        let map = self.weight_map()?;
        Ok(map.map(|map| map.into_values().collect()))
    }

    /// Which file has which tensor, where the weights are in several.
    pub(crate) fn weight_map(&self) -> Result<Option<BTreeMap<String, String>>, Error> {
        if self.get(SAFETENSORS).is_some() {
            return Ok(None);
        }
        let Some(index) = self.json::<ShardIndex>(SAFETENSORS_INDEX)? else {
            return Ok(None);
        };
        if let Some((tensor, file)) = index.weight_map.iter().find(|(_, file)| !is_shard(file)) {
            return Err(Error::malformed(
                SAFETENSORS_INDEX,
                format!(
                    "it says that tensor \"{tensor}\" is in \"{file}\", which is not the name of a \
                     file of weights beside it"
                ),
            ));
        }
        if index.weight_map.is_empty() {
            return Err(Error::malformed(SAFETENSORS_INDEX, "it names no tensor"));
        }
        Ok(Some(index.weight_map))
    }

    /// Whether there are weights of safetensors, in one file or in several.
    pub(crate) fn has_weights(&self) -> bool {
        self.get(SAFETENSORS).is_some() || self.get(SAFETENSORS_INDEX).is_some()
    }

    /// Says whether the caller wants to stop.
    pub(crate) fn check_interrupted(&self) -> Result<(), Error> {
        match (self.interrupted)() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Reads a file if it is there.
    fn read(&mut self, directory: &Path, name: &str) -> Result<bool, Error> {
        self.read_up_to(
            directory,
            name,
            size_limit(name).unwrap_or(MAX_CONFIG_BYTES),
        )
    }

    fn read_up_to(&mut self, directory: &Path, name: &str, limit: u64) -> Result<bool, Error> {
        let path = directory.join(name);
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
        let bytes = self.read_bounded(&path, file, limit)?;
        self.files.insert(name.to_owned(), bytes);
        Ok(true)
    }

    fn read_bounded(&self, path: &Path, mut file: File, limit: u64) -> Result<Vec<u8>, Error> {
        let metadata = file.metadata().map_err(|error| file_error(path, &error))?;
        if !metadata.is_file() {
            return Err(Error::File {
                path: path.to_owned(),
                reason: "it is not a regular file".to_owned(),
            });
        }
        let size = metadata.len();
        if size > limit {
            return Err(too_large(path, size, limit));
        }
        let mut bytes = Vec::new();
        // It is below the limit.
        vec::reserve(&mut bytes, size as usize + 1, "a file of the model")?;
        loop {
            self.check_interrupted()?;
            let read = (&mut file)
                .take(READ_BYTES)
                .read_to_end(&mut bytes)
                .map_err(|error| file_error(path, &error))?;
            // A file that grows while it is read must not grow past the limit.
            if bytes.len() as u64 > limit {
                return Err(too_large(path, bytes.len() as u64, limit));
            }
            if read == 0 {
                return Ok(bytes);
            }
        }
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> usize {
        self.files.values().map(Vec::len).sum()
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
    } else if name == SAFETENSORS_INDEX || SENTENCE_CONFIGS.contains(&name) {
        Some(MAX_CONFIG_BYTES)
    } else if name == SAFETENSORS || ONNX.contains(&name) || is_module_weights(name) {
        Some(MAX_WEIGHT_BYTES)
    } else if DESCRIPTIONS.contains(&name) || is_module_config(name) {
        Some(MAX_CONFIG_BYTES)
    } else {
        None
    }
}

/// Whether `name` may be that of one of several files of weights: it leads nowhere else.
fn is_shard(name: &str) -> bool {
    name.len() <= 255
        && name.ends_with(".safetensors")
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// The error of an index that names a file which is not there.
pub(crate) fn missing_shard(shard: &str) -> Error {
    Error::Incomplete {
        missing: format!("{SAFETENSORS_INDEX} refers to \"{shard}\", which is not there"),
    }
}

fn file_error(path: &Path, error: &std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: system_reason(error),
    }
}

fn too_large(path: &Path, size: u64, limit: u64) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: format!("it has {size} bytes, the limit is {limit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_module_config, is_module_weights, is_shard};

    #[test]
    fn shards_lie_beside_their_index() {
        assert!(is_shard("model-00001-of-00002.safetensors"));
        for name in [
            "../model.safetensors",
            "a/b.safetensors",
            "/tmp/a.safetensors",
            "..safetensors",
            ".hidden.safetensors",
            "model.bin",
            "config.json",
            "a\0.safetensors",
            "",
        ] {
            assert!(!is_shard(name), "{name}");
        }
    }

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
