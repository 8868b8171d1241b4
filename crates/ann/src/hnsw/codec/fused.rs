//! Short codes, and beside each link a still shorter one of the neighbour.
//!
//! What vectors have in common is kept apart ([`Frame`]): of each, the code has how
//! far it goes along the axis as a number, and the rest in short.
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
//! Cosine is the distance of normalized vectors: half of the square of L2. Of near ones,
//! that is a small number known well, and an inner product would be the small difference
//! of large ones.
//!
//! What links hold, for a capacity of n: n `f32` terms (`add`), n `f32` factors
//! (`rescale`), for n neighbours how far they go along the axis (`f32`), under L2 and
//! cosine the squares of the norms of what their codes stand for (`f32`), filled up to a
//! multiple of 8, then a block of codes for every 32 links.

use super::{Codec, Measured};
use crate::Metric;
use crate::metric;
use crate::quantize::bound::{
    Norms, cosine_of_chord, has_exact_norm, has_exact_products, lower_bound,
};
use crate::quantize::fastscan::{self, BLOCK, Table};
use crate::quantize::frame::Frame;
use crate::quantize::rabitq::{self, Factors, Form};
use crate::quantize::rotation::Rotation;
use crate::quantize::scalar8::{self, View};

/// Of so many dimensions, estimates are good enough for a slack that is no larger than it
/// has to be. They get worse as the root of the number of dimensions gets less.
const ENOUGH_DIMENSIONS: f32 = 384.0;

