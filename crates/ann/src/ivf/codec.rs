//! From vectors to members of lists, and distances between them and a query.
//!
//! A vector of components is rotated (and under cosine normalized before), and
//! coded relative to the centroid of its list: a grid of 4 or 8 bits a dimension
//! with a bound of its error ([`extended`]), and the signs of that as a 1-bit
//! code ([`rabitq`]) for estimates of 32 members at once ([`fastscan`]).
//!
//! A string of bits is the vector of components ±½, which is not rotated and not
//! coded relative to anything: then a 1-bit code is the string itself, the
//! squared distance is the number of bits that differ, and an estimate from a
//! code of all bits is exact.
//!
//! Cosine is squared L2 on normalized vectors. What is said of keys below is
//! said of these two forms ([`Form`]): squared L2, and negative inner product.

use super::layout::{ENTRY_HEAD, Entry, EntryHead, Layout, Member, Options, RoundedUp};
use crate::metric::{self, normalize};
use crate::quantize::bound::{Norms, has_exact_norm, has_exact_products, lower_bound};
use crate::quantize::extended::{self, Bits};
use crate::quantize::fastscan::Table;
use crate::quantize::rabitq::{self, Form};
use crate::quantize::rotation::Rotation;
use crate::{AnyVector, Metric, simd};

/// What the values of an entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Points on a grid.
    Grid(Bits),
    /// A string of bits.
    Whole,
}

impl Values {
    /// Bytes for so many dimensions.
    pub fn len(self, padded: usize) -> usize {
        match self {
            Values::Grid(bits) => bits.packed_len(padded),
            Values::Whole => padded / 8,
        }
    }
}

/// What a list has members of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Centroids of other lists.
    Centroids,
    /// Rows.
    Rows,
}

/// How an index codes and compares vectors.
pub struct Codec {
    options: Options,
    form: Form,
    padded: usize,
    /// Under L2, what is subtracted from each vector first; nothing if it is empty.
    /// That changes no distance, but what is computed of them loses less to rounding
    /// where vectors are far from the origin and near to each other.
    mean: Vec<f32>,
    rotation: Option<Rotation>,
    centroids: Storey,
    rows: Storey,
}

/// The codes of a level.
struct Storey {
    values: Values,
    layout: Layout,
}

impl Storey {
    fn new(values: Values, padded: usize) -> Option<Self> {
        let layout = Layout::new(values, padded)?;
        Some(Storey { values, layout })
    }
}

/// A query, prepared for many comparisons.
pub struct Query {
    /// Rotated components.
    vector: Vec<f32>,
    /// Bits, eight to a byte.
    bits: Vec<u8>,
    /// For the 1-bit codes of centroids, and for those of rows if they leave
    /// out other dimensions.
    tables: (Table, Option<Table>),
    half_sum: f32,
    norm: f32,
    /// The same for bounds: infinite if products lose too much.
    bound_norm: f32,
}

impl Query {
    /// For [`Table::centred_sums`] of a level's blocks.
    pub fn table(&self, level: Level) -> &Table {
        match (level, &self.tables.1) {
            (Level::Rows, Some(rows)) => rows,
            _ => &self.tables.0,
        }
    }
}

/// What a query and a list's centroid have in common for all members.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The centroid's key.
    pub key: f32,
    /// The squared distance between the two.
    pub squared: f32,
}

/// A vector, prepared for encoding and as a query.
pub struct Prepared {
    /// Its rotated components, of its normalized direction under cosine.
    pub vector: Vec<f32>,
    /// Whether products with it lose nothing.
    pub is_exact: bool,
}

/// A centroid, as the members of its list are coded relative to it.
#[derive(Debug, Clone)]
pub struct Centre {
    /// Its rotated components.
    pub vector: Vec<f32>,
    /// At least its norm, and that of everything that is summed for it.
    norm: f32,
}

