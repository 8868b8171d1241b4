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
//! (AVX-512 `vpdpbusd`: sixteen sums of four products each), and sixteen of these, one
//! half of a panel after the other, are the second operand of an AMX instruction
//! (`tdpbusd`: 256 sums of 64 products each). Activations lie row by row, for AVX2
//! (see `linear/avx2.rs`) the groups of four inputs of all rows side by side.

#![allow(unsafe_code)]
// What only the kernels of x86 look at.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use super::simd::{self, Isa, Set, for_each_isa};

/// Outputs of a panel.
pub(crate) const COLUMNS: usize = 32;

/// Rows of the tile that fills the registers of AVX-512: 24 sums, two vectors of
/// weights, one of activations.
const ROWS: usize = 12;

/// Rows that AMX has tiles for.
const AMX_ROWS: usize = 32;

/// Lines between one that is used and one that is fetched. The processor by itself
/// looks ahead within a page of memory only, and with few rows waits for weights.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 64;

/// Calls a function that is made for each number of rows which a tile may have.
macro_rules! for_rows {
    ($rows:expr, $function:ident($($argument:expr),*)) => {
        match $rows {
            ROWS => $function::<ROWS>($($argument),*),
            4 => $function::<4>($($argument),*),
            2 => $function::<2>($($argument),*),
            _ => $function::<1>($($argument),*),
        }
    };
}

/// 64 bytes on their own cache line: four inputs of sixteen outputs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([i8; 64]);

/// What AVX2 multiplies separately of the weights of four inputs of an output.
struct Excess {
    /// Of the block.
    group: u32,
    /// Of the panel.
    column: u8,
    weights: [i8; 4],
}

/// The weights of a block of inputs of a panel.
#[derive(Clone, Copy)]
struct WeightsOfBlock<'a> {
    lines: &'a [Line],
    excess: &'a [Excess],
}

/// The weights of a layer, packed for an instruction set.
pub(crate) struct Weights {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    /// Inputs that share a scale; the last block may have fewer.
    block: usize,
    panels: Vec<Line>,
    /// For AVX2, panel by panel, block by block; what is here is not in the panels.
    excess: Vec<Excess>,
    /// Where that of each block of each panel ends.
    excess_ends: Vec<usize>,
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
    /// The caller has checked the lengths. `isa` is the best that there is.
    pub(crate) fn pack(
        isa: Isa,
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
            isa: suited(isa, inputs, blocks),
            inputs,
            outputs,
            block,
            panels: vec![Line([0; 64]); panels * lines],
            excess: Vec::new(),
            excess_ends: vec![0; panels * blocks],
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
        #[cfg(target_arch = "x86_64")]
        if weights.isa.set() == Set::Avx2 {
            weights.split_off_excess();
        }
        weights
    }

    #[cfg(target_arch = "x86_64")]
    fn split_off_excess(&mut self) {
        let lines_of_block = 2 * self.block.div_ceil(4);
        let blocks = (self.panels)
            .chunks_mut(lines_of(self.inputs, self.block))
            .flat_map(|panel| panel.chunks_mut(lines_of_block));
        for (lines, end) in blocks.zip(&mut self.excess_ends) {
            for (number, line) in lines.iter_mut().enumerate() {
                for (column, group) in line.0.as_chunks_mut().0.iter_mut().enumerate() {
                    let (kept, weights) = avx2::split(*group);
                    *group = kept;
                    if weights != [0; 4] {
                        self.excess.push(Excess {
                            group: number as u32 / 2,
                            column: (16 * (number % 2) + column) as u8,
                            weights,
                        });
                    }
                }
            }
            *end = self.excess.len();
        }
    }

    /// What AVX2 multiplies separately of a block of a panel.
    fn excess(&self, panel: usize, block: usize) -> &[Excess] {
        let place = panel * self.blocks() + block;
        let from = place
            .checked_sub(1)
            .map_or(0, |before| self.excess_ends[before]);
        &self.excess[from..self.excess_ends[place]]
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

    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.inputs.div_ceil(self.block)
    }