/// 8-bit codes, with 1-bit codes beside the links.
pub struct Fused {
    metric: Metric,
    form: Form,
    dimension: usize,
    frame: Frame,
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
            Metric::L2 | Metric::Cosine => Form::L2,
            Metric::InnerProduct => Form::InnerProduct,
            Metric::L1 | Metric::Hamming | Metric::Jaccard => return None,
        };
        let rotation = Rotation::new(dimension, seed);
        Some(Fused {
            metric,
            form,
            dimension,
            frame: Frame::unlearned(dimension),
            coded: rotation.padded(),
            rotation,
            capacity,
        })
    }

    /// The codec of vectors that have this in common.
    pub fn in_frame(self, frame: Frame) -> Self {
        Fused { frame, ..self }
    }

    /// Leaves some dimensions out of the codes of neighbours, but not more than
    /// a sixth, if vertices are smaller then by the measure of `size`, which
    /// is given the bytes of a vertex's links and of its code.
    pub fn fitted(mut self, size: impl Fn(usize, usize) -> usize) -> Self {
        const STEP: usize = 64;
        let padded = self.rotation.padded();
        let steps = padded / STEP;
        let choices = (steps - steps / 6..=steps).rev().map(|step| step * STEP);
        let best = choices.min_by_key(|&coded| {
            self.coded = coded;
            size(self.links_len(self.capacity), self.code_len())
        });
        self.coded = best.unwrap_or(padded);
        self
    }

    /// How far the vector goes along the axis, and its rest, rotated. Before that it is
    /// normalized under cosine; `None` if it is zero then.
    fn split(&self, vector: &[f32]) -> Option<Parts> {
        debug_assert_eq!(vector.len(), self.dimension);
        let mut rest = vector.to_vec();
        if self.metric == Metric::Cosine && !metric::normalize(&mut rest) {
            return None;
        }
        let along = self.frame.split(&mut rest);
        let mut rotated = vec![0.0; self.rotation.padded()];
        self.rotation.rotate(&rest, &mut rotated);
        Some(Parts {
            along,
            rotated,
            is_exact: has_exact_products(self.metric, vector) && has_exact_norm(&rest),
        })
    }

    fn prepare(&self, along: f32, rotated: Vec<f32>) -> FusedQuery {
        let table = Table::new(&rotated[..self.coded]);
        let norm_squared = metric::squares(&rotated);
        FusedQuery {
            along,
            norm_squared: norm_squared as f32,
            norms: norms(along, norm_squared as f32),
            rotated,
            table,
        }
    }

    /// What two vectors that go so far along the axis add to the key.
    fn key_along(&self, a: f32, b: f32) -> f32 {
        match self.form {
            Form::L2 => (a - b) * (a - b),
            Form::InnerProduct => -a * b,
        }
    }

    /// A key and its parts, of how far vectors go along the axis and the key of the rests.
    fn with_along(&self, (a, b): (f32, f32), rest: f32) -> Measured {
        let key = self.key_along(a, b) + rest;
        let key = if key.is_nan() { f32::INFINITY } else { key };
        Measured { key, rest }
    }

    /// The key that an inner product of two rotated rests stands for, with
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

    /// Bytes of the numbers of so many links.
    fn factors_len(&self, capacity: usize) -> usize {
        let numbers = match self.form {
            Form::L2 => 4,
            Form::InnerProduct => 3,
        };
        (capacity * numbers * size_of::<f32>()).next_multiple_of(8)
    }

    /// The parts of what links hold: terms, factors, how far neighbours go along the
    /// axis, and the squares of norms; blocks.
    fn parts<'a>(&self, links: &'a [u8]) -> ([&'a [f32]; 4], &'a [u8]) {
        let (factors, blocks) = links.split_at(self.factors_len(self.capacity));
        let mut numbers = bytemuck::cast_slice(factors).chunks(self.capacity);
        let parts = [(); 4].map(|()| numbers.next().unwrap_or(&[]));
        (parts, blocks)
    }

    /// The neighbour's code relative to the vertex, of which the code and what it stands
    /// for are given, into `bits`.
    fn relative(&self, own: &[u8], centre: &[f32], neighbour: &[u8], bits: &mut [u8]) -> Factors {
        let centre = (View::new(own), centre);
        rabitq::encode(Form::InnerProduct, centre, View::new(neighbour), bits)
    }

    /// The negative inner product of the rests of a query and a code, of which the key of
    /// the rests is given, and λ of [`rabitq`].
    fn projection(&self, query: &FusedQuery, code: &[u8], rest: f32) -> (f32, f32) {
        let squares = View::new(code).norm_squared;
        let product = match self.form {
            Form::L2 => (rest - query.norm_squared - squares) / 2.0,
            Form::InnerProduct => rest,
        };
        let projection = rabitq::projection(Form::InnerProduct, product, squares);
        (product, projection)
    }

    fn decode(&self, code: &[u8]) -> Vec<f32> {
        let mut rotated = vec![0.0; self.rotation.padded()];
        scalar8::decode(View::new(code), &mut rotated);
        rotated
    }
}

/// A vector that was taken apart.
struct Parts {
    along: f32,
    rotated: Vec<f32>,
    /// Whether products with it can be computed without loss.
    is_exact: bool,
}

/// The norms of a vector that goes so far along the axis and has this square of the norm
/// of its rest.
fn norms(along: f32, norm_squared: f32) -> Norms {
    let [along, rest] = [along, norm_squared].map(f64::from);
    Norms {
        whole: (along * along + rest).sqrt() as f32,
        rest: rest.sqrt() as f32,
    }
}

/// A query of [`Fused`].
pub struct FusedQuery {
    along: f32,
    /// The rest, and the square of its norm.
    rotated: Vec<f32>,
    norm_squared: f32,
    /// Infinite if products cannot be computed without loss.
    norms: Norms,
    table: Table,
}

impl Codec for Fused {
    type Vector<'a> = &'a [f32];
    type Query = FusedQuery;

    fn code_len(&self) -> usize {
        scalar8::code_len(self.rotation.padded())
    }

    fn links_len(&self, capacity: usize) -> usize {
        self.factors_len(capacity) + capacity.div_ceil(BLOCK) * self.block_len()
    }

