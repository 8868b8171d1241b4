//! Operators of our own, which ONNX Runtime calls for the nodes of the domain
//! [`DOMAIN`].
//!
//! * `QuantizedLinear` (x, weights, scales, bias?, zero_points?, codebook?,
//!   residual?, γ?, β?): see [`linear`]. x is float of any rank with `inputs` last;
//!   weights are uint8 of shape [outputs, bytes], `bits` each (8: two's complement;
//!   4: two to a byte, the first in the low half, in −8..=7 about the zero point
//!   8); scales are float [outputs, blocks of `block` inputs]. With 4 bits, there
//!   may be zero points, uint8 [outputs, blocks], or a codebook, int8 \[16\].
//!   `activation` is "", or "gelu".
//! * `MaskedAttention` (qkv, mask, bias?): see [`attention`]. qkv is float [texts,
//!   tokens, 3·hidden], mask int32 [texts, tokens], ones before zeros; bias is float
//!   [1, heads, tokens, tokens] and is added to the scores.
//! * `QuantizedEmbedding` (ids, table, scales, types?, positions?, kinds?, γ?, β?):
//!   see [`embedding`]. ids and types are int32 or int64, the table int8 [rows,
//!   width], scales float \[rows\]; with all of the others, the sum of token,
//!   position and type is normalized.
//! * `Pool` (states, mask): states is float [texts, tokens, hidden], mask int32
//!   [texts, tokens], ones before zeros; gives one row per text, by the `mode` mean,
//!   cls, max or last_token of its real tokens.
//!
//! A graph may come from anyone who may load models, so everything about a node
//! is checked when a session opens, and ids and shapes when it runs. Nothing here
//! may panic: ONNX Runtime's C++ frames lie between us and the caller.

mod attention;
mod embedding;
mod linear;
mod masked_attention;
mod node;
mod pool;
mod quantized_embedding;
mod quantized_linear;
mod simd;

use ort::Result;
use ort::operator::OperatorDomain;

use masked_attention::MaskedAttention;
use pool::Pool;
use quantized_embedding::QuantizedEmbedding;
use quantized_linear::QuantizedLinear;
pub(crate) use simd::{Isa, dot};

/// The domain of the operators.
pub(crate) const DOMAIN: &str = "insitu";

/// The operators for a session with so many threads.
pub(crate) fn domain(threads: usize) -> Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(QuantizedLinear { threads })?
        .add(MaskedAttention { threads })?
        .add(Pool)?
        .add(QuantizedEmbedding::<false>)?
        .add(QuantizedEmbedding::<true>)
}
