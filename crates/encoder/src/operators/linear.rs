//! A linear layer of 8-bit numbers: y = x·W + b, then GELU or a residual and layer
//! normalization.
//!
//! # Formulas
//!
//! Weights were quantized when the model was compiled: w ≈ s_w·q_w with q_w in
//! −127..=127 and a scale for each output, or for each block of inputs of each
//! output. A row of activations is quantized when it comes: x ≈ s_x·(q_x − z) with
//! q_x in 0..=255, where s_x and z follow from the least and the greatest value of
//! **that row alone** (Jacob et al., arXiv:1712.05877, section 2.1). So what a
//! token becomes never depends on its batch. With B blocks,
//!
//! y = s_x·(Σ_B s_w·Σ q_x·q_w − z·Σ_B s_w·Σ q_w) + b.
//!
//! The inner sums are whole numbers and exact on every processor; the floats
//! around them follow the rules of [`super::simd`].
//!
//! # Layout
//!
//! Weights lie in panels of [`COLUMNS`] outputs; of a panel, four inputs of sixteen
//! outputs are 64 bytes side by side, which is what one VNNI instruction takes
//! (AVX-512 `vpdpbusd`: sixteen sums of four products each). Activations of a tile
//! of rows lie four inputs by four, all rows side by side.

#![allow(unsafe_code)]

use super::simd::{self, Isa, for_each_isa};

/// Outputs of a panel.
pub(crate) const COLUMNS: usize = 32;

/// Rows of the tile that fills the registers of AVX-512: 24 sums, two vectors of
/// weights, one of activations.
const ROWS: usize = 12;

/// 64 bytes on their own cache line: four inputs of sixteen outputs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([i8; 64]);

/// The weights of a layer.
pub(crate) struct Weights {
    inputs: usize,
    outputs: usize,
    /// Inputs that share a scale; the last block may have fewer.
    block: usize,
    panels: Vec<Line>,
    /// s_w: panel by panel, block by block, [`COLUMNS`] each.
    scales: Vec<f32>,
    /// Σ_B s_w·Σ q_w of each output.
    sums: Vec<f32>,
    bias: Vec<f32>,
}

/// What is done with a row once its products are there.
#[derive(Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// Nothing.
    Plain,
    /// x·Φ(x).
    Gelu,
    /// Layer normalization of the sum of the row and the residual's.
    Normalize {
        /// Rows as long as the output's.
        residual: &'a [f32],
        gamma: &'a [f32],
        beta: &'a [f32],
        epsilon: f32,
    },
}

impl Finish<'_> {
    /// The same for the rows behind the first so many values.
    pub(crate) fn behind(self, values: usize) -> Self {
        match self {
            Finish::Normalize {
                residual,
                gamma,
                beta,
                epsilon,
            } => Finish::Normalize {
                residual: &residual[values..],
                gamma,
                beta,
                epsilon,
            },
            other => other,
        }
    }

    /// Does what takes whole rows.
    pub(crate) fn rows(self, isa: Isa, y: &mut [f32]) {
        if let Finish::Normalize {
            residual,
            gamma,
            beta,
            epsilon,
        } = self
        {
            normalize(isa, y, residual, gamma, beta, epsilon);
        }
    }
}

impl Weights {
    /// Packs q_w, of shape [outputs, inputs], with its scales, of shape
    /// [outputs, blocks], and biases (none is zeros).
    ///
    /// The caller has checked the lengths.
    pub(crate) fn pack(
        (outputs, inputs): (usize, usize),
        block: usize,
        quantized: &[i8],
        scales: &[f32],
        bias: Option<&[f32]>,
    ) -> Self {
        let blocks = inputs.div_ceil(block);
        let panels = outputs.div_ceil(COLUMNS);
        let lines = lines_of(inputs, block);
        let mut weights = Weights {
            inputs,
            outputs,
            block,
            panels: vec![Line([0; 64]); panels * lines],
            scales: vec![0.0; panels * blocks * COLUMNS],
            sums: vec![0.0; panels * COLUMNS],
            bias: vec![0.0; panels * COLUMNS],
        };
        if let Some(bias) = bias {
            weights.bias[..outputs].copy_from_slice(bias);
        }
        for (output, row) in quantized.chunks_exact(inputs).enumerate() {
            let (panel, column) = (output / COLUMNS, output % COLUMNS);
            let (half, column_of_half) = (column / 16, column % 16);
            let mut line = panel * lines + half;
            for (b, values) in row.chunks(block).enumerate() {
                for group in values.chunks(4) {
                    weights.panels[line].0[4 * column_of_half..][..group.len()]
                        .copy_from_slice(group);
                    line += 2;
                }
                let scale = scales[output * blocks + b];
                let sum: i32 = values.iter().map(|&q| i32::from(q)).sum();
                weights.scales[(panel * blocks + b) * COLUMNS + column] = scale;
                weights.sums[output] = scale.mul_add(sum as f32, weights.sums[output]);
            }
        }
        weights
    }

