//! Short codes, and beside each link a still shorter one of the neighbour.
//!
//! Vectors are rotated once ([`Rotation`]). A vertex's own code has 8 bits a
//! dimension and a bound of its error ([`scalar8`]). A link holds the
//! neighbour's 1-bit RaBitQ code relative to the vertex ([`rabitq`]), packed so
//! that 32 of them are compared with a query in one pass ([`fastscan`]). This
//! is the vertex of Gou et al., "SymphonyQG: Towards Symphonious Integration of
//! Quantization and Graph for Approximate Nearest Neighbor Search", SIGMOD 2025
//! (arXiv:2411.12229), with a short code in the place of the full vector.
//!
//! Where vertices would fill little more than half of their pages, the codes of
//! neighbours leave out the last few dimensions ([`Fused::fitted`]).
//!
//! What links hold, for a capacity of n: n `f32` terms (`add`), n `f32` factors
//! (`rescale`), then a block of codes for every 32 links.

use super::Codec;
use crate::Metric;
use crate::metric;
use crate::quantize::bound::{has_exact_products, lower_bound};
use crate::quantize::fastscan::{self, BLOCK, Table};
use crate::quantize::rabitq::{self, Factors, Form};
use crate::quantize::rotation::Rotation;
use crate::quantize::scalar8::{self, View};

/// 8-bit codes, with 1-bit codes beside the links.
pub struct Fused {
    metric: Metric,
    form: Form,
    dimension: usize,
    rotation: Rotation,
    /// Links of a vertex: what [`Codec::links_len`] was told.
    capacity: usize,
    /// Rotated dimensions that codes of neighbours have a bit for.
    coded: usize,
}

impl Fused {
    /// A codec for vectors of `dimension` components and vertices of up to
    /// `capacity` links; `None` under a metric that has no such codes. `seed`
    /// decides the rotation.
    pub fn new(metric: Metric, dimension: usize, capacity: usize, seed: u64) -> Option<Self> {
        let form = match metric {
            Metric::L2 => Form::L2,
            Metric::InnerProduct | Metric::Cosine => Form::InnerProduct,
            Metric::L1 | Metric::Hamming | Metric::Jaccard => return None,
        };
        let rotation = Rotation::new(dimension, seed);
        Some(Fused {
            metric,
            form,
            dimension,
            coded: rotation.padded(),
            rotation,
            capacity,
        })
    }

    /// Leaves some dimensions out of the codes of neighbours, but not more than
    /// an eighth, if vertices are smaller then by the measure of `size`, which
    /// is given the bytes of a vertex's links and of its code.
    pub fn fitted(mut self, size: impl Fn(usize, usize) -> usize) -> Self {
        const STEP: usize = 64;
        let padded = self.rotation.padded();
        let steps = padded / STEP;
        let choices = (steps - steps / 8..=steps).rev().map(|step| step * STEP);
        let best = choices.min_by_key(|&coded| {
            self.coded = coded;
            size(self.links_len(self.capacity), self.code_len())
        });
        self.coded = best.unwrap_or(padded);
        self
    }

    /// The vector rotated, and before that normalized under cosine; `None` if
    /// it is zero then.
    fn rotate(&self, vector: &[f32]) -> Option<Vec<f32>> {
        debug_assert_eq!(vector.len(), self.dimension);
        let mut rotated = vec![0.0; self.rotation.padded()];
        if self.metric == Metric::Cosine {
            let mut unit = vector.to_vec();
            if !metric::normalize(&mut unit) {
                return None;
            }
            self.rotation.rotate(&unit, &mut rotated);
        } else {
            self.rotation.rotate(vector, &mut rotated);
        }
        Some(rotated)
    }

    fn prepare(&self, rotated: Vec<f32>) -> FusedQuery {
        let table = Table::new(&rotated[..self.coded]);
        let norm_squared = metric::squares(&rotated);
        FusedQuery {
            norm_squared: norm_squared as f32,
            norm: norm_squared.sqrt() as f32,
            rotated,
            table,
        }
    }

    /// The key that an inner product of two rotated vectors stands for, with
    /// the squares of their norms.
    fn key_of(&self, product: f32, squares: f32) -> f32 {
        let key = match self.form {
            Form::L2 => (squares - 2.0 * product).max(0.0),
            Form::InnerProduct => -product,
        };
        if key.is_nan() { f32::INFINITY } else { key }
    }

    fn block_len(&self) -> usize {
        fastscan::block_len(self.coded)
    }

