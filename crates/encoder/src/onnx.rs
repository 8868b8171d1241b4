//! The part of the ONNX format that this crate writes.
//!
//! These are the messages of `onnx.proto` with the fields that a graph of ours
//! has; tags and types are the format's. A user's graph is never decoded with
//! them and written back, because fields that are not declared here would get
//! lost: it is stored byte for byte, and only looked at by [`crate::scan`].

/// `TensorProto.DataType.FLOAT`.
pub(crate) const FLOAT: i32 = 1;
/// `TensorProto.DataType.UINT8`.
pub(crate) const UINT8: i32 = 2;
/// `TensorProto.DataType.INT8`.
pub(crate) const INT8: i32 = 3;
/// `TensorProto.DataType.INT32`.
pub(crate) const INT32: i32 = 6;
/// `TensorProto.DataType.INT64`.
pub(crate) const INT64: i32 = 7;

/// `TensorProto.DataType.FLOAT16`.
pub(crate) const FLOAT16: i32 = 10;

/// The domain of ONNX Runtime's fused operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// `AttributeProto.AttributeType.FLOAT`.
const ATTRIBUTE_FLOAT: i32 = 1;
/// `AttributeProto.AttributeType.INT`.
const ATTRIBUTE_INT: i32 = 2;
/// `AttributeProto.AttributeType.STRING`.
const ATTRIBUTE_STRING: i32 = 3;
/// `AttributeProto.AttributeType.INTS`.
const ATTRIBUTE_INTS: i32 = 7;

/// `ModelProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfo>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
}

/// `AttributeProto`, of the kinds that our nodes have, and with what tells that a
/// node has a graph inside.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(float, optional, tag = "2")]
    pub(crate) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(crate) s: Option<Vec<u8>>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(crate) g: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub(crate) graphs: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    pub(crate) r#type: i32,
}

/// `TensorProto`, with its values as little-endian bytes or as floats.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) raw_data: Vec<u8>,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<Type>,
}

/// `TypeProto`, for a tensor. Another kind of value has no `tensor`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(crate) element: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`: a number, or a name for one that varies.
#[derive(Clone, PartialEq, ::prost::Message)]
pub(crate) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(crate) value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) parameter: Option<String>,
}

impl Node {
    /// A node that is named after its one output.
    pub(crate) fn new(
        operator: &str,
        domain: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<Attribute>,
    ) -> Self {
        Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes,
            domain: domain.to_owned(),
        }
    }
}

impl Attribute {
    pub(crate) fn float(name: &str, value: f32) -> Self {
        Attribute {
            name: name.to_owned(),
            f: Some(value),
            r#type: ATTRIBUTE_FLOAT,
            ..Attribute::default()
        }
    }

    pub(crate) fn int(name: &str, value: i64) -> Self {
        Attribute {
            name: name.to_owned(),
            i: Some(value),
            r#type: ATTRIBUTE_INT,
            ..Attribute::default()
        }
    }

    pub(crate) fn ints(name: &str, values: &[i64]) -> Self {
        Attribute {
            name: name.to_owned(),
            ints: values.to_vec(),
            r#type: ATTRIBUTE_INTS,
            ..Attribute::default()
        }
    }

    pub(crate) fn string(name: &str, value: &str) -> Self {
        Attribute {
            name: name.to_owned(),
            s: Some(value.as_bytes().to_vec()),
            r#type: ATTRIBUTE_STRING,
            ..Attribute::default()
        }
    }
}

impl Tensor {
    /// A tensor of little-endian bytes.
    pub(crate) fn new(name: &str, data_type: i32, shape: &[usize], raw_data: Vec<u8>) -> Self {
        Tensor {
            // A size is below 2^63.
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type,
            name: name.to_owned(),
            raw_data,
            float_data: Vec::new(),
        }
    }

    /// A tensor of floats.
    pub(crate) fn floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Tensor::new(name, FLOAT, shape, bytes.collect())
    }

    /// A tensor of 64-bit integers.
    pub(crate) fn integers(name: &str, shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        Tensor::new(name, INT64, shape, bytes.collect())
    }

    /// A tensor of 16-bit floats, each the nearest one to a value.
    pub(crate) fn halves(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let limit = half::f16::MAX.to_f32();
        let halves = values.iter().map(|value| value.clamp(-limit, limit));
        let bytes = halves.flat_map(|value| half::f16::from_f32(value).to_le_bytes());
        Tensor::new(name, FLOAT16, shape, bytes.collect())
    }

    /// The shape and values of a tensor of finite floats.
    pub(crate) fn as_floats(&self) -> Option<(Vec<usize>, Vec<f32>)> {
        if self.data_type != FLOAT {
            return None;
        }
        let shape = self.dims.iter().map(|&size| usize::try_from(size).ok());
        let shape = shape.collect::<Option<Vec<usize>>>()?;
        let values: Vec<f32> = if self.float_data.is_empty() {
            let (values, _) = self.raw_data.as_chunks::<4>();
            values
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect()
        } else {
            self.float_data.clone()
        };
        let count = shape
            .iter()
            .try_fold(1_usize, |n, &size| n.checked_mul(size))?;
        let is_sound = values.len() == count && values.iter().all(|value| value.is_finite());
        is_sound.then_some((shape, values))
    }
}

impl ValueInfo {
    /// A tensor whose dimensions are numbers (`Ok`) or vary under a name (`Err`).
    pub(crate) fn tensor(name: &str, element: i32, shape: &[Result<i64, &str>]) -> Self {
        let dim = shape
            .iter()
            .map(|dimension| match dimension {
                Ok(value) => Dimension {
                    value: Some(*value),
                    parameter: None,
                },
                Err(parameter) => Dimension {
                    value: None,
                    parameter: Some((*parameter).to_owned()),
                },
            })
            .collect();
        ValueInfo {
            name: name.to_owned(),
            r#type: Some(Type {
                tensor: Some(TensorType {
                    element,
                    shape: Some(Shape { dim }),
                }),
            }),
        }
    }

    /// The element type, if this is a tensor.
    pub(crate) fn element(&self) -> Option<i32> {
        Some(self.r#type.as_ref()?.tensor.as_ref()?.element)
    }

    /// The dimensions, if this is a tensor that declares them; `None` inside for
    /// one that varies.
    pub(crate) fn shape(&self) -> Option<Vec<Option<i64>>> {
        let shape = self.r#type.as_ref()?.tensor.as_ref()?.shape.as_ref()?;
        Some(shape.dim.iter().map(|dimension| dimension.value).collect())
    }
}
