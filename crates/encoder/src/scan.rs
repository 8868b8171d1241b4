//! A look at an ONNX graph that came from outside, before ONNX Runtime sees it.
//!
//! What enters is the bytes of a `ModelProto`; what leaves is its inputs and
//! outputs, or the reason to refuse it. Tensors outside the graph's own bytes
//! ("external data") are refused wherever a tensor can stand: in initializers,
//! attributes, sparse tensors, functions and nested graphs. With external data a
//! graph could make the server read a file, or in ONNX Runtime's in-memory form
//! an address, of the author's choosing.
//!
//! The bytes are walked in place: a hostile file can't make us allocate, and a
//! gigabyte of weights costs nothing. Where protobuf readers could differ on
//! what an odd byte sequence means, the walk refuses it.

use prost::Message;

use crate::onnx::ValueInfo;

/// Above this nesting a graph is refused. ONNX Runtime's reader stops at 100.
const MAX_DEPTH: usize = 64;

/// Nodes, attributes, tensors and graphs together. The largest real encoders
/// have tens of thousands; each costs ONNX Runtime a few hundred bytes.
const MAX_MESSAGES: usize = 1_000_000;

/// Inputs and outputs are decoded, so their number and size are bounded too.
const MAX_VALUES: usize = 10_000;
const MAX_VALUE_BYTES: usize = 100_000;

/// Bytes 4 to 8 of a file in ONNX Runtime's own format, which would not be read
/// as the protobuf message that was scanned.
const ORT_FORMAT: &[u8] = b"ORTM";

/// What a graph says about itself.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) inputs: Vec<ValueInfo>,
    pub(crate) outputs: Vec<ValueInfo>,
    /// Names of initializers: they may stand among the inputs of old graphs.
    pub(crate) initializers: Vec<String>,
    /// Some operator takes a quantization scale from the values of the whole batch.
    pub(crate) dynamic_quantization: bool,
}

/// The reason to refuse a graph, as a clause.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The bytes are no ONNX model.
    Malformed(String),
    /// A model, but with something we don't run.
    Unsupported(String),
}

impl Refusal {
    /// The reason.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Refusal::Malformed(reason) | Refusal::Unsupported(reason) => reason,
        }
    }
}

fn malformed(reason: impl Into<String>) -> Refusal {
    Refusal::Malformed(reason.into())
}

/// The messages in which tensors and graphs can stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph { top: bool },
    Node,
    Attribute,
    Tensor { initializer: bool },
    SparseTensor,
    Function,
    Training,
}

impl Kind {
    /// The kind of message in a field, for the fields that can lead to a tensor.
    fn child(self, field: u64) -> Option<Kind> {
        let tensor = Kind::Tensor { initializer: false };
        let nested = Kind::Graph { top: false };
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph { top: true },
            (Kind::Model, 20) => Kind::Training,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph { .. }, 1) => Kind::Node,
            (Kind::Graph { top }, 5) => Kind::Tensor { initializer: top },
            (Kind::Graph { .. }, 15) => Kind::SparseTensor,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Attribute, 5 | 10) => tensor,
            (Kind::Attribute, 6 | 11) => nested,
            (Kind::Attribute, 22 | 23) => Kind::SparseTensor,
            (Kind::SparseTensor, 1 | 2) => tensor,
            (Kind::Function, 7) => Kind::Node,
            (Kind::Function, 11) => Kind::Attribute,
            (Kind::Training, 1 | 2) => nested,
            _ => return None,
        })
    }
}

/// Walks a model.
pub(crate) fn scan(model: &[u8]) -> Result<Scan, Refusal> {
    if model.get(4..8) == Some(ORT_FORMAT) {
        return Err(Refusal::Unsupported(
            "the graph is in ONNX Runtime's own format, not in ONNX".to_owned(),
        ));
    }
    let mut walk = Walk {
        scan: Scan::default(),
        messages: 0,
        graphs: 0,
    };
    walk.message(Kind::Model, model, 0)?;
    if walk.graphs == 0 {
        return Err(malformed("it holds no graph"));
    }
    Ok(walk.scan)
}