    /// The instruction set that the layer runs with.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs the layer on rows: `x` has [`Self::inputs`] values a row, and `y`
    /// [`Self::outputs`].
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32], finish: Finish<'_>) {
        let isa = self.isa;
        let mut tile = Tile::default();
        for (at, rows) in tiles(isa, x.len() / self.inputs) {
            let x = &x[at * self.inputs..][..rows * self.inputs];
            let y = &mut y[at * self.outputs..][..rows * self.outputs];
            tile.quantize(self, x, rows);
            let steps = (self.outputs, COLUMNS);
            self.multiply(&tile, 0..self.panels(), y, steps, finish);
            finish.behind(at * self.outputs).rows(isa, y);
        }
    }

    /// Quantizes rows to be used by [`Self::run_panels`].
    pub(crate) fn prepare(&self, x: &[f32]) -> Vec<Tile> {
        let quantized = |(at, rows): (usize, usize)| {
            let mut tile = Tile::default();
            let x = &x[at * self.inputs..][..rows * self.inputs];
            tile.quantize(self, x, rows);
            tile
        };
        tiles(self.isa, x.len() / self.inputs)
            .map(quantized)
            .collect()
    }

    /// Some panels of outputs of all rows: in `y`, one panel comes behind the other,
    /// and each has [`COLUMNS`] values a row, of which some of the last panel mean
    /// nothing. A normalization is left to the caller.
    pub(crate) fn run_panels(
        &self,
        tiles: &[Tile],
        panels: Range<usize>,
        y: &mut [f32],
        finish: Finish<'_>,
    ) {
        let count: usize = tiles.iter().map(|tile| tile.rows).sum();
        let mut at = 0;
        for tile in tiles {
            let y = &mut y[at * COLUMNS..];
            let steps = (COLUMNS, count * COLUMNS);
            self.multiply(tile, panels.clone(), y, steps, finish);
            at += tile.rows;
        }
    }

    /// Some panels of outputs of a tile. In `y`, rows follow each other in the first
    /// of `steps`, panels in the second.
    fn multiply(
        &self,
        tile: &Tile,
        panels: Range<usize>,
        y: &mut [f32],
        steps: (usize, usize),
        finish: Finish<'_>,
    ) {
        let isa = self.isa;
        let kernel = Kernel::new(isa, tile.rows);
        let lines = lines_of(self.inputs, self.block);
        let blocks = self.blocks();
        let mut sums = Sums([[0; COLUMNS]; AMX_ROWS]);
        let sums = &mut sums.0[..tile.rows];
        // What blocks before the last one add up to.
        let mut values = vec![[0.0; COLUMNS]; if blocks > 1 { tile.rows } else { 0 }];
        for (number, panel) in panels.enumerate() {
            values.fill([0.0; COLUMNS]);
            let mut weights = &self.panels[panel * lines..][..lines];
            let mut x = tile.activations();
            let scales = &self.scales[panel * blocks * COLUMNS..][..blocks * COLUMNS];
            let scales = scales.as_chunks().0;
            for (block, scales) in scales[..blocks - 1].iter().enumerate() {
                let (own, rest) = weights.split_at(2 * self.block.div_ceil(4));
                let of_block = WeightsOfBlock {
                    lines: own,
                    excess: self.excess(panel, block),
                };
                for_rows!(tile.rows, add(isa, x, of_block, scales, &mut values));
                weights = rest;
                x = x.behind(own.len() / 2);
            }
            let last = WeightsOfBlock {
                lines: weights,
                excess: self.excess(panel, blocks - 1),
            };
            kernel.dot(x, last, sums);
            let constants = Constants {
                scales: &scales[blocks - 1],
                sums: column_array(&self.sums, panel),
                bias: column_array(&self.bias, panel),
                gelu: matches!(finish, Finish::Gelu),
            };
            let count = COLUMNS.min(self.outputs - panel * COLUMNS);
            let y = &mut y[number * steps.1..];
            finish_panel(isa, sums, &values, tile, constants, y, (steps.0, count));
        }
    }
}

/// The instruction set to run a layer with, given the best that there is: AMX takes
/// sixteen groups of four inputs at a time, and its sums have a long way to the registers
/// where those of a block are scaled.
fn suited(isa: Isa, inputs: usize, blocks: usize) -> Isa {
    match blocks > 1 || !inputs.is_multiple_of(64) {
        true => isa.without_amx(),
        false => isa,
    }
}

/// Lines of a panel: each block is filled up to a multiple of four inputs.
fn lines_of(inputs: usize, block: usize) -> usize {
    let whole = inputs / block * block.div_ceil(4);
    2 * (whole + (inputs % block).div_ceil(4))
}