    /// Inputs of a row.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs of a row.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Panels of outputs, [`COLUMNS`] each but for the last.
    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(COLUMNS)
    }

    /// Runs the layer on rows: `x` has [`Self::inputs`] values a row, and `y`
    /// [`Self::outputs`].
    pub(crate) fn run(&self, isa: Isa, x: &[f32], y: &mut [f32], finish: Finish<'_>) {
        let mut tile = Tile::default();
        for (at, rows) in tiles(x.len() / self.inputs) {
            let x = &x[at * self.inputs..][..rows * self.inputs];
            let y = &mut y[at * self.outputs..][..rows * self.outputs];
            tile.quantize(isa, self, x, rows);
            for panel in 0..self.panels() {
                self.panel(isa, &tile, panel, y, self.outputs, panel * COLUMNS, finish);
            }
            finish.behind(at * self.outputs).rows(isa, y);
        }
    }

    /// Quantizes rows to be used by [`Self::run_panel`].
    pub(crate) fn prepare(&self, isa: Isa, x: &[f32]) -> Vec<Tile> {
        let quantized = |(at, rows): (usize, usize)| {
            let mut tile = Tile::default();
            let x = &x[at * self.inputs..][..rows * self.inputs];
            tile.quantize(isa, self, x, rows);
            tile
        };
        tiles(x.len() / self.inputs).map(quantized).collect()
    }

    /// One panel of outputs of all rows, [`COLUMNS`] values a row in `y`: of the
    /// last panel, some mean nothing. A normalization is left to the caller.
    pub(crate) fn run_panel(
        &self,
        isa: Isa,
        tiles: &[Tile],
        panel: usize,
        y: &mut [f32],
        finish: Finish<'_>,
    ) {
        let mut at = 0;
        for tile in tiles {
            let rows = tile.rows;
            let y = &mut y[at * COLUMNS..][..rows * COLUMNS];
            self.panel(isa, tile, panel, y, COLUMNS, 0, finish);
            at += rows;
        }
    }

    /// One panel of outputs of a tile, into columns of `y` from `column` on.
    #[allow(clippy::too_many_arguments)]
    fn panel(
        &self,
        isa: Isa,
        tile: &Tile,
        panel: usize,
        y: &mut [f32],
        width: usize,
        column: usize,
        finish: Finish<'_>,
    ) {
        let lines = lines_of(self.inputs, self.block);
        let weights = &self.panels[panel * lines..][..lines];
        let blocks = self.inputs.div_ceil(self.block);
        let scales = &self.scales[panel * blocks * COLUMNS..][..blocks * COLUMNS];
        let constants = Constants {
            scales: scales.as_chunks().0,
            sums: column_array(&self.sums, panel),
            bias: column_array(&self.bias, panel),
        };
        let (block, gelu) = (self.block, matches!(finish, Finish::Gelu));
        let geometry = (width, column);
        match tile.rows {
            ROWS => products::<ROWS>(isa, tile, weights, block, &constants, gelu, y, geometry),
            4 => products::<4>(isa, tile, weights, block, &constants, gelu, y, geometry),
            2 => products::<2>(isa, tile, weights, block, &constants, gelu, y, geometry),
            _ => products::<1>(isa, tile, weights, block, &constants, gelu, y, geometry),
        }
    }
}

/// Lines of a panel: each block is filled up to a multiple of four inputs.
fn lines_of(inputs: usize, block: usize) -> usize {
    let whole = inputs / block * block.div_ceil(4);
    2 * (whole + (inputs % block).div_ceil(4))
}