    /// The parts of what links hold: terms, factors, blocks.
    fn parts<'a>(&self, links: &'a [u8]) -> (&'a [f32], &'a [f32], &'a [u8]) {
        let (factors, blocks) = links.split_at(self.capacity * 8);
        let (add, rescale) = bytemuck::cast_slice(factors).split_at(self.capacity);
        (add, rescale, blocks)
    }

    /// The neighbour's code relative to the vertex, of which the code and what it stands
    /// for are given, into `bits`.
    fn relative(&self, own: &[u8], centre: &[f32], neighbour: &[u8], bits: &mut [u8]) -> Factors {
        let centre = (View::new(own), centre);
        rabitq::encode(self.form, centre, View::new(neighbour), bits)
    }

    /// λ of [`rabitq`] for a query that the code has this key for.
    fn projection(&self, code: &[u8], key: f32) -> f32 {
        rabitq::projection(self.form, key, View::new(code).norm_squared)
    }

    fn decode(&self, code: &[u8]) -> Vec<f32> {
        let mut rotated = vec![0.0; self.rotation.padded()];
        scalar8::decode(View::new(code), &mut rotated);
        rotated
    }
}

/// A query of [`Fused`].
pub struct FusedQuery {
    rotated: Vec<f32>,
    norm_squared: f32,
    norm: f32,
    table: Table,
}

impl Codec for Fused {
    type Vector<'a> = &'a [f32];
    type Query = FusedQuery;

    fn code_len(&self) -> usize {
        scalar8::code_len(self.rotation.padded())
    }

    fn links_len(&self, capacity: usize) -> usize {
        capacity * 8 + capacity.div_ceil(BLOCK) * self.block_len()
    }

    fn encode(&self, vector: &[f32], code: &mut [u8]) -> bool {
        let Some(rotated) = self.rotate(vector) else {
            return false;
        };
        scalar8::encode(&rotated, code);
        if !has_exact_products(self.metric, vector) {
            scalar8::set_error(code, f32::INFINITY);
        }
        true
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        let (a, b) = (View::new(a), View::new(b));
        self.key_of(scalar8::dot_codes(a, b), a.norm_squared + b.norm_squared)
    }

    fn query(&self, vector: &[f32]) -> Option<FusedQuery> {
        let mut query = self.prepare(self.rotate(vector)?);
        if !has_exact_products(self.metric, vector) {
            query.norm = f32::INFINITY;
        }
        Some(query)
    }

    fn query_of_code(&self, code: &[u8]) -> FusedQuery {
        self.prepare(self.decode(code))
    }

    fn key(&self, query: &FusedQuery, code: &[u8]) -> f32 {
        let view = View::new(code);
        self.key_of(
            scalar8::dot(&query.rotated, view),
            query.norm_squared + view.norm_squared,
        )
    }

    fn bound(&self, query: &FusedQuery, code: &[u8], key: f32) -> f64 {
        let view = View::new(code);
        let norm = view.norm_squared.sqrt();
        lower_bound(
            self.metric,
            query.norm,
            key,
            view.error,
            norm,
            self.dimension,
        )
    }

    fn estimates(
        &self,
        query: &FusedQuery,
        code: &[u8],
        key: f32,
        links: &[u8],
        out: &mut Vec<f32>,
    ) {
        let projection = self.projection(code, key);
        let (add, rescale, blocks) = self.parts(links);
        let blocks = blocks.chunks_exact(self.block_len());
        let factors = add.chunks(BLOCK).zip(rescale.chunks(BLOCK));
        let mut sums = [0.0; BLOCK];
        let mut estimates = [0.0; BLOCK];
        for (block, (add, rescale)) in blocks.zip(factors) {
            query.table.centred_sums(block, &mut sums);
            rabitq::estimates((add, rescale), (key, projection), &sums, &mut estimates);
            out.extend_from_slice(&estimates);
        }
    }

    fn spread(&self, query: &FusedQuery, code: &[u8], key: f32) -> f32 {
        match self.form {
            Form::L2 => key,
            // What λ‖c‖² = ⟨q, c⟩ leaves of ‖q − λc‖².
            Form::InnerProduct => (query.norm_squared + self.projection(code, key) * key).max(0.0),
        }
    }

    fn slack(&self, query: &FusedQuery, code: &[u8], key: f32) -> f32 {
        /// A part of the square of the distance.
        const SLACK: f32 = 0.06;
        match self.form {
            Form::L2 => SLACK * key,
            // ‖q‖·‖o‖ − ⟨q, o⟩ of unit vectors is half of that square. Of others, it grows
            // with both as the key does.
            Form::InnerProduct => {
                let norms = query.norm_squared.sqrt() * View::new(code).norm_squared.sqrt();
                SLACK * (norms + key).max(0.0)
            }
        }
    }

