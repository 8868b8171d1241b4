//! What becomes of a graph when its session opens on a GPU.
//!
//! * **Pooling** by mean or first token moves into the graph, so that one row for each
//!   text comes back from the device, and not one for each token.
//! * **A model of fp16 computes with 16 bits**, for which the device has matrix units:
//!   products with stored matrices, what ONNX Runtime has fused around them, and
//!   sums with stored vectors. Every other node computes with 32 bits as before, and
//!   `Cast` nodes lie between (Micikevicius et al., "Mixed Precision Training", 2018,
//!   is where this division comes from). Sums inside of the operators are kept in 32
//!   bits by the device.
//!
//! What is stored stays as it is: this is done each time that a session opens.

use std::collections::HashMap;

use crate::error::Error;
use crate::graph::Graph;
use crate::onnx::{Attribute, FLOAT, FLOAT16, MICROSOFT, Node, Tensor, ValueInfo};
use crate::settings::{Pooling, Precision, Settings};

/// The output with one vector per text, and the stem of the names of what leads to it.
const POOLED: &str = "insitu.gpu.pooled";

/// The graph that a GPU is to run for a stored one, and the settings that go with it.
pub(crate) fn for_gpu(bytes: &[u8], settings: &Settings) -> Result<(Vec<u8>, Settings), Error> {
    let mut graph = Graph::read(bytes)?;
    if settings.precision == Precision::Fp16 && !graph.has_inner_graphs() {
        Halving::new(&mut graph).run();
    }
    let mut settings = settings.clone();
    if add_pooling(&mut graph, &settings) {
        settings.output = POOLED.to_owned();
        settings.pooling = Pooling::None;
    }
    Ok((graph.write(None), settings))
}

/// Appends what pools the vectors of tokens, if that can be done; whether it was.
///
/// All of these nodes mean the same in every version of ONNX's operators since 7.
fn add_pooling(graph: &mut Graph<'_>, settings: &Settings) -> bool {
    let (mask, states) = ("attention_mask", settings.output.as_str());
    let Some(last) = graph.len().checked_sub(1) else {
        return false;
    };
    let nodes = match settings.pooling {
        Pooling::Cls => {
            graph.add_initializer(Tensor::integers("insitu.gpu.first", &[], &[0]));
            let axis = vec![Attribute::int("axis", 1)];
            vec![Node::new(
                "Gather",
                "",
                &[states, "insitu.gpu.first"],
                POOLED,
                axis,
            )]
        }
        Pooling::Mean if graph.input_element(mask).is_some() => {
            for (name, shape) in [
                ("insitu.gpu.as_row", &[0, 1, -1][..]),
                ("insitu.gpu.as_column", &[0, -1, 1]),
                ("insitu.gpu.as_vectors", &[0, -1]),
            ] {
                graph.add_initializer(Tensor::integers(name, &[shape.len()], shape));
            }
            let to_float = vec![Attribute::int("to", i64::from(FLOAT))];
            let node = |operator: &str, inputs: &[&str], output: &str| {
                Node::new(operator, "", inputs, output, Vec::new())
            };
            vec![
                Node::new("Cast", "", &[mask], "insitu.gpu.mask", to_float),
                node(
                    "Reshape",
                    &["insitu.gpu.mask", "insitu.gpu.as_row"],
                    "insitu.gpu.row",
                ),
                node(
                    "Reshape",
                    &["insitu.gpu.mask", "insitu.gpu.as_column"],
                    "insitu.gpu.column",
                ),
                node("MatMul", &["insitu.gpu.row", states], "insitu.gpu.sums"),
                node(
                    "MatMul",
                    &["insitu.gpu.row", "insitu.gpu.column"],
                    "insitu.gpu.counts",
                ),
                node(
                    "Div",
                    &["insitu.gpu.sums", "insitu.gpu.counts"],
                    "insitu.gpu.means",
                ),
                node(
                    "Reshape",
                    &["insitu.gpu.means", "insitu.gpu.as_vectors"],
                    POOLED,
                ),
            ]
        }
        _ => return false,
    };
    for node in nodes {
        graph.put_after(last, node);
    }
    // At most MAX_WIDTH.
    let width = Ok(settings.width() as i64);
    graph.set_output(ValueInfo::tensor(POOLED, FLOAT, &[Err("batch"), width]));
    true
}

/// Makes a graph compute with 16 bits.
struct Halving<'g, 'a> {
    graph: &'g mut Graph<'a>,
    /// The node that gives each value.
    producers: HashMap<String, usize>,
    /// The name of each value's form in 16 bits, where there is one.
    halves: HashMap<String, String>,
    /// The nodes that widen what is stored in 16 bits, and what they give.
    widenings: Vec<(usize, String)>,
}