/// The first row of each tile of so many rows, and the tile's rows.
fn tiles(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rows = match count - at {
            ROWS.. => ROWS,
            4.. => 4,
            2.. => 2,
            1 => 1,
            0 => return None,
        };
        at += rows;
        Some((at - rows, rows))
    })
}

fn column_array(values: &[f32], panel: usize) -> &[f32; COLUMNS] {
    &values.as_chunks::<COLUMNS>().0[panel]
}

/// What belongs to the outputs of a panel.
struct Constants<'a> {
    scales: &'a [[f32; COLUMNS]],
    sums: &'a [f32; COLUMNS],
    bias: &'a [f32; COLUMNS],
}

/// Some rows of activations, quantized.
#[derive(Default)]
pub(crate) struct Tile {
    rows: usize,
    /// Four inputs by four, all rows side by side.
    groups: Vec<[u8; 4]>,
    /// s_x of each row.
    scales: Vec<f32>,
    /// z of each row.
    zeros: Vec<f32>,
    row: Vec<u8>,
}

impl Tile {
    fn quantize(&mut self, isa: Isa, weights: &Weights, x: &[f32], rows: usize) {
        let inputs = weights.inputs;
        let groups = lines_of(inputs, weights.block) / 2;
        self.rows = rows;
        self.scales.clear();
        self.zeros.clear();
        self.groups.resize(rows * groups, [0; 4]);
        self.row.resize(inputs, 0);
        for (r, values) in x.chunks_exact(inputs).enumerate() {
            let (scale, zero) = quantize_row(isa, values, &mut self.row);
            self.scales.push(scale);
            self.zeros.push(zero);
            let mut at = r;
            for block in self.row.chunks(weights.block) {
                let (whole, rest) = block.as_chunks::<4>();
                for group in whole {
                    self.groups[at] = *group;
                    at += rows;
                }
                if !rest.is_empty() {
                    // What stands beyond the end meets weights of zero.
                    self.groups[at] = [0; 4];
                    self.groups[at][..rest.len()].copy_from_slice(rest);
                    at += rows;
                }
            }
        }
    }
}

for_each_isa! {
    /// Quantizes a row; returns its scale and zero point. A row with a value that
    /// is not finite gets a scale that is not a number, so that all that comes of
    /// it isn't either.
    fn quantize_row(values: &[f32], quantized: &mut [u8]) -> (f32, f32) {
        const LANES: usize = simd::LANES;
        let mut least = [0.0_f32; LANES];
        let mut greatest = [0.0_f32; LANES];
        // Not a number as soon as one value is not finite.
        let mut poison = [0.0_f32; LANES];
        let mut see = |lane: usize, value: f32| {
            least[lane] = if value < least[lane] { value } else { least[lane] };
            greatest[lane] = if value > greatest[lane] { value } else { greatest[lane] };
            poison[lane] += value * 0.0;
        };
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &value) in chunk.iter().enumerate() {
                see(lane, value);
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            see(lane, value);
        }
        let least = least.into_iter().fold(0.0, f32::min);
        let greatest = greatest.into_iter().fold(0.0, f32::max);
        let span = greatest / 255.0 - least / 255.0;
        if simd::sum(poison).is_nan() || !span.is_finite() {
            quantized.fill(0);
            return (f32::NAN, 0.0);
        }
        // A row of zeros, or of denormals, is zeros.
        let (scale, inverse) = if span > f32::MIN_POSITIVE { (span, 1.0 / span) } else { (0.0, 0.0) };
        let zero = (-least * inverse).round_ties_even().clamp(0.0, 255.0);
        for (quantized, &value) in quantized.iter_mut().zip(values) {
            let level = value.mul_add(inverse, zero).clamp(0.0, 255.0);
            *quantized = (level + simd::ROUND).to_bits() as u8;
        }
        (scale, zero)
    }
}

for_each_isa! {
    /// Adds the residual to rows and normalizes them.
    fn normalize(
        y: &mut [f32],
        residual: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
    ) {
        let width = gamma.len();
        for (row, residual) in y.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
            for (x, &r) in row.iter_mut().zip(residual) {
                *x += r;
            }
            simd::normalize(row, gamma, beta, epsilon);
        }
    }
}