/// The first row of each tile of so many rows, and the tile's rows.
fn tiles(isa: Isa, count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rows = match count - at {
            #[cfg(target_arch = "x86_64")]
            left @ 1.. if isa.set() == Set::Amx => left.min(AMX_ROWS),
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
    /// Those of the last block.
    scales: &'a [f32; COLUMNS],
    sums: &'a [f32; COLUMNS],
    bias: &'a [f32; COLUMNS],
    gelu: bool,
}

/// Some rows of activations, quantized.
#[derive(Default)]
pub(crate) struct Tile {
    rows: usize,
    /// Row by row or, for AVX2, place by place, as `steps` say. Each block of a row is
    /// filled up to a multiple of four inputs. For AVX2, as many as are missing to a
    /// multiple of eight rows lie behind the last ones.
    groups: Vec<[u8; 4]>,
    steps: Steps,
    /// s_x of each row.
    scales: Vec<f32>,
    /// z of each row.
    zeros: Vec<f32>,
    row: Vec<u8>,
}

/// How far groups of activations lie apart.
#[derive(Clone, Copy, Default)]
struct Steps {
    /// From a row to the next.
    rows: usize,
    /// From a group of a row to the next.
    groups: usize,
}

/// Activations of a tile from some group of each row on.
#[derive(Clone, Copy)]
struct Activations<'a> {
    groups: &'a [[u8; 4]],
    steps: Steps,
}

impl Activations<'_> {
    /// Those behind so many groups of each row.
    fn behind(self, groups: usize) -> Self {
        Activations {
            groups: &self.groups[groups * self.steps.groups..],
            ..self
        }
    }

    /// Whether there are so many groups of so many rows.
    fn have(&self, rows: usize, groups: usize) -> bool {
        let last = (rows - 1) * self.steps.rows + groups.saturating_sub(1) * self.steps.groups;
        groups == 0 || last < self.groups.len()
    }
}

impl Tile {
    fn activations(&self) -> Activations<'_> {
        Activations {
            groups: &self.groups,
            steps: self.steps,
        }
    }

    fn quantize(&mut self, weights: &Weights, x: &[f32], rows: usize) {
        let inputs = weights.inputs;
        let groups = lines_of(inputs, weights.block) / 2;
        let (steps, behind) = match weights.isa.set() {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => (
                Steps {
                    rows: 1,
                    groups: rows,
                },
                rows.next_multiple_of(avx2::ROWS_OF_VECTOR) - rows,
            ),
            _ => (
                Steps {
                    rows: groups,
                    groups: 1,
                },
                0,
            ),
        };
        self.rows = rows;
        self.steps = steps;
        self.scales.clear();
        self.zeros.clear();
        self.groups.resize(rows * groups + behind, [0; 4]);
        self.row.resize(inputs, 0);
        for (r, values) in x.chunks_exact(inputs).enumerate() {
            let of_row = &mut self.groups[r * steps.rows..];
            let is_in_place = steps.groups == 1 && inputs == 4 * groups;
            let row = match is_in_place {
                true => of_row[..groups].as_flattened_mut(),
                false => &mut self.row,
            };
            let (scale, zero) = quantize_row(weights.isa, values, row);
            self.scales.push(scale);
            self.zeros.push(zero);
            if is_in_place {
                continue;
            }
            let mut places = of_row.iter_mut().step_by(steps.groups);
            for block in self.row.chunks(weights.block) {
                let (whole, rest) = block.as_chunks::<4>();
                for (&group, place) in whole.iter().zip(places.by_ref()) {
                    *place = group;
                }
                if !rest.is_empty()
                    && let Some(place) = places.next()
                {
                    // What stands beyond the end meets weights of zero.
                    *place = [0; 4];
                    place[..rest.len()].copy_from_slice(rest);
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

/// The sums of a panel.
#[repr(align(64))]
struct Sums([[i32; COLUMNS]; AMX_ROWS]);

/// What multiplies a tile, on one thread.
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Tiles),
    Vectors(Isa),
}

impl Kernel {
    /// For tiles of so many rows.
    fn new(isa: Isa, rows: usize) -> Self {
        match isa.set() {
            #[cfg(target_arch = "x86_64")]
            Set::Amx => Kernel::Amx(amx::Tiles::new(isa, rows)),
            _ => Kernel::Vectors(isa),
        }
    }

    /// Σ q_x·q_w of a block for each row of a tile and each output of a panel.
    fn dot(&self, x: Activations<'_>, weights: WeightsOfBlock<'_>, sums: &mut [[i32; COLUMNS]]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx(tiles) => tiles.dot(x.groups, x.steps.rows, weights.lines, sums),
            &Kernel::Vectors(isa) => for_rows!(sums.len(), dot(isa, x, weights, sums)),
        }
    }
}

/// [`Kernel::dot`] for `R` rows, without AMX.
fn dot<const R: usize>(
    isa: Isa,
    x: Activations<'_>,
    weights: WeightsOfBlock<'_>,
    sums: &mut [[i32; COLUMNS]],
) {
    let lines = weights.lines;
    assert!(sums.len() == R && x.have(R, lines.len() / 2));
    let sums = &mut sums.as_chunks_mut::<R>().0[0];
    match isa.set() {
        // SAFETY: an `Isa` is only made for a processor that has it; the lengths are
        // those that were just checked.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Amx => unsafe { avx512::dot(x.groups, x.steps.rows, lines, sums) },
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => {
            let (rows, groups) = (R.next_multiple_of(avx2::ROWS_OF_VECTOR), lines.len() / 2);
            assert!(x.steps.groups == R && x.have(rows, groups));
            // In the order of groups.
            let last = weights.excess.last();
            assert!(last.is_none_or(|last| (last.group as usize) < groups));
            // SAFETY: as above.
            unsafe { avx2::dot(x.groups, weights, sums) }
        }
        Set::Portable => portable(x.groups, x.steps.rows, lines, sums),
    }
}

/// Adds what [`dot`] gives, scaled, to `values`.
fn add<const R: usize>(
    isa: Isa,
    x: Activations<'_>,
    weights: WeightsOfBlock<'_>,
    scales: &[f32; COLUMNS],
    values: &mut [[f32; COLUMNS]],
) {
    assert!(values.len() == R && x.have(R, weights.lines.len() / 2));
    let values = &mut values.as_chunks_mut::<R>().0[0];
    match isa.set() {
        // SAFETY: as in `dot`.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Amx => unsafe {
            avx512::add(x.groups, x.steps.rows, weights.lines, scales, values);
        },
        _ => {
            let mut sums = [[0; COLUMNS]; R];
            dot::<R>(isa, x, weights, &mut sums);
            accumulate(isa, &sums, scales, values);
        }
    }
}

