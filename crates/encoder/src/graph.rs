//! An ONNX graph to be changed in some places and kept, byte for byte, in all
//! others.

use std::collections::{HashMap, HashSet};

use prost::Message;

use crate::error::Error;
use crate::onnx::{Attribute, Node, OperatorSet, Tensor, ValueInfo};
use crate::scan::Fields;

/// Numbers of fields in `onnx.proto`.
mod field {
    pub const MODEL_GRAPH: u64 = 7;
    pub const MODEL_OPERATOR_SETS: u64 = 8;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_INPUT: u64 = 11;
    pub const GRAPH_OUTPUT: u64 = 12;
}

/// A part of the graph: as it came, or as it was written.
struct Part<'a, T> {
    /// The field's bytes, key included; empty if it is new.
    raw: &'a [u8],
    value: T,
}

impl<T> Part<'_, T> {
    fn new(value: T) -> Self {
        Part { raw: &[], value }
    }
}

/// A model's graph.
///
/// Who uses a value is known from the graph as it was read: what takes a node's
/// place uses what that used, or less.
pub(crate) struct Graph<'a> {
    /// Fields of the model beside the graph.
    model: Vec<&'a [u8]>,
    /// Fields of the graph beside nodes, initializers, inputs and outputs.
    rest: Vec<&'a [u8]>,
    inputs: Vec<Part<'a, ValueInfo>>,
    outputs: Vec<Part<'a, ValueInfo>>,
    /// In the order in which they run. A node that was taken out has no operator.
    nodes: Vec<Part<'a, Node>>,
    /// Nodes that were put right behind one.
    behind: HashMap<usize, Vec<Node>>,
    /// Nodes that were put before all others.
    first: Vec<Node>,
    /// The nodes that use each value, once for every input.
    users: HashMap<String, Vec<usize>>,
    initializers: HashMap<String, Part<'a, Tensor>>,
    /// Names of initializers in the order of the file.
    order: Vec<String>,
}

