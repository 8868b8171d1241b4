//! The tensors of a `model.safetensors`, or of the several files that stand for it,
//! checked and widened to `f32`.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::Error;
use crate::files::{ModelFiles, SAFETENSORS, SAFETENSORS_INDEX, missing_shard};

/// The tensors of a model or of one of its modules.
pub(crate) struct Weights<'a> {
    files: &'a ModelFiles,
    /// What a message calls the whole.
    name: &'a str,
    tensors: BTreeMap<String, Stored<'a>>,
    /// What stands before every name: `bert.` where a head was saved with the model.
    prefix: &'static str,
}

/// A tensor and the file that it is in.
struct Stored<'a> {
    file: String,
    view: TensorView<'a>,
}

impl<'a> Weights<'a> {
    /// Reads the headers; `first` is a tensor that every such model has, and `prefix`
    /// what may stand before every name.
    pub(crate) fn open(
        files: &'a ModelFiles,
        prefix: &'static str,
        first: &str,
    ) -> Result<Self, Error> {
        let mut weights = match files.weight_map()? {
            None => Weights::of_module(files, SAFETENSORS)?,
            Some(map) => Weights::of_shards(files, map)?,
        };
        weights.prefix = ["", prefix]
            .into_iter()
            .find(|prefix| weights.tensors.contains_key(&format!("{prefix}{first}")))
            .ok_or_else(|| weights.missing(first))?;
        Ok(weights)
    }

    /// Reads the header of a module's file, whose names have no prefix.
    pub(crate) fn of_module(files: &'a ModelFiles, name: &'a str) -> Result<Self, Error> {
        let mut tensors = BTreeMap::new();
        for (tensor, view) in header(name, files.require(name)?)? {
            let file = name.to_owned();
            tensors.insert(tensor, Stored { file, view });
        }
        Ok(Weights {
            files,
            name,
            tensors,
            prefix: "",
        })
    }

    /// Reads the headers of several files, of which a map says what each has.
    fn of_shards(files: &'a ModelFiles, map: BTreeMap<String, String>) -> Result<Self, Error> {
        let mut shards = BTreeMap::new();
        for shard in map.values() {
            if !shards.contains_key(shard) {
                let bytes = files.get(shard).ok_or_else(|| missing_shard(shard))?;
                shards.insert(shard.clone(), header(shard, bytes)?);
            }
        }
        let mut tensors = BTreeMap::new();
        for (tensor, file) in map {
            let view = shards
                .get_mut(&file)
                .and_then(|shard| shard.remove(&tensor));
            let view = view.ok_or_else(|| {
                Error::malformed(
                    &file,
                    format!(
                        "it has no tensor \"{tensor}\", which {SAFETENSORS_INDEX} says is in it"
                    ),
                )
            })?;
            tensors.insert(tensor, Stored { file, view });
        }
        Ok(Weights {
            files,
            name: SAFETENSORS_INDEX,
            tensors,
            prefix: "",
        })
    }

    fn missing(&self, tensor: &str) -> Error {
        Error::malformed(self.name, format!("it has no tensor \"{tensor}\""))
    }

    /// A tensor's values in row-major order, if it has exactly this shape.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.files.check_interrupted()?;
        let full_name = format!("{}{name}", self.prefix);
        let stored = self
            .tensors
            .get(&full_name)
            .or_else(|| self.tensors.get(&older_name(&full_name)?))
            .ok_or_else(|| self.missing(&full_name))?;
        let (file, tensor) = (&stored.file, &stored.view);
        if tensor.shape() != shape {
            return Err(Error::malformed(
                file,
                format!(
                    "tensor \"{full_name}\" has shape {:?}, but config.json asks for {shape:?}",
                    tensor.shape()
                ),
            ));
        }
        // The header check of safetensors has made sure that the data has the
        // length that shape and type ask for.
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => widen(data, f32::from_le_bytes),
            Dtype::F16 => widen(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => widen(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            other => {
                return Err(Error::unsupported(format!(
                    "tensor \"{full_name}\" in {} has the type {other}; F32, F16 and \
                     BF16 are read",
                    file
                )));
            }
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::malformed(
                file,
                format!("tensor \"{full_name}\" has a value that is not finite"),
            ));
        }
        Ok(values)
    }

    /// A weight matrix of a linear layer, stored as [outputs, inputs], turned to
    /// [inputs, outputs] as a matrix product wants it.
    pub(crate) fn read_transposed(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<f32>, Error> {
        let rows = self.read(name, &[outputs, inputs])?;
        Ok(transpose(&rows, outputs, inputs))
    }
}

/// The tensors that a file's header names.
fn header<'a>(file: &str, bytes: &'a [u8]) -> Result<BTreeMap<String, TensorView<'a>>, Error> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| Error::malformed(file, error))?;
    Ok(tensors.tensors().into_iter().collect())
}

/// The name that layer normalization parameters had in early checkpoints.
fn older_name(name: &str) -> Option<String> {
    if let Some(stem) = name.strip_suffix("LayerNorm.weight") {
        Some(format!("{stem}LayerNorm.gamma"))
    } else {
        let stem = name.strip_suffix("LayerNorm.bias")?;
        Some(format!("{stem}LayerNorm.beta"))
    }
}

fn widen<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = data.as_chunks::<N>();
    values.iter().map(|&bytes| read(bytes)).collect()
}

/// The columns of a matrix, given its rows.
pub(crate) fn transpose(rows: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut columns = vec![0.0; rows.len()];
    if inputs == 0 {
        return columns;
    }
    for (output, row) in rows.chunks_exact(inputs).enumerate() {
        for (input, &value) in row.iter().enumerate() {
            columns[input * outputs + output] = value;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::{older_name, transpose};

    #[test]
    fn transposing() {
        assert_eq!(
            transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
    }

    #[test]
    fn older_names() {
        assert_eq!(
            older_name("a.LayerNorm.bias").as_deref(),
            Some("a.LayerNorm.beta")
        );
        assert_eq!(
            older_name("a.LayerNorm.weight").as_deref(),
            Some("a.LayerNorm.gamma")
        );
        assert_eq!(older_name("a.dense.bias"), None);
    }
}