    fn encode_links(&self, own: &[u8], neighbours: &[(usize, &[u8])], links: &mut [u8]) {
        let centre = self.decode(own);
        let block_len = self.block_len();
        let mut bits = vec![0; self.coded / 8];
        let (factors, blocks) = links.split_at_mut(self.capacity * 8);
        let (add, rescale) =
            bytemuck::cast_slice_mut::<u8, f32>(factors).split_at_mut(self.capacity);
        for (number, block) in blocks.chunks_exact_mut(block_len).enumerate() {
            let places = number * BLOCK..(number + 1) * BLOCK;
            let mut here = neighbours
                .iter()
                .filter(|n| places.contains(&n.0))
                .peekable();
            if here.peek().is_none() {
                continue;
            }
            let mut rows = fastscan::unpack(block);
            for &(position, neighbour) in here {
                let relative = self.relative(own, &centre, neighbour, &mut bits);
                add[position] = relative.add;
                rescale[position] = relative.rescale;
                fastscan::set_column(&mut rows, position % BLOCK, &bits);
            }
            fastscan::pack(&rows, block);
        }
    }

    fn link_matches(&self, own: &[u8], neighbour: (usize, &[u8]), links: &[u8]) -> bool {
        let centre = self.decode(own);
        let (position, neighbour) = neighbour;
        let mut bits = vec![0; self.coded / 8];
        let expected = self.relative(own, &centre, neighbour, &mut bits);
        let (add, rescale, blocks) = self.parts(links);
        let from = position / BLOCK * self.block_len();
        let block = &blocks[from..from + self.block_len()];
        let rows = fastscan::unpack(block);
        let stored: Vec<u8> = rows.iter().map(|row| row[position % BLOCK]).collect();
        // Another processor may have added in another order.
        let largest = centre.iter().fold(0.0_f32, |m, c| m.max(c.abs()));
        let near = |a: f32, b: f32, size: f32| (a - b).abs() <= 1e-3 * (a.abs() + size);
        let size = expected.rescale.abs() * largest * centre.len() as f32 / 64.0;
        stored == bits
            && near(expected.rescale, rescale[position], 0.0)
            && near(expected.add, add[position], size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::codec::Code;

    fn query_of_length(codec: &Fused, length: f32) -> FusedQuery {
        let mut vector = [0.0; 64];
        vector[0] = length;
        codec.query(&vector).unwrap()
    }

    /// The key of a unit vector at a distance from a unit query, whose square is given,
    /// times `length`, for a query of that direction; and the slack there.
    fn key_at(codec: &Fused, query: &FusedQuery, square: f32, length: f32) -> (f32, f32) {
        let cosine = 1.0 - square / 2.0;
        let mut vector = [0.0; 64];
        vector[0] = length * cosine;
        vector[1] = length * (1.0 - cosine * cosine).sqrt();
        let mut code = Code::zeroed(codec.code_len());
        assert!(codec.encode(&vector, code.bytes_mut()));
        let key = codec.key(query, code.bytes());
        (key, codec.slack(query, code.bytes(), key))
    }

    #[test]
    fn slack_is_a_part_of_the_distance_under_every_metric() {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let codec = Fused::new(metric, 64, 32, 7).unwrap();
            let query = query_of_length(&codec, 1.0);
            let (near, slack) = key_at(&codec, &query, 1.0, 1.0);
            let (far, _) = key_at(&codec, &query, 1.06, 1.0);
            // Codes are off by less than a hundredth.
            assert!(
                (far - near - slack).abs() < 0.01,
                "{metric:?}: {near}, {far}, {slack}"
            );
        }
    }

    #[test]
    fn slack_grows_with_vectors_as_inner_products_do() {
        let codec = Fused::new(Metric::InnerProduct, 64, 32, 7).unwrap();
        let (_, slack) = key_at(&codec, &query_of_length(&codec, 1.0), 1.0, 1.0);
        let lengths = [
            (100.0, 1.0),
            (1.0, 100.0),
            (0.01, 10.0),
            (1e-12, 1e-12),
            (1e10, 1e10),
        ];
        for (of_query, of_vector) in lengths {
            let query = query_of_length(&codec, of_query);
            let (_, longer) = key_at(&codec, &query, 1.0, of_vector);
            let expected = of_query * of_vector * slack;
            assert!(
                (longer - expected).abs() < 0.02 * expected,
                "{of_query} {of_vector}: {longer} {expected}"
            );
        }
    }
}