/// Adds the sums of a row, scaled.
#[inline(always)]
fn add_scaled(sums: &[i32; COLUMNS], scales: &[f32; COLUMNS], values: &mut [f32; COLUMNS]) {
    for ((value, &sum), &scale) in values.iter_mut().zip(sums).zip(scales) {
        *value = (sum as f32).mul_add(scale, *value);
    }
}

for_each_isa! {
    /// Adds the sums of a block, scaled.
    fn accumulate(
        sums: &[[i32; COLUMNS]],
        scales: &[f32; COLUMNS],
        values: &mut [[f32; COLUMNS]],
    ) {
        for (values, sums) in values.iter_mut().zip(sums) {
            add_scaled(sums, scales, values);
        }
    }
}

/// The outputs of a row, see [`finish_panel`].
#[inline(always)]
fn outputs_of(
    row: usize,
    sums: &[[i32; COLUMNS]],
    values: &[[f32; COLUMNS]],
    tile: &Tile,
    constants: &Constants<'_>,
) -> [f32; COLUMNS] {
    let (scale, zero) = (tile.scales[row], tile.zeros[row]);
    let mut outputs = values.get(row).copied().unwrap_or_default();
    add_scaled(&sums[row], constants.scales, &mut outputs);
    let of_outputs = constants.sums.iter().zip(constants.bias);
    for (value, (&sum, &bias)) in outputs.iter_mut().zip(of_outputs) {
        *value = zero.mul_add(-sum, *value).mul_add(scale, bias);
    }
    if constants.gelu {
        for value in &mut outputs {
            *value = simd::gelu(*value);
        }
    }
    outputs
}