/// The products of a tile of rows with a panel, scaled, into `y`.
#[allow(clippy::too_many_arguments)]
fn products<const R: usize>(
    isa: Isa,
    tile: &Tile,
    weights: &[Line],
    block: usize,
    constants: &Constants<'_>,
    gelu: bool,
    y: &mut [f32],
    geometry: (usize, usize),
) {
    let mut values = [[0.0_f32; COLUMNS]; R];
    let mut weights = weights;
    let mut groups = &tile.groups[..];
    for scales in constants.scales {
        let steps = block.div_ceil(4).min(weights.len() / 2);
        let (of_block, rest) = weights.split_at(2 * steps);
        let (x, further) = groups.split_at(steps * R);
        weights = rest;
        groups = further;
        match isa {
            // SAFETY: an `Isa` is only made for a processor that has it; both
            // slices are of `steps` steps.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::dot::<R>(x, of_block, scales, &mut values) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: as above.
                let sums = unsafe { avx2::dot::<R>(x, of_block) };
                accumulate::<R>(isa, &sums, scales, &mut values);
            }
            Isa::Portable => {
                let sums = portable::<R>(x, of_block);
                accumulate::<R>(isa, &sums, scales, &mut values);
            }
        }
    }
    let rows = (&tile.scales.as_chunks().0[0], &tile.zeros.as_chunks().0[0]);
    finish::<R>(isa, &mut values, rows, constants, gelu);
    let (width, column) = geometry;
    let count = COLUMNS.min(width - column);
    for (row, values) in y.chunks_exact_mut(width).zip(&values) {
        row[column..column + count].copy_from_slice(&values[..count]);
    }
}

for_each_isa! {
    /// Adds the sums of a block, scaled.
    fn accumulate<const R: usize>(
        sums: &[[i32; COLUMNS]; R],
        scales: &[f32; COLUMNS],
        values: &mut [[f32; COLUMNS]; R],
    ) {
        for (values, sums) in values.iter_mut().zip(sums) {
            for ((value, &sum), &scale) in values.iter_mut().zip(sums).zip(scales) {
                *value = (sum as f32).mul_add(scale, *value);
            }
        }
    }
}

for_each_isa! {
    /// From scaled sums to outputs.
    fn finish<const R: usize>(
        values: &mut [[f32; COLUMNS]; R],
        rows: (&[f32; R], &[f32; R]),
        constants: &Constants<'_>,
        gelu: bool,
    ) {
        for (r, values) in values.iter_mut().enumerate() {
            let (scale, zero) = (rows.0[r], rows.1[r]);
            let of_outputs = constants.sums.iter().zip(constants.bias);
            for (value, (&sum, &bias)) in values.iter_mut().zip(of_outputs) {
                *value = zero.mul_add(-sum, *value).mul_add(scale, bias);
            }
            if gelu {
                for value in values {
                    *value = simd::gelu(*value);
                }
            }
        }
    }
}