impl Codec {
    /// The codec of an index; `None` if there is none for its options.
    pub fn new(options: &Options) -> Option<Self> {
        let dimension = options.dimension as usize;
        let padded = dimension.next_multiple_of(64);
        let form = match options.metric {
            Metric::L2 | Metric::Cosine | Metric::Hamming => Form::L2,
            Metric::InnerProduct => Form::InnerProduct,
            Metric::L1 | Metric::Jaccard => return None,
        };
        let (rotation, centroids, rows) = if options.metric == Metric::Hamming {
            let storey = || Storey::new(Values::Whole, padded);
            (None, storey()?, storey()?)
        } else {
            let storey = |bits| Storey::new(Values::Grid(bits), padded);
            // Centroids wider than a page are coarser.
            let centroids = storey(Bits::Eight).or_else(|| storey(Bits::Four))?;
            let rotation = Rotation::new(dimension, options.seed);
            (Some(rotation), centroids, storey(options.bits)?)
        };
        Some(Codec {
            options: *options,
            form,
            padded,
            mean: Vec::new(),
            rotation,
            centroids,
            rows,
        })
    }

    /// The same codec with the mean of an index, empty for none.
    pub fn with_mean(self, mean: Vec<f32>) -> Self {
        Codec { mean, ..self }
    }

    /// Takes the mean of vectors that were loaded without one. `pause` is called every
    /// few milliseconds.
    pub fn set_mean_of(&mut self, loaded: &[f32], pause: &mut dyn FnMut()) {
        const BETWEEN_PAUSES: usize = 1024;
        /// With a larger mean, what is left might overflow.
        const LARGEST: f64 = 1e18;
        let rows = loaded.len() / self.padded;
        if self.options.metric != Metric::L2 || rows == 0 {
            return;
        }
        let mut sums = vec![0.0_f64; self.options.dimension as usize];
        for part in loaded.chunks(BETWEEN_PAUSES * self.padded) {
            pause();
            for vector in part.chunks_exact(self.padded) {
                for (sum, &x) in sums.iter_mut().zip(vector) {
                    *sum += f64::from(x);
                }
            }
        }
        let mean = sums.into_iter().map(|sum| sum / rows as f64);
        let mean: Vec<f64> = mean.collect();
        if mean.iter().all(|x| x.abs() < LARGEST) {
            self.mean = mean.into_iter().map(|x| x as f32).collect();
        }
    }

    /// The mean; empty if there is none.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// What the index was created with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Components of a prepared vector.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// The key of rows and of the order in which lists are searched.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The layout of a level's pages.
    pub fn layout(&self, level: Level) -> &Layout {
        &self.storey(level).layout
    }

    fn storey(&self, level: Level) -> &Storey {
        match level {
            Level::Centroids => &self.centroids,
            Level::Rows => &self.rows,
        }
    }

    /// Whether members are coded relative to their centroid.
    fn is_relative(&self) -> bool {
        self.rotation.is_some()
    }

    fn subtract_mean(&self, vector: &mut [f32]) {
        for (x, mean) in vector.iter_mut().zip(&self.mean) {
            *x -= mean;
        }
    }

    /// Copies a vector, less the mean, normalized under cosine, and tells whether
    /// products with it lose nothing. `None` if the index leaves it out: it is zero then.
    pub fn load(&self, vector: AnyVector<'_>, out: &mut [f32]) -> Option<bool> {
        match vector {
            AnyVector::Components(values) => {
                let (head, rest) = out.split_at_mut(values.len());
                head.copy_from_slice(values);
                rest.fill(0.0);
                self.subtract_mean(head);
                let is_exact = has_exact_products(self.options.metric, head);
                let is_placed = self.options.metric != Metric::Cosine || normalize(head);
                if !is_exact {
                    shorten(head);
                }
                is_placed.then_some(is_exact)
            }
            AnyVector::Bits(bytes) => {
                for (i, out) in out.iter_mut().enumerate() {
                    let byte = bytes.get(i / 8).copied().unwrap_or(0);
                    *out = if byte >> (i % 8) & 1 != 0 { 0.5 } else { -0.5 };
                }
                Some(true)
            }
            AnyVector::Sparse(_) => None,
        }
    }