impl<'a> Graph<'a> {
    /// Reads a model that [`crate::scan`] has let through.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut graph = Graph {
            model: Vec::new(),
            rest: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            behind: HashMap::new(),
            first: Vec::new(),
            users: HashMap::new(),
            initializers: HashMap::new(),
            order: Vec::new(),
        };
        for (number, raw, content) in fields(bytes)? {
            if number != field::MODEL_GRAPH {
                graph.model.push(raw);
                continue;
            }
            for (number, raw, content) in fields(content)? {
                match number {
                    field::GRAPH_NODE => {
                        let value = decode::<Node>(content)?;
                        graph.nodes.push(Part { raw, value });
                    }
                    field::GRAPH_INITIALIZER => {
                        let value = decode::<Tensor>(content)?;
                        graph.order.push(value.name.clone());
                        let name = value.name.clone();
                        graph.initializers.insert(name, Part { raw, value });
                    }
                    field::GRAPH_INPUT => {
                        let value = decode::<ValueInfo>(content)?;
                        graph.inputs.push(Part { raw, value });
                    }
                    field::GRAPH_OUTPUT => {
                        let value = decode::<ValueInfo>(content)?;
                        graph.outputs.push(Part { raw, value });
                    }
                    _ => graph.rest.push(raw),
                }
            }
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            for input in &node.value.input {
                graph.users.entry(input.clone()).or_default().push(index);
            }
        }
        Ok(graph)
    }

    /// The number of nodes, those that were taken out included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node.
    pub(crate) fn node(&self, index: usize) -> &Node {
        &self.nodes[index].value
    }

    /// Whether every node is of a domain.
    pub(crate) fn is_all_of(&self, domain: &str) -> bool {
        let nodes = self.nodes.iter().map(|part| &part.value);
        let nodes = nodes.filter(|node| !node.op_type.is_empty());
        let mut nodes = nodes.chain(self.added());
        nodes.all(|node| node.domain == domain)
    }

    /// The one node that uses a value, if nothing else does.
    pub(crate) fn only_user(&self, value: &str) -> Option<usize> {
        match self.users.get(value).map(Vec::as_slice) {
            Some(&[user]) if !self.is_output(value) => Some(user),
            _ => None,
        }
    }

    /// Whether anything uses a value.
    pub(crate) fn is_used(&self, value: &str) -> bool {
        self.users.contains_key(value) || self.is_output(value)
    }

    /// Whether a value is an output of the graph.
    pub(crate) fn is_output(&self, value: &str) -> bool {
        self.outputs.iter().any(|part| part.value.name == value)
    }

    /// The nodes that use a value.
    pub(crate) fn users(&self, value: &str) -> &[usize] {
        self.users.get(value).map_or(&[], Vec::as_slice)
    }

    /// An initializer.
    pub(crate) fn initializer(&self, name: &str) -> Option<&Tensor> {
        self.initializers.get(name).map(|part| &part.value)
    }

    /// The names of all initializers.
    pub(crate) fn initializer_names(&self) -> Vec<String> {
        self.order.clone()
    }

    /// The element type of an input of the graph.
    pub(crate) fn input_element(&self, name: &str) -> Option<i32> {
        let input = self.inputs.iter().find(|input| input.value.name == name)?;
        input.value.element()
    }

    /// Adds an initializer.
    pub(crate) fn add_initializer(&mut self, tensor: Tensor) {
        self.order.push(tensor.name.clone());
        let name = tensor.name.clone();
        self.initializers.insert(name, Part::new(tensor));
    }

    /// Takes a node out.
    pub(crate) fn remove(&mut self, index: usize) {
        self.replace(index, Node::default());
    }

    /// Puts a node in the place of one.
    pub(crate) fn replace(&mut self, index: usize, node: Node) {
        self.nodes[index] = Part::new(node);
    }

    /// Puts a node right behind one, and behind what was put there before.
    pub(crate) fn put_after(&mut self, index: usize, node: Node) {
        self.behind.entry(index).or_default().push(node);
    }

    /// The nodes that were put before or behind others.
    fn added(&self) -> impl Iterator<Item = &Node> {
        self.first.iter().chain(self.behind.values().flatten())
    }

    /// Puts another initializer in the place of one, whose name is free then for a
    /// node's output.
    pub(crate) fn rename_initializer(&mut self, name: &str, tensor: Tensor) {
        self.initializers.remove(name);
        self.add_initializer(tensor);
    }

    /// Puts a node before all others.
    pub(crate) fn add_first(&mut self, node: Node) {
        self.first.push(node);
    }

    /// Gives the graph another output in the place of all that it had.
    pub(crate) fn set_output(&mut self, output: ValueInfo) {
        self.outputs = vec![Part::new(output)];
    }

    /// Whether a node has a graph inside (`If`, `Loop` or `Scan`), which may use any
    /// value out here.
    pub(crate) fn has_inner_graphs(&self) -> bool {
        let has_graph = |a: &Attribute| a.g.is_some() || !a.graphs.is_empty();
        let mut nodes = self.nodes.iter().map(|part| &part.value);
        nodes.any(|node| node.attribute.iter().any(has_graph))
    }

    /// The model's bytes. Initializers that nothing uses are left out, and a
    /// domain of operators is declared.
    pub(crate) fn write(&self, domain: Option<&str>) -> Vec<u8> {
        let mut graph = Vec::new();
        for node in &self.first {
            put(&mut graph, field::GRAPH_NODE, &[], node);
        }
        for (index, part) in self.nodes.iter().enumerate() {
            if !part.value.op_type.is_empty() {
                put(&mut graph, field::GRAPH_NODE, part.raw, &part.value);
            }
            for node in self.behind.get(&index).into_iter().flatten() {
                put(&mut graph, field::GRAPH_NODE, &[], node);
            }
        }
        let nodes = self.nodes.iter().map(|part| &part.value);
        let nodes = nodes.chain(self.added());
        let used: HashSet<&String> = nodes.flat_map(|node| &node.input).collect();
        let is_used = |name: &String| used.contains(name) || self.is_output(name);
        for name in self.order.iter().filter(|name| is_used(name)) {
            if let Some(part) = self.initializers.get(name) {
                put(&mut graph, field::GRAPH_INITIALIZER, part.raw, &part.value);
            }
        }
        for part in &self.inputs {
            // In old graphs, initializers are inputs too.
            let name = &part.value.name;
            if !self.initializers.contains_key(name) || is_used(name) {
                graph.extend_from_slice(part.raw);
            }
        }
        for part in &self.outputs {
            put(&mut graph, field::GRAPH_OUTPUT, part.raw, &part.value);
        }
        self.rest
            .iter()
            .for_each(|raw| graph.extend_from_slice(raw));

        let mut model: Vec<u8> = self.model.concat();
        if let Some(domain) = domain {
            let set = OperatorSet {
                domain: domain.to_owned(),
                version: 1,
            };
            put(&mut model, field::MODEL_OPERATOR_SETS, &[], &set);
        }
        key(&mut model, field::MODEL_GRAPH, graph.len());
        model.extend(graph);
        model
    }
}

/// The key of a field with so many bytes.
fn key(out: &mut Vec<u8>, number: u64, length: usize) {
    prost::encoding::encode_varint(number << 3 | 2, out);
    prost::encoding::encode_varint(length as u64, out);
}

/// A message as a field: as it came, if it did.
fn put(out: &mut Vec<u8>, number: u64, raw: &[u8], message: &impl Message) {
    if !raw.is_empty() {
        out.extend_from_slice(raw);
        return;
    }
    key(out, number, message.encoded_len());
    out.extend(message.encode_to_vec());
}

fn malformed(reason: impl std::fmt::Display) -> Error {
    Error::Graph {
        reason: reason.to_string(),
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(malformed)
}

/// The fields of a message: number, all bytes, and the bytes of its content.
type Field<'a> = (u64, &'a [u8], &'a [u8]);

fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, Error> {
    let mut fields = Fields { rest: bytes };
    let mut all = Vec::new();
    loop {
        let before = fields.rest;
        let next = fields
            .next()
            .map_err(|refusal| malformed(refusal.reason()))?;
        let Some((number, value)) = next else {
            return Ok(all);
        };
        let raw = &before[..before.len() - fields.rest.len()];
        all.push((number, raw, value.bytes()));
    }
}