/// Σ q_x·q_w for each row and output.
fn portable<const R: usize>(x: &[[u8; 4]], weights: &[Line]) -> [[i32; COLUMNS]; R] {
    let mut sums = [[0_i32; COLUMNS]; R];
    for (x, lines) in x.chunks_exact(R).zip(weights.chunks_exact(2)) {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (half, line) in lines.iter().enumerate() {
                for (column, w) in line.0.as_chunks::<4>().0.iter().enumerate() {
                    let products = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w));
                    sums[16 * half + column] += products.sum::<i32>();
                }
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLUMNS, Line};
    use std::arch::x86_64::*;

    /// Lines between one that is used and one that is fetched. The processor by itself
    /// looks ahead within a page of memory only, and with few rows waits for weights.
    const AHEAD: usize = 64;

    /// As [`super::portable`] and [`super::accumulate`].
    ///
    /// # Safety
    ///
    /// `x` has `R` groups for every two lines of weights.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn dot<const R: usize>(
        x: &[[u8; 4]],
        weights: &[Line],
        scales: &[f32; COLUMNS],
        values: &mut [[f32; COLUMNS]; R],
    ) {
        let mut low = [_mm512_setzero_si512(); R];
        let mut high = [_mm512_setzero_si512(); R];
        let mut x = x.as_ptr();
        let mut line = weights.as_ptr();
        for _ in 0..weights.len() / 2 {
            // SAFETY: within the slices, see above; lines are aligned.
            unsafe {
                // Behind the last panel lies something else: that does no harm.
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD + 1).cast());
                let w_low = _mm512_load_si512(line.cast());
                let w_high = _mm512_load_si512(line.add(1).cast());
                for r in 0..R {
                    let group = _mm512_set1_epi32(x.add(r).cast::<i32>().read_unaligned());
                    low[r] = _mm512_dpbusd_epi32(low[r], group, w_low);
                    high[r] = _mm512_dpbusd_epi32(high[r], group, w_high);
                }
                x = x.add(R);
                line = line.add(2);
            }
        }
        // SAFETY: halves of 32 floats.
        unsafe {
            let scale_low = _mm512_loadu_ps(scales.as_ptr());
            let scale_high = _mm512_loadu_ps(scales.as_ptr().add(16));
            for (values, (low, high)) in values.iter_mut().zip(low.into_iter().zip(high)) {
                let at = values.as_mut_ptr();
                let (low, high) = (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high));
                let low = _mm512_fmadd_ps(low, scale_low, _mm512_loadu_ps(at));
                let high = _mm512_fmadd_ps(high, scale_high, _mm512_loadu_ps(at.add(16)));
                _mm512_storeu_ps(at, low);
                _mm512_storeu_ps(at.add(16), high);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{COLUMNS, Line};
    use std::arch::x86_64::*;

    /// As [`super::portable`]. Products are widened to 16 bits first: the
    /// instruction for bytes would saturate.
    ///
    /// # Safety
    ///
    /// `x` has `R` groups for every two lines of weights.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn dot<const R: usize>(
        x: &[[u8; 4]],
        weights: &[Line],
    ) -> [[i32; COLUMNS]; R] {
        let mut sums = [[0_i32; COLUMNS]; R];
        // Four outputs at a time, two partial sums each.
        for quarter in 0..COLUMNS / 4 {
            let mut partial = [_mm256_setzero_si256(); R];
            let mut x = x.as_ptr();
            for lines in weights.chunks_exact(2) {
                // SAFETY: sixteen bytes of a line; `R` groups.
                unsafe {
                    let bytes = lines[quarter / 4].0.as_ptr().add(16 * (quarter % 4));
                    let w = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.cast()));
                    for (r, partial) in partial.iter_mut().enumerate() {
                        let group = _mm_set1_epi32(x.add(r).cast::<i32>().read_unaligned());
                        let group = _mm256_cvtepu8_epi16(group);
                        *partial = _mm256_add_epi32(*partial, _mm256_madd_epi16(group, w));
                    }
                    x = x.add(R);
                }
            }
            for (sums, partial) in sums.iter_mut().zip(partial) {
                let mut pairs = [0_i32; 8];
                // SAFETY: 32 bytes.
                unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), partial) };
                for i in 0..4 {
                    sums[4 * quarter + i] = pairs[2 * i] + pairs[2 * i + 1];
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Finish, Weights};
    use crate::operators::simd::{Isa, gelu};

    /// Numbers without a pattern, in −1..1.
    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    struct Layer {
        inputs: usize,
        outputs: usize,
        block: usize,
        quantized: Vec<i8>,
        scales: Vec<f32>,
        bias: Vec<f32>,
    }

    impl Layer {
        fn new(inputs: usize, outputs: usize, block: usize) -> Self {
            let levels = noise(inputs * outputs, 1);
            Layer {
                inputs,
                outputs,
                block,
                quantized: levels.iter().map(|x| (x * 127.0).round() as i8).collect(),
                scales: noise(outputs * inputs.div_ceil(block), 2)
                    .iter()
                    .map(|x| x.abs() / 100.0)
                    .collect(),
                bias: noise(outputs, 3),
            }
        }

        fn weights(&self) -> Weights {
            let shape = (self.outputs, self.inputs);
            let bias = Some(&self.bias[..]);
            Weights::pack(shape, self.block, &self.quantized, &self.scales, bias)
        }

        /// The definition, in `f64`: levels of a row of activations out of its least
        /// and greatest value, then sums of what levels stand for.
        fn naive(&self, x: &[f32]) -> Vec<f64> {
            let least = f64::from(x.iter().copied().fold(0.0, f32::min));
            let most = f64::from(x.iter().copied().fold(0.0, f32::max));
            let scale = (most - least) / 255.0;
            let zero = (-least / scale).round();
            let level =
                |x: f32| scale * ((f64::from(x) / scale + zero).round().clamp(0.0, 255.0) - zero);
            let blocks = self.inputs.div_ceil(self.block);
            (0..self.outputs)
                .map(|output| {
                    let product = |input: usize| {
                        let weight = f64::from(self.quantized[output * self.inputs + input]);
                        let scale = f64::from(self.scales[output * blocks + input / self.block]);
                        level(x[input]) * weight * scale
                    };
                    (0..self.inputs).map(product).sum::<f64>() + f64::from(self.bias[output])
                })
                .collect()
        }
    }

    const SIZES: [(usize, usize, usize); 6] = [
        (384, 96, 384),
        (384, 40, 128),
        (33, 7, 16),
        (64, 32, 32),
        (1, 1, 1),
        (70, 33, 20),
    ];

    #[test]
    fn layers_are_as_defined_and_the_same_on_every_instruction_set() {
        for (inputs, outputs, block) in SIZES {
            let layer = Layer::new(inputs, outputs, block);
            let weights = layer.weights();
            for count in [1, 2, 3, 7, 12, 31] {
                let x = noise(count * inputs, 4);
                let run = |isa, finish| {
                    let mut y = vec![0.0; count * outputs];
                    weights.run(isa, &x, &mut y, finish);
                    y
                };
                let first = run(Isa::best(), Finish::Plain);
                let expected = x.chunks_exact(inputs).flat_map(|x| layer.naive(x));
                for (&found, expected) in first.iter().zip(expected) {
                    // A level may fall to the other side of a half.
                    let error = (f64::from(found) - expected).abs();
                    assert!(error < 0.02 * (1.0 + expected.abs()), "{found}, {expected}");
                }
                for isa in Isa::all() {
                    assert_eq!(run(isa, Finish::Plain), first, "{isa:?}");
                    let activated: Vec<f32> = first.iter().map(|&x| gelu(x)).collect();
                    assert_eq!(run(isa, Finish::Gelu), activated, "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others_or_on_how_the_work_is_cut() {
        for (inputs, outputs, block) in SIZES {
            let layer = Layer::new(inputs, outputs, block);
            let weights = layer.weights();
            let (residual, gamma, beta) =
                (noise(30 * outputs, 6), noise(outputs, 7), noise(outputs, 8));
            let x = noise(30 * inputs, 5);
            let norm = |from: usize| Finish::Normalize {
                residual: &residual[from * outputs..],
                gamma: &gamma,
                beta: &beta,
                epsilon: 1e-5,
            };
            let mut together = vec![0.0; 30 * outputs];
            weights.run(Isa::best(), &x, &mut together, norm(0));
            for (row, expected) in together.chunks_exact(outputs).enumerate() {
                let mut alone = vec![0.0; outputs];
                weights.run(
                    Isa::best(),
                    &x[row * inputs..][..inputs],
                    &mut alone,
                    norm(row),
                );
                assert_eq!(alone, expected);
            }
            // Panel by panel.
            weights.run(Isa::best(), &x, &mut together, Finish::Gelu);
            let tiles = weights.prepare(Isa::best(), &x);
            for panel in 0..weights.panels() {
                let mut columns = vec![0.0; 30 * COLUMNS];
                weights.run_panel(Isa::best(), &tiles, panel, &mut columns, Finish::Gelu);
                let count = COLUMNS.min(outputs - panel * COLUMNS);
                let rows = together
                    .chunks_exact(outputs)
                    .zip(columns.chunks_exact(COLUMNS));
                for (expected, found) in rows {
                    assert_eq!(expected[panel * COLUMNS..][..count], found[..count]);
                }
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_not_hidden() {
        let layer = Layer::new(40, 8, 40);
        let weights = layer.weights();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut x = noise(80, 9);
            x[3] = bad;
            if bad == f32::MAX {
                x[4] = f32::MIN;
            }
            let mut y = vec![0.0; 16];
            weights.run(Isa::best(), &x, &mut y, Finish::Plain);
            if bad != f32::MAX {
                assert!(y[..8].iter().all(|y| y.is_nan()), "{bad}: {y:?}");
            }
            assert!(y[8..].iter().all(|y| y.is_finite()), "{bad}: {y:?}");
        }
        let mut y = vec![1.0; 8];
        weights.run(Isa::best(), &[0.0; 40], &mut y, Finish::Plain);
        assert_eq!(y, layer.bias);
    }
}