    /// Makes vectors that were loaded without a mean those that [`Codec::prepare`]
    /// gives.
    pub fn prepare_loaded(&self, loaded: &mut [f32]) {
        for vector in loaded.chunks_exact_mut(self.padded) {
            self.subtract_mean(vector);
            self.rotate(vector);
        }
    }

    /// Rotates a loaded vector.
    pub fn rotate(&self, vector: &mut [f32]) {
        if let Some(rotation) = &self.rotation {
            let plain = vector[..self.options.dimension as usize].to_vec();
            rotation.rotate(&plain, vector);
        }
    }

    /// Loads and rotates a vector; `None` as for [`Codec::load`].
    pub fn prepare(&self, vector: AnyVector<'_>) -> Option<Prepared> {
        let mut out = vec![0.0; self.padded];
        let is_exact = self.load(vector, &mut out)?;
        self.rotate(&mut out);
        Some(Prepared {
            vector: out,
            is_exact,
        })
    }

    /// Encodes a prepared vector, with whether products with it lose nothing, as a
    /// member of a list with this centroid. Gives its squared distance from the
    /// centroid.
    pub fn encode(
        &self,
        level: Level,
        (vector, is_exact): (&[f32], bool),
        centre: &Centre,
        target: u64,
        member: &mut [u8],
    ) -> f32 {
        let storey = self.storey(level);
        let layout = &storey.layout;
        let centroid = &centre.vector[..];
        let pairs = vector.iter().zip(centroid);
        let Values::Grid(bits) = storey.values else {
            self.encode_whole(layout, vector, target, member);
            return pairs.map(|(o, c)| (o - c) * (o - c)).sum();
        };
        let residual: Vec<f32> = pairs.map(|(o, c)| o - c).collect();
        let mut values = vec![0_i8; self.padded];
        let grid = extended::encode(bits, &residual, &mut values);

        let [norm, along, product, absolute, centre_code] =
            extended::relate(&residual, centroid, &values, layout.coded);
        let factors = rabitq::factors(self.form, [norm, along, absolute, centre_code]);
        let deviation = rabitq::deviation(self.form, norm, absolute, layout.coded, vector.len());
        let (signs, entry) = Member::parts(layout, member, factors, deviation);
        write_signs(&values[..layout.coded], signs);

        let step = f64::from(grid.step);
        let error = if is_exact && has_exact_norm(centroid) {
            grid.error
        } else {
            f32::INFINITY
        };
        let coded_norm = f64::from(centre.norm) + f64::from(grid.norm_squared).sqrt();
        let (head, packed) = entry.split_at_mut(ENTRY_HEAD);
        head.copy_from_slice(bytemuck::bytes_of(&EntryHead {
            target,
            step: grid.step,
            term: (f64::from(grid.norm_squared) + 2.0 * step * product) as f32,
            error: RoundedUp::of(error),
            norm: RoundedUp::of((coded_norm as f32).next_up()),
        }));
        extended::pack(bits, &values, packed);
        norm as f32
    }

    /// Encodes a string of bits.
    fn encode_whole(&self, layout: &Layout, vector: &[f32], target: u64, member: &mut [u8]) {
        let squares = vector.len() as f64 / 4.0;
        let absolute = layout.coded as f64 / 2.0;
        let factors = rabitq::factors(Form::L2, [squares, 0.0, absolute, 0.0]);
        let deviation = rabitq::deviation(Form::L2, squares, absolute, layout.coded, vector.len());
        let (signs, entry) = Member::parts(layout, member, factors, deviation);
        let (head, bits) = entry.split_at_mut(ENTRY_HEAD);
        let zero = EntryHead {
            target,
            step: 0.0,
            term: 0.0,
            error: RoundedUp::of(0.0),
            norm: RoundedUp::of(0.0),
        };
        head.copy_from_slice(bytemuck::bytes_of(&zero));
        pack_bits(vector, bits);
        signs.copy_from_slice(&bits[..signs.len()]);
    }