    fn encode(&self, vector: &[f32], code: &mut [u8]) -> bool {
        let Some(parts) = self.split(vector) else {
            return false;
        };
        scalar8::encode(&parts.rotated, parts.along, code);
        if !parts.is_exact {
            scalar8::set_error(code, f32::INFINITY);
        }
        true
    }

    fn distance(&self, a: &[u8], b: &[u8]) -> f32 {
        let (a, b) = (View::new(a), View::new(b));
        let rest = self.key_of(scalar8::dot_codes(a, b), a.norm_squared + b.norm_squared);
        self.with_along((a.along, b.along), rest).key
    }

    fn query(&self, vector: &[f32]) -> Option<FusedQuery> {
        let parts = self.split(vector)?;
        let mut query = self.prepare(parts.along, parts.rotated);
        if !parts.is_exact {
            query.norms = Norms::of_whole(f32::INFINITY);
        }
        Some(query)
    }

    fn query_of_code(&self, code: &[u8]) -> FusedQuery {
        self.prepare(View::new(code).along, self.decode(code))
    }

    fn key(&self, query: &FusedQuery, code: &[u8]) -> f32 {
        self.measure(query, code).key
    }

    fn measure(&self, query: &FusedQuery, code: &[u8]) -> Measured {
        let view = View::new(code);
        let squares = query.norm_squared + view.norm_squared;
        let rest = self.key_of(scalar8::dot(&query.rotated, view), squares);
        self.with_along((query.along, view.along), rest)
    }

    fn blur(&self, code: &[u8], key: f32) -> f32 {
        let view = View::new(code);
        // What two codes are off by in the direction that counts: the one between them
        // under L2, that of either under inner product.
        let off = std::f32::consts::SQRT_2 * view.error / (self.dimension as f32).sqrt();
        match self.form {
            Form::L2 => 2.0 * off * key.max(0.0).sqrt(),
            Form::InnerProduct => off * view.norm_squared.sqrt(),
        }
    }

    fn frame(&self) -> &[f32] {
        self.frame.numbers()
    }

    fn bound(&self, query: &FusedQuery, code: &[u8], key: f32) -> f64 {
        let view = View::new(code);
        let norms = norms(view.along, view.norm_squared);
        let rounding = Frame::rounding([query.norms.whole, norms.whole + view.error]);
        let (metric, error) = match self.form {
            Form::L2 => (Metric::L2, view.error + rounding),
            // There, what the bound allows for is so large a part of the whole norms.
            Form::InnerProduct => (Metric::InnerProduct, view.error),
        };
        let dimension = self.dimension;
        let bound = lower_bound(metric, query.norms, key, error, norms, dimension);
        match self.metric {
            Metric::Cosine => cosine_of_chord(bound, dimension),
            _ => bound,
        }
    }

    fn estimates(
        &self,
        query: &FusedQuery,
        code: &[u8],
        measured: Measured,
        links: &[u8],
        out: &mut Vec<f32>,
    ) {
        let (product, projection) = self.projection(query, code, measured.rest);
        let ([add, rescale, along, squares], blocks) = self.parts(links);
        let blocks = blocks.chunks_exact(self.block_len());
        let mut sums = [0.0; BLOCK];
        let mut estimates = [0.0; BLOCK];
        for (number, block) in blocks.enumerate() {
            let here = number * BLOCK..((number + 1) * BLOCK).min(self.capacity);
            let factors = (&add[here.clone()], &rescale[here.clone()]);
            query.table.centred_sums(block, &mut sums);
            rabitq::estimates(factors, (product, projection), &sums, &mut estimates);
            let along = &along[here.clone()];
            match self.form {
                Form::L2 => {
                    let known = along.iter().zip(&squares[here]);
                    for (estimate, (&along, &squares)) in estimates.iter_mut().zip(known) {
                        let rest = query.norm_squared + squares + 2.0 * *estimate;
                        *estimate = self.key_along(query.along, along) + rest;
                    }
                }
                Form::InnerProduct => {
                    for (estimate, &along) in estimates.iter_mut().zip(along) {
                        *estimate += self.key_along(query.along, along);
                    }
                }
            }
            out.extend_from_slice(&estimates);
        }
    }