impl<'g, 'a> Halving<'g, 'a> {
    fn new(graph: &'g mut Graph<'a>) -> Self {
        let mut producers = HashMap::new();
        let mut halves = HashMap::new();
        let mut widenings = Vec::new();
        for index in 0..graph.len() {
            let node = graph.node(index);
            for output in &node.output {
                producers.insert(output.clone(), index);
            }
            // A matrix that is stored in 16 bits.
            if let ("Cast", [stored], [widened]) =
                (node.op_type.as_str(), &node.input[..], &node.output[..])
                && let Some(tensor) = graph.initializer(stored)
                && tensor.data_type == FLOAT16
            {
                halves.insert(widened.clone(), stored.clone());
                widenings.push((index, widened.clone()));
            }
        }
        Halving {
            graph,
            producers,
            halves,
            widenings,
        }
    }

    fn run(&mut self) {
        for index in 0..self.graph.len() {
            let mut node = self.graph.node(index).clone();
            let floats = self.floats(&node);
            if floats.is_empty() {
                continue;
            }
            for &input in floats {
                if let Some(name) = node.input.get_mut(input).filter(|name| !name.is_empty()) {
                    *name = self.half(name);
                }
            }
            let output = node.output[0].clone();
            let half = half_of(&output);
            node.output[0].clone_from(&half);
            // A node of the old name may widen the value.
            node.name.clone_from(&half);
            self.graph.replace(index, node);
            self.halves.insert(output.clone(), half.clone());
            if self.is_wanted_wide(&output) {
                let cast = cast(&half, &output, FLOAT);
                self.graph.put_after(index, cast);
            }
        }
        for (widening, output) in std::mem::take(&mut self.widenings) {
            if !self.is_wanted_wide(&output) {
                self.graph.remove(widening);
            }
        }
    }

    /// Which inputs become 16 bits, of a node that then computes with them; none of
    /// another one. Its first output is what becomes 16 bits too.
    fn floats(&self, node: &Node) -> &'static [usize] {
        let input = |index: usize| node.input.get(index).map_or("", String::as_str);
        let is_stored = |index: usize| {
            let tensor = |name: &str| self.graph.initializer(name);
            let stored = self.halves.get(input(index)).map(String::as_str);
            stored.and_then(tensor).is_some()
        };
        // A stored vector, added to what has 16 bits already.
        let is_bias = |index: usize| {
            let tensor = self.graph.initializer(input(index));
            let is_vector = tensor.is_some_and(|t| t.data_type == FLOAT && t.dims.len() == 1);
            is_vector && self.halves.contains_key(input(1 - index))
        };
        let is_unused = |output: &String| output.is_empty() || !self.graph.is_used(output);
        let gives_one = node.output.iter().skip(1).all(is_unused);
        match (node.domain.as_str(), node.op_type.as_str()) {
            ("" | "ai.onnx", "MatMul") if is_stored(1) => &[0, 1],
            ("" | "ai.onnx", "Gemm") if is_stored(1) => &[0, 1, 2],
            ("" | "ai.onnx", "Add") if is_bias(0) || is_bias(1) => &[0, 1],
            (MICROSOFT, "BiasGelu") => &[0, 1],
            (MICROSOFT, "SkipLayerNormalization") if gives_one => &[0, 1, 2, 3, 4],
            // The second output is of whole numbers.
            (MICROSOFT, "EmbedLayerNormalization")
                if is_stored(2) && node.output.iter().skip(2).all(is_unused) =>
            {
                &[2, 3, 4, 5, 6]
            }
            (MICROSOFT, "Attention") if is_stored(1) && gives_one && input(4).is_empty() => {
                &[0, 1, 2, 5]
            }
            _ => &[],
        }
    }

    /// The name of a value in 16 bits, which it gets now if it has none.
    fn half(&mut self, name: &str) -> String {
        if let Some(half) = self.halves.get(name) {
            return half.clone();
        }
        let half = half_of(name);
        let floats = self.graph.initializer(name).and_then(Tensor::as_floats);
        match (floats, self.producers.get(name)) {
            (Some((shape, values)), _) => {
                let tensor = Tensor::halves(&half, &shape, &values);
                self.graph.add_initializer(tensor);
            }
            (None, Some(&producer)) => {
                let cast = cast(name, &half, FLOAT16);
                self.graph.put_after(producer, cast);
            }
            (None, None) => self.graph.add_first(cast(name, &half, FLOAT16)),
        }
        self.halves.insert(name.to_owned(), half.clone());
        half
    }

    /// Whether a value is used in 32 bits.
    fn is_wanted_wide(&self, value: &str) -> bool {
        let in_node = |&user: &usize| {
            let node = self.graph.node(user);
            let floats = self.floats(node);
            let mut inputs = node.input.iter().enumerate();
            inputs.any(|(index, input)| input == value && !floats.contains(&index))
        };
        self.graph.is_output(value) || self.graph.users(value).iter().any(in_node)
    }
}

/// The name of a value in 16 bits.
fn half_of(name: &str) -> String {
    format!("insitu.gpu.half.{name}")
}

fn cast(from: &str, to: &str, element: i32) -> Node {
    let attribute = Attribute::int("to", i64::from(element));
    Node::new("Cast", "", &[from], to, vec![attribute])
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;