    /// The origin, to which the centroid of [`super::layout::ROOT`] is relative.
    pub fn origin(&self) -> Centre {
        Centre {
            vector: vec![0.0; self.padded],
            norm: 0.0,
        }
    }

    /// Turns the centroid of a list into that of a member of it: what the
    /// members of the member's own list are relative to.
    pub fn descend(&self, entry: Entry<'_>, centre: &mut Centre) {
        centre.norm = entry.head.norm.get();
        match self.centroids.values {
            Values::Grid(bits) => {
                let vector = &mut centre.vector;
                extended::add_decoded(bits, entry.head.step, entry.values, vector);
            }
            Values::Whole => {
                for (i, c) in centre.vector.iter_mut().enumerate() {
                    let bit = entry.values[i / 8] >> (i % 8) & 1;
                    *c = if bit != 0 { 0.5 } else { -0.5 };
                }
            }
        }
    }

    /// Prepares a prepared vector as a query.
    pub fn query(&self, prepared: Prepared) -> Query {
        let Prepared { vector, is_exact } = prepared;
        let mut bits = Vec::new();
        if !self.is_relative() {
            bits.resize(self.padded / 8, 0);
            pack_bits(&vector, &mut bits);
        }
        let (centroids, rows) = (self.centroids.layout.coded, self.rows.layout.coded);
        let table = |coded: usize| match self.is_relative() {
            true => Table::new(&vector[..coded]),
            false => Table::of_halves(&vector[..coded]),
        };
        let sum: f64 = vector.iter().map(|&q| f64::from(q)).sum();
        let norm: f64 = vector.iter().map(|&q| f64::from(q) * f64::from(q)).sum();
        Query {
            tables: (table(centroids), (rows != centroids).then(|| table(rows))),
            half_sum: (sum / 2.0) as f32,
            norm: norm.sqrt() as f32,
            bound_norm: if is_exact {
                norm.sqrt() as f32
            } else {
                f32::INFINITY
            },
            bits,
            vector,
        }
    }

    /// What a query has in common with the members of [`super::layout::APEX`].
    pub fn base_of_origin(&self, query: &Query) -> Base {
        let squared = query.norm * query.norm;
        let key = match self.form {
            Form::L2 => squared,
            Form::InnerProduct => 0.0,
        };
        Base { key, squared }
    }

    /// What a query has in common with the members of a list, given the entry of
    /// its centroid and what it has in common with the members of that one's
    /// list.
    pub fn base(&self, query: &Query, base: Base, entry: Entry<'_>) -> Base {
        let Values::Grid(bits) = self.centroids.values else {
            return base;
        };
        let along = along(bits, query, entry);
        let squared = base.squared + entry.head.term - 2.0 * along;
        let key = match self.form {
            Form::L2 => squared,
            Form::InnerProduct => base.key - along,
        };
        Base { key, squared }
    }

    /// The key of a member of a list.
    #[inline]
    pub fn key(&self, level: Level, query: &Query, base: Base, entry: Entry<'_>) -> f32 {
        let key = match self.storey(level).values {
            Values::Whole => {
                let differing = (simd::kernels().hamming)(&query.bits, entry.values);
                return differing as f32;
            }
            Values::Grid(bits) => {
                let along = along(bits, query, entry);
                match self.form {
                    Form::L2 => base.key + entry.head.term - 2.0 * along,
                    Form::InnerProduct => base.key - along,
                }
            }
        };
        if key.is_nan() { f32::INFINITY } else { key }
    }

    /// The distance, as the metric's SQL operator gives it, that a key stands
    /// for.
    pub fn distance(&self, key: f32) -> f64 {
        match self.options.metric {
            Metric::Cosine => f64::from(key) / 2.0,
            Metric::L2 => f64::from(key).max(0.0).sqrt(),
            metric => metric.distance(key),
        }
    }