for_each_isa! {
    /// From the sums of the last block and the `values` of those before, if there are
    /// any, to outputs: so many of each row, in `y` one row at each step.
    fn finish_panel(
        sums: &[[i32; COLUMNS]],
        values: &[[f32; COLUMNS]],
        tile: &Tile,
        constants: Constants<'_>,
        y: &mut [f32],
        step_and_count: (usize, usize),
    ) {
        let (step, count) = step_and_count;
        let rows = (0..sums.len()).zip(y.chunks_mut(step));
        if count == COLUMNS {
            for (r, y) in rows {
                if let Some(y) = y.first_chunk_mut() {
                    *y = outputs_of(r, sums, values, tile, &constants);
                }
            }
        } else {
            for (r, y) in rows {
                let outputs = outputs_of(r, sums, values, tile, &constants);
                y[..count].copy_from_slice(&outputs[..count]);
            }
        }
    }
}

/// Σ q_x·q_w for each row and output.
fn portable<const R: usize>(
    x: &[[u8; 4]],
    step: usize,
    weights: &[Line],
    sums: &mut [[i32; COLUMNS]; R],
) {
    sums.fill([0; COLUMNS]);
    for (group, lines) in weights.chunks_exact(2).enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = &x[r * step + group];
            for (half, line) in lines.iter().enumerate() {
                for (column, w) in line.0.as_chunks::<4>().0.iter().enumerate() {
                    let products = x.iter().zip(w).map(|(&x, &w)| i32::from(x) * i32::from(w));
                    sums[16 * half + column] += products.sum::<i32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{AHEAD, COLUMNS, Line};
    use std::arch::x86_64::*;

    /// As [`super::dot`].
    ///
    /// # Safety
    ///
    /// `x` has `R` rows, `step` groups from each other, of one group for every two lines
    /// of weights.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn dot<const R: usize>(
        x: &[[u8; 4]],
        step: usize,
        weights: &[Line],
        sums: &mut [[i32; COLUMNS]; R],
    ) {
        // SAFETY: passed on; halves of 32 sums.
        unsafe {
            for (sums, [low, high]) in sums.iter_mut().zip(products::<R>(x, step, weights)) {
                let at = sums.as_mut_ptr();
                _mm512_storeu_si512(at.cast(), low);
                _mm512_storeu_si512(at.add(16).cast(), high);
            }
        }
    }

    /// As [`super::add`].
    ///
    /// # Safety
    ///
    /// As for [`dot`].
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn add<const R: usize>(
        x: &[[u8; 4]],
        step: usize,
        weights: &[Line],
        scales: &[f32; COLUMNS],
        values: &mut [[f32; COLUMNS]; R],
    ) {
        // SAFETY: passed on; halves of 32 floats.
        unsafe {
            let scale_low = _mm512_loadu_ps(scales.as_ptr());
            let scale_high = _mm512_loadu_ps(scales.as_ptr().add(16));
            for (values, [low, high]) in values.iter_mut().zip(products::<R>(x, step, weights)) {
                let at = values.as_mut_ptr();
                let (low, high) = (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high));
                let low = _mm512_fmadd_ps(low, scale_low, _mm512_loadu_ps(at));
                let high = _mm512_fmadd_ps(high, scale_high, _mm512_loadu_ps(at.add(16)));
                _mm512_storeu_ps(at, low);
                _mm512_storeu_ps(at.add(16), high);
            }
        }
    }

    /// The sums of the two halves of each row.
    ///
    /// # Safety
    ///
    /// As for [`dot`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn products<const R: usize>(
        x: &[[u8; 4]],
        step: usize,
        weights: &[Line],
    ) -> [[__m512i; 2]; R] {
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
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
                for (r, [low, high]) in sums.iter_mut().enumerate() {
                    let group = x.add(r * step).cast::<i32>().read_unaligned();
                    let group = _mm512_set1_epi32(group);
                    *low = _mm512_dpbusd_epi32(*low, group, w_low);
                    *high = _mm512_dpbusd_epi32(*high, group, w_high);
                }
                x = x.add(1);
                line = line.add(2);
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use super::{AHEAD, AMX_ROWS, COLUMNS, Line};
    use crate::operators::simd::{Isa, Set};
    use std::arch::asm;
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    use std::marker::PhantomData;

    /// Rows of a tile register.
    const ROWS: usize = 16;

    /// The tile registers of this thread, set up for products. 0 to 3 are sums: of
    /// the first sixteen rows with the two halves of a panel, and of the other rows.
    /// 4 and 5 are activations of the first rows and of the others, 6 and 7 weights
    /// of the two halves.
    ///
    /// Intel, "Architecture Instruction Set Extensions Programming Reference"
    /// (319433), chapter 3. The standard library has no stable functions for them.
    pub(super) struct Tiles {
        rows: usize,
        /// The registers are those of one thread.
        stays_on_its_thread: PhantomData<*const ()>,
    }

    /// What `ldtilecfg` takes.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        /// Bytes of a row of each register.
        widths: [u16; 16],
        /// Rows of each register.
        rows: [u8; 16],
    }

    impl Tiles {
        /// For 1 to [`AMX_ROWS`] rows.
        pub(super) fn new(isa: Isa, rows: usize) -> Self {
            assert!(isa.set() == Set::Amx && (1..=AMX_ROWS).contains(&rows));
            let first = rows.min(ROWS) as u8;
            // Without other rows, their registers are set up and not used.
            let other = (rows as u8 - first).max(1);
            let all = ROWS as u8;
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                widths: [0; 16],
                rows: [0; 16],
            };
            configuration.widths[..8].fill(64);
            configuration.rows[..8]
                .copy_from_slice(&[first, first, other, other, first, other, all, all]);
            // SAFETY: the processor and the system have AMX, or there would be no such
            // `Isa`; the configuration is valid.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
            }
            Tiles {
                rows,
                stays_on_its_thread: PhantomData,
            }
        }

        /// As [`super::Kernel::dot`], for a multiple of sixteen groups.
        pub(super) fn dot(
            &self,
            x: &[[u8; 4]],
            step: usize,
            weights: &[Line],
            sums: &mut [[i32; COLUMNS]],
        ) {
            let groups = weights.len() / 2;
            assert!(groups.is_multiple_of(16) && x.len() >= (self.rows - 1) * step + groups);
            assert!(sums.len() == self.rows);
            let to = sums.as_mut_ptr().cast::<i32>();
            let mut x = x.as_ptr();
            let mut line = weights.as_ptr();
            let (step, panel_step) = (4 * step, 2 * size_of::<Line>());
            // SAFETY: registers have the shapes that `new` gave them. Each step reads
            // sixteen groups of each row and sixteen lines of each half, which are
            // there, and the sums have room for all rows, see the assertions.
            unsafe {
                asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
                if self.rows > ROWS {
                    asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
                }
                for _ in 0..groups / 16 {
                    for ahead in AHEAD..AHEAD + 32 {
                        // Behind the last panel lies something else: that does no harm.
                        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(ahead).cast());
                    }
                    asm!(
                        "tileloadd tmm4, [{x} + {step}]",
                        "tileloadd tmm6, [{low} + {panel_step}]",
                        "tdpbusd tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{high} + {panel_step}]",
                        "tdpbusd tmm1, tmm4, tmm7",
                        x = in(reg) x,
                        step = in(reg) step,
                        low = in(reg) line,
                        high = in(reg) line.add(1),
                        panel_step = in(reg) panel_step,
                        options(nostack, readonly),
                    );
                    if self.rows > ROWS {
                        asm!(
                            "tileloadd tmm5, [{x} + {step}]",
                            "tdpbusd tmm2, tmm5, tmm6",
                            "tdpbusd tmm3, tmm5, tmm7",
                            x = in(reg) x.byte_add(ROWS * step),
                            step = in(reg) step,
                            options(nostack, readonly),
                        );
                    }
                    x = x.add(16);
                    line = line.add(32);
                }
                let row = size_of::<[i32; COLUMNS]>();
                asm!(
                    "tilestored [{low} + {row}], tmm0",
                    "tilestored [{high} + {row}], tmm1",
                    low = in(reg) to,
                    high = in(reg) to.add(COLUMNS / 2),
                    row = in(reg) row,
                    options(nostack),
                );
                if self.rows > ROWS {
                    let to = to.add(ROWS * COLUMNS);
                    asm!(
                        "tilestored [{low} + {row}], tmm2",
                        "tilestored [{high} + {row}], tmm3",
                        low = in(reg) to,
                        high = in(reg) to.add(COLUMNS / 2),
                        row = in(reg) row,
                        options(nostack),
                    );
                }
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the registers are this thread's, and nobody else's use of them
            // outlives a call. Empty ones cost the system nothing.
            unsafe { asm!("tilerelease", options(nostack, nomem)) }
        }
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

        fn weights(&self, isa: Isa) -> Weights {
            let shape = (self.outputs, self.inputs);
            let bias = Some(&self.bias[..]);
            Weights::pack(isa, shape, self.block, &self.quantized, &self.scales, bias)
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

    const SIZES: [(usize, usize, usize); 8] = [
        (384, 96, 384),
        (384, 40, 128),
        (128, 40, 128),
        (33, 7, 16),
        (64, 32, 32),
        (1, 1, 1),
        (70, 33, 20),
        (70, 33, 18),
    ];

    #[test]
    fn layers_are_as_defined_and_the_same_on_every_instruction_set() {
        for (inputs, outputs, block) in SIZES {
            let layer = Layer::new(inputs, outputs, block);
            let all = Isa::all().into_iter();
            let all: Vec<_> = all.map(|isa| (isa, layer.weights(isa))).collect();
            for count in [1, 2, 3, 7, 12, 31, 50] {
                let x = noise(count * inputs, 4);
                let run = |weights: &Weights, finish| {
                    let mut y = vec![0.0; count * outputs];
                    weights.run(&x, &mut y, finish);
                    y
                };
                let first = run(&all[0].1, Finish::Plain);
                let expected = x.chunks_exact(inputs).flat_map(|x| layer.naive(x));
                for (&found, expected) in first.iter().zip(expected) {
                    // A level may fall to the other side of a half.
                    let error = (f64::from(found) - expected).abs();
                    assert!(error < 0.02 * (1.0 + expected.abs()), "{found}, {expected}");
                }
                for (isa, weights) in &all {
                    assert_eq!(run(weights, Finish::Plain), first, "{isa:?}");
                    let activated: Vec<f32> = first.iter().map(|&x| gelu(x)).collect();
                    assert_eq!(run(weights, Finish::Gelu), activated, "{isa:?}");
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_saturate() {
        // Pairs of equal signs and of both, each as large as it can be.
        let extremes = |i: usize| if i * i % 7 < 4 { i8::MIN } else { i8::MAX };
        let (inputs, outputs) = (100, 40);
        let layer = Layer {
            quantized: (0..inputs * outputs).map(extremes).collect(),
            ..Layer::new(inputs, outputs, inputs)
        };
        for count in [1, 2, 4, 12, 19] {
            // The greatest level, and in every seventh place the least.
            let level = |i: usize| if i.is_multiple_of(7) { 0.0 } else { 1.0 };
            let x: Vec<f32> = (0..count * inputs).map(level).collect();
            let expected: Vec<f64> = x
                .chunks_exact(inputs)
                .flat_map(|x| layer.naive(x))
                .collect();
            for isa in Isa::all() {
                let mut y = vec![0.0; count * outputs];
                layer.weights(isa).run(&x, &mut y, Finish::Plain);
                for (&found, expected) in y.iter().zip(&expected) {
                    let error = (f64::from(found) - expected).abs();
                    assert!(error < 1e-3, "{isa:?}: {found}, {expected}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others_or_on_how_the_work_is_cut() {
        let all = Isa::all().into_iter();
        for (isa, (inputs, outputs, block)) in all.flat_map(|isa| SIZES.map(|size| (isa, size))) {
            let layer = Layer::new(inputs, outputs, block);
            let weights = layer.weights(isa);
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
            weights.run(&x, &mut together, norm(0));
            for (row, expected) in together.chunks_exact(outputs).enumerate() {
                let mut alone = vec![0.0; outputs];
                weights.run(&x[row * inputs..][..inputs], &mut alone, norm(row));
                assert_eq!(alone, expected);
            }
            // Panel by panel.
            weights.run(&x, &mut together, Finish::Gelu);
            let tiles = weights.prepare(&x);
            let mut columns = vec![0.0; weights.panels() * 30 * COLUMNS];
            let panels = 0..weights.panels();
            weights.run_panels(&tiles, panels, &mut columns, Finish::Gelu);
            for (panel, columns) in columns.chunks_exact(30 * COLUMNS).enumerate() {
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
        let weights = layer.weights(Isa::best());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut x = noise(80, 9);
            x[3] = bad;
            if bad == f32::MAX {
                x[4] = f32::MIN;
            }
            let mut y = vec![0.0; 16];
            weights.run(&x, &mut y, Finish::Plain);
            if bad != f32::MAX {
                assert!(y[..8].iter().all(|y| y.is_nan()), "{bad}: {y:?}");
            }
            assert!(y[8..].iter().all(|y| y.is_finite()), "{bad}: {y:?}");
        }
        let mut y = vec![1.0; 8];
        weights.run(&[0.0; 40], &mut y, Finish::Plain);
        assert_eq!(y, layer.bias);
    }
}