struct Walk {
    scan: Scan,
    messages: usize,
    /// Top-level graphs; protobuf would merge several into one.
    graphs: usize,
}

impl Walk {
    fn message(&mut self, kind: Kind, bytes: &[u8], depth: usize) -> Result<(), Refusal> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(malformed(format!(
                "it has more than {MAX_MESSAGES} nodes, attributes and tensors"
            )));
        }
        if depth > MAX_DEPTH {
            return Err(malformed(format!(
                "its graphs are nested more than {MAX_DEPTH} levels deep"
            )));
        }
        if kind == (Kind::Graph { top: true }) {
            self.graphs += 1;
            if self.graphs > 1 {
                return Err(malformed("it holds more than one graph"));
            }
        }
        let mut fields = Fields { rest: bytes };
        while let Some((field, value)) = fields.next()? {
            match (kind, field, &value) {
                (Kind::Tensor { .. }, 13, _) => return Err(external()),
                (Kind::Tensor { .. }, 14, Value::Varint(location)) if *location != 0 => {
                    return Err(external());
                }
                (Kind::Tensor { initializer: true }, 8, Value::Bytes(name)) => {
                    self.scan.initializers.push(text(name)?);
                }
                // DynamicQuantizeLinear, DynamicQuantizeMatMul, ...
                (Kind::Node, 4, Value::Bytes(operator))
                    if operator.starts_with(b"DynamicQuantize") =>
                {
                    self.scan.dynamic_quantization = true;
                }
                (Kind::Graph { top: true }, 11, Value::Bytes(input)) => {
                    value_info(&mut self.scan.inputs, input)?;
                }
                (Kind::Graph { top: true }, 12, Value::Bytes(output)) => {
                    value_info(&mut self.scan.outputs, output)?;
                }
                (_, _, Value::Bytes(message)) => {
                    if let Some(child) = kind.child(field) {
                        self.message(child, message, depth + 1)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn external() -> Refusal {
    Refusal::Unsupported("the graph keeps tensors outside its own file (external data)".to_owned())
}

fn text(bytes: &[u8]) -> Result<String, Refusal> {
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(malformed(format!(
            "a name in it is longer than {MAX_VALUE_BYTES} bytes"
        )));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a name in it is not UTF-8"))
}

fn value_info(values: &mut Vec<ValueInfo>, bytes: &[u8]) -> Result<(), Refusal> {
    if values.len() >= MAX_VALUES || bytes.len() > MAX_VALUE_BYTES {
        return Err(malformed(format!(
            "it declares more than {MAX_VALUES} inputs or outputs, or one of more than \
             {MAX_VALUE_BYTES} bytes"
        )));
    }
    let value = ValueInfo::decode(bytes)
        .map_err(|error| malformed(format!("an input or output can't be read ({error})")))?;
    values.push(value);
    Ok(())
}

/// A field's value, by protobuf's wire type.
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes that are no message.
    Fixed,
}

impl<'a> Value<'a> {
    /// The bytes of a message; none of a number.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            _ => &[],
        }
    }
}

/// The fields of one message, in file order.
pub(crate) struct Fields<'a> {
    /// What was not read yet.
    pub(crate) rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Refusal> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = key >> 3;
        // Protobuf's numbers end at 2^29 - 1, and 0 is none.
        if field == 0 || field >= 1 << 29 {
            return Err(malformed(format!("{field} is no field number")));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| truncated())?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed
            }
            other => return Err(malformed(format!("{other} is no wire type of ONNX"))),
        };
        Ok(Some((field, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Refusal> {
        let mut value = 0u64;
        for index in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or_else(truncated)?;
            self.rest = rest;
            // The tenth byte has room for the 64th bit only.
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number in it is longer than 64 bits"))
    }
}

fn truncated() -> Refusal {
    malformed("it ends in the middle of a field")
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