    fn spread(&self, query: &FusedQuery, code: &[u8], measured: Measured) -> f32 {
        // What λ‖c‖² = ⟨q, c⟩ leaves of ‖q − λc‖².
        let (product, projection) = self.projection(query, code, measured.rest);
        (query.norm_squared + projection * product).max(0.0)
    }

    fn slack(&self, query: &FusedQuery, code: &[u8], key: f32) -> f32 {
        /// A part of the square of the distance.
        const SLACK: f32 = 0.06;
        let slack = SLACK * (ENOUGH_DIMENSIONS / self.coded as f32).sqrt().max(1.0);
        match self.form {
            Form::L2 => slack * key,
            // ‖q‖·‖o‖ − ⟨q, o⟩ of unit vectors is half of that square. Of others, it grows
            // with both as the key does.
            Form::InnerProduct => {
                let view = View::new(code);
                let length = |along: f32, squares: f32| (along * along + squares).sqrt();
                let norms =
                    length(query.along, query.norm_squared) * length(view.along, view.norm_squared);
                slack * (norms + key).max(0.0)
            }
        }
    }

    fn encode_links(&self, own: &[u8], neighbours: &[(usize, &[u8])], links: &mut [u8]) {
        let centre = self.decode(own);
        let block_len = self.block_len();
        let mut bits = vec![0; self.coded / 8];
        let (factors, blocks) = links.split_at_mut(self.factors_len(self.capacity));
        let factors: &mut [f32] = bytemuck::cast_slice_mut(factors);
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
                let view = View::new(neighbour);
                let numbers = [
                    relative.add,
                    relative.rescale,
                    view.along,
                    view.norm_squared,
                ];
                let places = factors.chunks_mut(self.capacity);
                for (number, places) in numbers.into_iter().zip(places) {
                    if let Some(place) = places.get_mut(position) {
                        *place = number;
                    }
                }
                fastscan::set_column(&mut rows, position % BLOCK, &bits);
            }
            fastscan::pack(&rows, block);
        }
    }

    fn link_matches(&self, own: &[u8], neighbour: (usize, &[u8]), links: &[u8]) -> bool {
        let centre = self.decode(own);
        let (position, neighbour) = neighbour;
        let view = View::new(neighbour);
        let mut bits = vec![0; self.coded / 8];
        let expected = self.relative(own, &centre, neighbour, &mut bits);
        let ([add, rescale, along, squares], blocks) = self.parts(links);
        let from = position / BLOCK * self.block_len();
        let block = &blocks[from..from + self.block_len()];
        let rows = fastscan::unpack(block);
        let stored: Vec<u8> = rows.iter().map(|row| row[position % BLOCK]).collect();
        // Another processor may have added in another order.
        let largest = centre.iter().fold(0.0_f32, |m, c| m.max(c.abs()));
        let near = |a: f32, b: f32, size: f32| (a - b).abs() <= 1e-3 * (a.abs() + size);
        let size = expected.rescale.abs() * largest * centre.len() as f32 / 64.0;
        stored == bits
            && along[position].to_bits() == view.along.to_bits()
            && (squares.get(position)).is_none_or(|s| s.to_bits() == view.norm_squared.to_bits())
            && near(expected.rescale, rescale[position], 0.0)
            && near(expected.add, add[position], size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::codec::Code;

    /// Of fewer, slack is larger.
    const DIMENSION: usize = 384;

    fn query_of_length(codec: &Fused, length: f32) -> FusedQuery {
        let mut vector = [0.0; DIMENSION];
        vector[0] = length;
        codec.query(&vector).unwrap()
    }

    /// The key of a unit vector at a distance from a unit query, whose square is given,
    /// times `length`, for a query of that direction; and the slack there.
    fn key_at(codec: &Fused, query: &FusedQuery, square: f32, length: f32) -> (f32, f32) {
        let cosine = 1.0 - square / 2.0;
        let mut vector = [0.0; DIMENSION];
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
            let codec = Fused::new(metric, DIMENSION, 32, 7).unwrap();
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
        let codec = Fused::new(Metric::InnerProduct, DIMENSION, 32, 7).unwrap();
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

    #[test]
    fn slack_grows_where_estimates_are_worse() {
        let slack = |dimension: usize| {
            let codec = Fused::new(Metric::L2, dimension, 32, 7).unwrap();
            codec.slack(&codec.query(&vec![1.0; dimension]).unwrap(), &[0; 16], 1.0)
        };
        assert_eq!(slack(768), slack(384));
        assert!((slack(96) - 2.0 * slack(384)).abs() < 0.02, "{}", slack(96));
    }

    #[test]
    fn distances_are_those_of_the_vectors_in_any_frame() {
        let vectors: Vec<Vec<f32>> = (0..40_u32)
            .map(|row| {
                let component = |i: u32| 50.0 + ((row * 31 + i * 7) as f32).sin();
                (0..70).map(component).collect()
            })
            .collect();
        let mut exact = vec![0.0_f64; 3];
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let mut sample = vectors.clone();
            if metric == Metric::Cosine {
                sample
                    .iter_mut()
                    .for_each(|v| assert!(metric::normalize(v)));
            }
            let frame = Frame::of_sample(metric, &sample.concat(), 70, &mut || ()).unwrap();
            let codec = Fused::new(metric, 70, 4, 7).unwrap().in_frame(frame);
            let code = |vector: &[f32]| {
                let mut code = Code::zeroed(codec.code_len());
                assert!(codec.encode(vector, code.bytes_mut()));
                code
            };
            let codes: Vec<Code> = vectors.iter().map(|v| code(v)).collect();
            let mut links = Code::zeroed(codec.links_len(4));
            let neighbours = [(0, codes[1].bytes()), (3, codes[2].bytes())];
            codec.encode_links(codes[0].bytes(), &neighbours, links.bytes_mut());
            for (i, query) in sample.iter().enumerate().skip(3) {
                for (exact, other) in exact.iter_mut().zip(&sample) {
                    let pairs = query
                        .iter()
                        .zip(other)
                        .map(|(&a, &b)| (f64::from(a), f64::from(b)));
                    *exact = match metric {
                        Metric::InnerProduct => -pairs.map(|(a, b)| a * b).sum::<f64>(),
                        _ => pairs.map(|(a, b)| (a - b).powi(2)).sum(),
                    };
                }
                let query = codec.query(&vectors[i]).unwrap();
                let size = (exact[0] - exact[1]).abs().max((exact[1] - exact[2]).abs());
                let own = codec.measure(&query, codes[0].bytes());
                let off = (f64::from(own.key) - exact[0]).abs();
                assert!(
                    off < 0.1 * size + 2e-7 * exact[0].abs(),
                    "{metric:?}: {own:?} {exact:?}"
                );
                let mut estimates = Vec::new();
                codec.estimates(&query, codes[0].bytes(), own, links.bytes(), &mut estimates);
                for (estimate, exact) in [(estimates[0], exact[1]), (estimates[3], exact[2])] {
                    // What varies, of which estimates are off by a part.
                    let spread = match metric {
                        Metric::Cosine => 0.02 * 0.02,
                        _ => 70.0,
                    };
                    let off = (f64::from(estimate) - exact).abs();
                    assert!(
                        off < 0.5 * spread + 2e-7 * exact.abs(),
                        "{metric:?}: {estimate} {exact}"
                    );
                }
            }
        }
    }
}