    /// Lower bounds of the distances that the operator computes for rows, given their
    /// keys, and the bounds of error and norm that their entries have. At once because
    /// no bound waits for another one.
    pub fn bounds<const N: usize>(
        &self,
        query: &Query,
        keys: &[f32; N],
        errors: &[f32; N],
        norms: &[f32; N],
        out: &mut [f64; N],
    ) {
        let dimension = self.options.dimension as usize;
        let bound = |metric, at: usize| {
            let (key, error, norm) = (keys[at], errors[at], norms[at]);
            let [query, norms] = [query.bound_norm, norm].map(Norms::of_whole);
            lower_bound(metric, query, key, error, norms, dimension)
        };
        let out = out.iter_mut().enumerate();
        match self.options.metric {
            Metric::Hamming => out.for_each(|(at, out)| *out = f64::from(keys[at])),
            Metric::Cosine => {
                // What the operator's own sums and quotient may round away.
                let rounding = (dimension as f64 / 4.0 + 16.0) * f64::powi(2.0, -23);
                for (at, out) in out {
                    let bound = bound(Metric::L2, at).max(0.0);
                    *out = (bound * bound / 2.0 - rounding).max(0.0);
                }
            }
            metric => out.for_each(|(at, out)| *out = bound(metric, at)),
        }
    }

    /// The squared distance of a row from its list's centroid, from its code.
    pub fn spread(&self, entry: Entry<'_>, centre: &Centre) -> f64 {
        match self.rows.values {
            Values::Grid(bits) => {
                let mut residual = vec![0.0; self.padded];
                extended::add_decoded(bits, entry.head.step, entry.values, &mut residual);
                let norm: f64 = residual.iter().map(|&r| f64::from(r) * f64::from(r)).sum();
                let error = f64::from(entry.head.error.get());
                norm + if error.is_finite() {
                    error * error
                } else {
                    0.0
                }
            }
            Values::Whole => {
                let mut bits = vec![0; self.padded / 8];
                pack_bits(&centre.vector, &mut bits);
                (simd::kernels().hamming)(&bits, entry.values) as f64
            }
        }
    }

    /// Whether a member's 1-bit code is that of its entry.
    pub fn signs_match(&self, level: Level, entry: Entry<'_>, signs: &[u8]) -> bool {
        match self.storey(level).values {
            Values::Grid(bits) => {
                let mut values = vec![0; self.padded];
                extended::unpack(bits, entry.values, &mut values);
                let mut expected = vec![0; signs.len()];
                write_signs(&values[..8 * signs.len()], &mut expected);
                expected == signs
            }
            Values::Whole => entry.values[..signs.len()] == *signs,
        }
    }
}

/// Shortens a vector so long that products with it lose too much, to a length
/// with which nothing overflows. Its bounds tell nothing either way.
fn shorten(vector: &mut [f32]) {
    const LONGEST: f64 = 1e14;
    let squares = metric::squares(vector);
    if squares > LONGEST * LONGEST {
        let scale = LONGEST / squares.sqrt();
        for x in vector {
            *x = (f64::from(*x) * scale) as f32;
        }
    }
}

/// ⟨q, r̂⟩.
#[inline]
fn along(bits: Bits, query: &Query, entry: Entry<'_>) -> f32 {
    let dot = extended::dot(bits, &query.vector, entry.values);
    entry.head.step * (dot + query.half_sum)
}

/// The 1-bit code of integers: which of them are not negative.
fn write_signs(values: &[i8], signs: &mut [u8]) {
    for (byte, values) in signs.iter_mut().zip(values.as_chunks::<8>().0) {
        let bits = values.iter().enumerate();
        *byte = bits.fold(0, |byte, (i, &v)| byte | u8::from(v >= 0) << i);
    }
}

/// The bits of components ±½.
fn pack_bits(vector: &[f32], bits: &mut [u8]) {
    for (byte, values) in bits.iter_mut().zip(vector.as_chunks::<8>().0) {
        let bits = values.iter().enumerate();
        *byte = bits.fold(0, |byte, (i, &x)| byte | u8::from(x > 0.0) << i);
    }
}
