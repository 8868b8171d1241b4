//! Centroids of a sample.
//!
//! Lloyd, "Least squares quantization in PCM", 1982: begin with a random choice
//! of members, then in turns assign all members to the nearest centroid and move
//! each centroid to the mean of its members. Products of matrices do the
//! assigning. A centroid that has lost all members begins anew as one of those
//! that are farthest from theirs.
//!
//! Members are compared with all centroids once. Later they are compared with those
//! that are near the centroid they have, because one of these is the nearest but for a
//! few (Wang, Wang, Ke, Zeng and Li, "Fast Approximate k-Means via Cluster Closures",
//! 2012). That leaves time for a larger sample: of 1,000,000 rows in 128 dimensions in
//! 1,000 lists, the squared distances from centroids of 200,000 are 5 % below those from
//! centroids of 50,000.
//!
//! Many centroids are in *branches*: these are clusters of the centroids, and a vector is
//! compared with the centroids in the branches that are nearest to it (Nistér and Stewénius,
//! "Scalable Recognition with a Vocabulary Tree", 2006, with more than one branch).
//!
//! Under cosine, only the direction of a centroid is to count (Dhillon and Modha,
//! "Concept Decompositions for Large Sparse Text Data using Clustering", 2001). So
//! all centroids have one length. That is the mean of the lengths of the means, which
//! leaves the smallest residuals.

use std::ops::Range;

use memory::vec::{collect, copied, extend, filled, push, reserve};
use memory::{OutOfMemory, check_available};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::index::sample;

use super::groups::Groups;
use crate::team::{Team, try_run};
use crate::{Metric, metric};

/// Vectors that are compared with centroids at once, at most.
const BLOCK: usize = 256;

/// The same if the centroids are in branches, each of which a few of them are compared with.
const BLOCK_OF_BRANCHES: usize = 8 * BLOCK;

/// Vectors of a list that are a part of a team's work, at most.
const PART: usize = 1024;

/// So many centroids are in branches. With half as many, a search takes as long with branches
/// as without, and finds a little less; builds would be faster.
const MANY: usize = 8192;

/// A vector is compared with the centroids in so many branches. Of 1,000,000 rows in 30,000
/// lists, a search of 40 of these has recall 0.961 with half as many and 0.972 with these, in
/// builds that take 36 and 37 seconds.
pub const NEAR_BRANCHES: usize = 16;

/// The centroids of a sample move so often at most.
pub const ROUNDS: usize = 24;

/// Products of components that take some ten milliseconds.
const PRODUCTS: usize = 1 << 29;

/// Members are compared with so many centroids after the first round. Half as many give
/// larger squared distances, by 0.7 % in the example above.
const NEAR: usize = 64;

/// What memory is asked for.
const CLUSTERING: &str = "the clustering of vectors";
const SAMPLING: &str = "a sample of vectors";

/// When fewer than one member in so many changes its list, centroids stay.
const SETTLED: usize = 200;

/// Centroids, prepared for assigning vectors to them.
pub struct Centroids {
    /// All components, one centroid after the other.
    pub values: Vec<f32>,
    dimension: usize,
    /// ½·‖c‖² of each.
    half_squares: Vec<f32>,
    branches: Option<Branches>,
}

/// Centroids of centroids.
pub struct Branches {
    /// What the centroids of each branch are near to. Each branch has some.
    pub centroids: Box<Centroids>,
    /// The number of each branch's first centroid; one more, how many there are in all.
    pub starts: Vec<usize>,
}

impl Branches {
    /// The centroid of each branch, and the numbers of its members.
    pub fn each(&self) -> impl Iterator<Item = (&[f32], Range<usize>)> {
        let ranges = self.starts.windows(2).map(|ends| ends[0]..ends[1]);
        let each = ranges.enumerate();
        each.map(|(number, range)| (self.centroids.get(number), range))
    }
}

/// Branches that so many centroids should have.
fn branch_count(centroids: usize) -> usize {
    (centroids as f64).sqrt().ceil() as usize
}

impl Centroids {
    /// Prepares centroids of `dimension` components.
    pub fn new(values: Vec<f32>, dimension: usize) -> Self {
        let half_square = |centroid: &[f32]| (metric::squares(centroid) / 2.0) as f32;
        Centroids {
            // At most 128 KiB, for 32,768 lists.
            half_squares: values.chunks_exact(dimension).map(half_square).collect(),
            values,
            dimension,
            branches: None,
        }
    }

    /// The same centroids in these branches.
    pub fn with_branches(self, branches: Branches) -> Self {
        let branches = Some(branches);
        Centroids { branches, ..self }
    }

    /// The same centroids in an order of their own, in branches if there are many.
    pub fn arranged(self, team: &dyn Team, rng: &mut SmallRng) -> Result<Self, OutOfMemory> {
        match self.len() < MANY {
            true => Ok(self),
            false => Ok(self.in_branches(team, None, rng)?.0),
        }
    }

    /// The same centroids, one branch after the other, and the former number of each.
    /// `near` are centroids of branches as they were before the centroids moved.
    pub(super) fn in_branches(
        self,
        team: &dyn Team,
        near: Option<Centroids>,
        rng: &mut SmallRng,
    ) -> Result<(Self, Vec<u32>), OutOfMemory> {
        let dimension = self.dimension;
        let centroids = match near {
            None => {
                let count = branch_count(self.len());
                let metric = Metric::L2;
                let progress = &mut |_| {};
                cluster(team, &self.values, dimension, count, metric, rng, progress)?
            }
            Some(near) => {
                let mut members = Members::new(team, &self.values, &near)?;
                Centroids::new(members.means(team, rng)?, dimension)
            }
        };
        let groups = Members::new(team, &self.values, &centroids)?.groups;
        let order = copied(groups.order(), CLUSTERING)?;
        let vectors = order.iter().map(|&number| self.get(number as usize));
        let values = concat(vectors, dimension)?;
        // Nobody is to look into a branch without centroids.
        let filled = (0..groups.len()).filter(|&branch| !groups.of(branch).is_empty());
        let filled: Vec<usize> = filled.collect();
        let of_branches = filled.iter().map(|&branch| centroids.get(branch));
        let of_branches = Centroids::new(concat(of_branches, dimension)?, dimension);
        let starts = filled.iter().map(|&branch| groups.starts()[branch]);
        let branches = Branches {
            centroids: Box::new(of_branches),
            starts: starts.chain([order.len()]).collect(),
        };
        let arranged = Centroids::new(values, dimension).with_branches(branches);
        Ok((arranged, order))
    }

    /// The branches, if there are any.
    pub fn branches(&self) -> Option<&Branches> {
        self.branches.as_ref()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.half_squares.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.half_squares.is_empty()
    }

    /// A centroid's components.
    pub fn get(&self, number: usize) -> &[f32] {
        &self.values[number * self.dimension..][..self.dimension]
    }

    /// The mean of all.
    pub fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0_f64; self.dimension];
        for centroid in self.values.chunks_exact(self.dimension) {
            for (mean, &c) in mean.iter_mut().zip(centroid) {
                *mean += f64::from(c) / self.len() as f64;
            }
        }
        mean.into_iter().map(|c| c as f32).collect()
    }

    /// The nearest centroid of each vector (at most [`Centroids::at_once`]), and
    /// ½·‖c‖² − ⟨x, c⟩ of it. If the centroids are in branches, that of some is a little
    /// farther than the nearest.
    pub fn nearest(&self, vectors: &[f32], out: &mut [(u32, f32)]) -> Result<(), OutOfMemory> {
        out.fill((0, f32::INFINITY));
        self.compare(vectors, out.len(), &mut |row, first, products| {
            let out = &mut out[row];
            let half_squares = &self.half_squares[first..];
            for (i, (&product, &half_square)) in products.iter().zip(half_squares).enumerate() {
                let key = half_square - product;
                if key < out.1 {
                    *out = ((first + i) as u32, key);
                }
            }
            Ok(())
        })
    }

    /// So many vectors are compared with centroids in some ten milliseconds, if not fewer
    /// than the least that a product of matrices is good for.
    pub fn at_once(&self) -> usize {
        let (least, most) = match self.branches {
            None => (16, BLOCK),
            Some(_) => (BLOCK, BLOCK_OF_BRANCHES),
        };
        let products = self.compared() * self.dimension;
        (PRODUCTS / products.max(1)).clamp(least, most)
    }

    /// Centroids that a vector is compared with, those of branches among them.
    fn compared(&self) -> usize {
        let Some(branches) = &self.branches else {
            return self.len();
        };
        let count = branches.centroids.len();
        count + self.len().div_ceil(count) * NEAR_BRANCHES.min(count)
    }

    /// The [`NEAR`] centroids that are nearest to each centroid, in any order.
    fn near_all(&self, team: &dyn Team) -> Result<Vec<Vec<u32>>, OutOfMemory> {
        // Some MiB of keys for each thread.
        const KEYS: usize = 1 << 19;
        let at_once = self.at_once().min((KEYS / self.compared()).max(1));
        let parts = collect(self.values.chunks(at_once * self.dimension), CLUSTERING)?;
        let near = parts.iter().map(|_| Mutex::default());
        let near: Vec<Mutex<Vec<Vec<u32>>>> = collect(near, CLUSTERING)?;
        try_run(team, parts.len(), &|part| {
            *near[part].lock() = self.near(parts[part], NEAR)?;
            Ok(())
        })?;
        collect(near.into_iter().flat_map(Mutex::into_inner), CLUSTERING)
    }

    /// So many centroids that are nearest to each of some vectors.
    fn near(&self, vectors: &[f32], count: usize) -> Result<Vec<Vec<u32>>, OutOfMemory> {
        let rows = vectors.len() / self.dimension;
        let mut keys: Vec<Vec<(f32, u32)>> = collect((0..rows).map(|_| Vec::new()), CLUSTERING)?;
        for keys in &mut keys {
            reserve(keys, self.compared(), CLUSTERING)?;
        }
        self.compare(vectors, rows, &mut |row, first, products| {
            let half_squares = &self.half_squares[first..];
            let pairs = products.iter().zip(half_squares).enumerate();
            let pairs = pairs.map(|(i, (product, h))| (h - product, (first + i) as u32));
            extend(&mut keys[row], pairs, CLUSTERING)
        })?;
        let nearest = |mut keys: Vec<(f32, u32)>| {
            if count < keys.len() {
                keys.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0));
                keys.truncate(count);
            }
            collect(keys.iter().map(|key| key.1), CLUSTERING)
        };
        keys.into_iter().map(nearest).collect()
    }

    /// Shows the products of each vector with all centroids, or with those in the branches
    /// near it: the vector's number, that of the first centroid, and the products with this
    /// and the ones that follow.
    fn compare(
        &self,
        vectors: &[f32],
        rows: usize,
        each: &mut Compared<'_>,
    ) -> Result<(), OutOfMemory> {
        let Some(branches) = &self.branches else {
            return self.compare_with(vectors, rows, (0, self.len()), each);
        };
        let mut of_branch = vec![Vec::new(); branches.centroids.len()];
        let mut row = 0;
        for vectors in vectors.chunks(BLOCK * self.dimension) {
            for near in branches.centroids.near(vectors, NEAR_BRANCHES)? {
                for branch in near {
                    push(&mut of_branch[branch as usize], row, CLUSTERING)?;
                }
                row += 1;
            }
        }
        let mut some = Vec::new();
        for (of_branch, ends) in of_branch.iter().zip(branches.starts.windows(2)) {
            let range = (ends[0], ends[1]);
            for rows in of_branch.chunks(BLOCK) {
                some.clear();
                reserve(&mut some, rows.len() * self.dimension, CLUSTERING)?;
                for row in rows {
                    let at = row * self.dimension;
                    some.extend_from_slice(&vectors[at..at + self.dimension]);
                }
                self.compare_with(&some, rows.len(), range, &mut |row, first, products| {
                    each(rows[row], first, products)
                })?;
            }
        }
        Ok(())
    }

    /// The same with a range of centroids.
    fn compare_with(
        &self,
        vectors: &[f32],
        rows: usize,
        (start, end): (usize, usize),
        each: &mut Compared<'_>,
    ) -> Result<(), OutOfMemory> {
        /// Centroids at a time, whose products stay in the processor's cache.
        const AT_ONCE: usize = 512;
        // A product of matrices copies so much of both at a time (matrixmultiply's `kc`
        // times its `mc` and the columns). It is given back at once, to be had again.
        const COPIED: usize = 256 * (AT_ONCE + 64);
        let mut room = Vec::<f32>::new();
        reserve(&mut room, COPIED, CLUSTERING)?;
        drop(std::hint::black_box(room));
        let mut products = filled(0.0_f32, rows * AT_ONCE.min(end - start), CLUSTERING)?;
        let values = &self.values[start * self.dimension..end * self.dimension];
        let parts = values.chunks(AT_ONCE * self.dimension);
        for (part, centroids) in parts.enumerate() {
            let columns = centroids.len() / self.dimension;
            let products = &mut products[..rows * columns];
            let view = |values, rows| ArrayView2::from_shape((rows, self.dimension), values);
            let shaped = ArrayViewMut2::from_shape((rows, columns), &mut *products);
            let (Ok(x), Ok(c), Ok(mut y)) = (view(vectors, rows), view(centroids, columns), shaped)
            else {
                unreachable!("the shapes follow from the lengths");
            };
            general_mat_mul(1.0, &x, &c.t(), 0.0, &mut y);
            for (row, products) in products.chunks_exact(columns).enumerate() {
                each(row, start + part * AT_ONCE, products)?;
            }
        }
        Ok(())
    }
}

/// Takes the number of a vector, that of a centroid, and the products with this and the
/// ones that follow.
type Compared<'c> = dyn FnMut(usize, usize, &[f32]) -> Result<(), OutOfMemory> + 'c;

/// The components of vectors, one after the other.
fn concat<'v>(
    vectors: impl ExactSizeIterator<Item = &'v [f32]>,
    dimension: usize,
) -> Result<Vec<f32>, OutOfMemory> {
    let mut values = Vec::new();
    reserve(&mut values, vectors.len() * dimension, CLUSTERING)?;
    vectors.for_each(|vector| values.extend_from_slice(vector));
    Ok(values)
}

/// The vectors of a sample, each with the centroid that it has: its number, and
/// ½·‖c‖² − ⟨x, c⟩.
struct Members<'v> {
    vectors: &'v [f32],
    dimension: usize,
    nearest: Vec<(u32, f32)>,
    /// The same, by their centroids.
    groups: Groups,
}

/// The groups of vectors that have these of so many centroids.
fn by_centroid(nearest: &[(u32, f32)], count: usize) -> Result<Groups, OutOfMemory> {
    Groups::new(nearest.iter().map(|nearest| nearest.0), count)
}

impl<'v> Members<'v> {
    /// Compares all vectors with all centroids, or with those in the branches near them.
    fn new(
        team: &dyn Team,
        vectors: &'v [f32],
        centroids: &Centroids,
    ) -> Result<Self, OutOfMemory> {
        let dimension = centroids.dimension;
        let mut nearest = filled((0, 0.0), vectors.len() / dimension, CLUSTERING)?;
        let at_once = centroids.at_once();
        let parts = collect(vectors.chunks(at_once * dimension), CLUSTERING)?;
        let out = collect(nearest.chunks_mut(at_once).map(Mutex::new), CLUSTERING)?;
        try_run(team, out.len(), &|part| {
            centroids.nearest(parts[part], &mut out[part].lock())
        })?;
        drop(out);
        Ok(Members {
            vectors,
            dimension,
            groups: by_centroid(&nearest, centroids.len())?,
            nearest,
        })
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.nearest.len()
    }

    fn vector(&self, number: usize) -> &'v [f32] {
        &self.vectors[number * self.dimension..][..self.dimension]
    }

    /// Parts of all groups, each with the group's number.
    fn parts(&self) -> Result<Vec<(usize, &[u32])>, OutOfMemory> {
        let groups = (0..self.groups.len()).map(|list| (list, self.groups.of(list)));
        let parts = groups.flat_map(|(list, of)| of.chunks(PART).map(move |part| (list, part)));
        collect(parts, CLUSTERING)
    }

    /// Compares them with the centroids that are near the one they have, which have
    /// moved. Gives how many have another one now.
    fn update(&mut self, team: &dyn Team, centroids: &Centroids) -> Result<usize, OutOfMemory> {
        if centroids.len() <= NEAR {
            let now = Members::new(team, self.vectors, centroids)?;
            let pairs = now.nearest.iter().zip(&self.nearest);
            let changed = pairs.filter(|(now, before)| now.0 != before.0).count();
            *self = now;
            return Ok(changed);
        }
        let near = centroids.near_all(team)?;
        let parts = self.parts()?;
        let found = parts.iter().map(|_| Mutex::default());
        let found: Vec<Mutex<Vec<(u32, f32)>>> = collect(found, CLUSTERING)?;
        try_run(team, parts.len(), &|number| {
            let (list, part) = parts[number];
            let near = &near[list];
            let values = near.iter().map(|&near| centroids.get(near as usize));
            let values = Centroids::new(concat(values, self.dimension)?, self.dimension);
            let mut found = found[number].lock();
            *found = filled((0, 0.0), part.len(), CLUSTERING)?;
            for (part, found) in part.chunks(BLOCK).zip(found.chunks_mut(BLOCK)) {
                let vectors = part.iter().map(|&member| self.vector(member as usize));
                values.nearest(&concat(vectors, self.dimension)?, found)?;
                for nearest in found {
                    nearest.0 = near[nearest.0 as usize];
                }
            }
            Ok(())
        })?;
        drop(parts);
        let found = found.into_iter().flat_map(Mutex::into_inner);
        let mut changed = 0;
        for (&member, now) in self.groups.order().iter().zip(found) {
            let nearest = &mut self.nearest[member as usize];
            changed += usize::from(nearest.0 != now.0);
            *nearest = now;
        }
        self.groups = by_centroid(&self.nearest, centroids.len())?;
        Ok(changed)
    }

    /// Gives the centroids other numbers: `order` has the former ones.
    fn renumber(&mut self, order: &[u32]) -> Result<(), OutOfMemory> {
        let mut numbers = vec![0; order.len()];
        for (now, &before) in (0..).zip(order) {
            numbers[before as usize] = now;
        }
        for nearest in &mut self.nearest {
            nearest.0 = numbers[nearest.0 as usize];
        }
        self.groups = by_centroid(&self.nearest, order.len())?;
        Ok(())
    }

    /// The means of those of each centroid. A centroid that has none begins anew as a
    /// member, which is its own then.
    fn means(&mut self, team: &dyn Team, rng: &mut SmallRng) -> Result<Vec<f32>, OutOfMemory> {
        let (dimension, count) = (self.dimension, self.groups.len());
        let mut values = filled(0.0_f32, count * dimension, CLUSTERING)?;
        let parts = self.parts()?;
        {
            let means = collect(values.chunks_mut(dimension).map(Mutex::new), CLUSTERING)?;
            try_run(team, parts.len(), &|number| {
                let (list, part) = parts[number];
                let share = 1.0 / self.groups.of(list).len() as f32;
                let mut sum = filled(0.0_f32, dimension, CLUSTERING)?;
                for &member in part {
                    for (sum, &x) in sum.iter_mut().zip(self.vector(member as usize)) {
                        *sum += share * x;
                    }
                }
                for (mean, sum) in means[list].lock().iter_mut().zip(sum) {
                    *mean += sum;
                }
                Ok(())
            })?;
        }
        let empty = (0..count).filter(|&list| self.groups.of(list).is_empty());
        let empty: Vec<usize> = empty.collect();
        if !empty.is_empty() {
            // The distance but for ½·‖x‖²; any of the farthest will do.
            let distance = |i: usize| {
                let squares: f32 = self.vector(i).iter().map(|x| x * x).sum();
                squares / 2.0 + self.nearest[i].1
            };
            let tries = (4 * empty.len()).min(self.len());
            check_choice(self.len())?;
            let tried = sample(rng, self.len(), tries).into_iter();
            let mut far = collect(tried.map(|i| (distance(i), i)), CLUSTERING)?;
            far.sort_unstable_by(|a: &(f32, usize), b| b.0.total_cmp(&a.0));
            for (&list, (_, i)) in empty.iter().zip(far) {
                values[list * dimension..][..dimension].copy_from_slice(self.vector(i));
                // Later, members are compared with what is near the centroid they have.
                self.nearest[i].0 = list as u32;
            }
            self.groups = by_centroid(&self.nearest, count)?;
        }
        Ok(values)
    }
}

/// Whether there is memory for a random choice of so many vectors.
fn check_choice(len: usize) -> Result<(), OutOfMemory> {
    check_available(len.saturating_mul(size_of::<usize>()), CLUSTERING)
}

/// Finds at most `count` centroids of a sample, of which there is at least one; under
/// cosine, its vectors have the length 1. Many are [arranged](Centroids::arranged).
/// `progress` is told of each round.
pub fn cluster(
    team: &dyn Team,
    vectors: &[f32],
    dimension: usize,
    count: usize,
    metric: Metric,
    rng: &mut SmallRng,
    progress: &mut dyn FnMut(usize),
) -> Result<Centroids, OutOfMemory> {
    let rows = vectors.len() / dimension;
    let count = count.min(rows);
    let row = |i: usize| &vectors[i * dimension..][..dimension];
    check_choice(rows)?;
    let chosen = sample(rng, rows, count).into_vec();
    let first = concat(chosen.iter().map(|&i| row(i)), dimension)?;
    progress(1);
    let mut centroids = Centroids::new(first, dimension).arranged(team, rng)?;
    if count == rows {
        return Ok(centroids);
    }
    let mut members = Members::new(team, vectors, &centroids)?;
    let mut changed = rows;
    for round in 1..=ROUNDS {
        let mut values = members.means(team, rng)?;
        if metric == Metric::Cosine {
            make_equally_long(&mut values, dimension);
        }
        let before = centroids.branches.take();
        centroids = Centroids::new(values, dimension);
        if let Some(branches) = before {
            let near = Some(*branches.centroids);
            let (arranged, order) = centroids.in_branches(team, near, rng)?;
            members.renumber(&order)?;
            centroids = arranged;
        }
        if changed * SETTLED < rows || round == ROUNDS {
            break;
        }
        progress(round + 1);
        changed = members.update(team, &centroids)?;
    }
    Ok(centroids)
}

/// Gives all vectors the mean of their lengths, but for those that have none.
fn make_equally_long(vectors: &mut [f32], dimension: usize) {
    let length = |vector: &[f32]| metric::squares(vector).sqrt();
    let lengths: Vec<f64> = vectors.chunks_exact(dimension).map(length).collect();
    let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
    for (vector, length) in vectors.chunks_exact_mut(dimension).zip(lengths) {
        let scale = mean / length;
        if scale.is_finite() {
            vector.iter_mut().for_each(|x| *x *= scale as f32);
        }
    }
}

/// A random choice of the vectors that are shown to it, all alike likely
/// (Vitter's algorithm R, "Random Sampling with a Reservoir", 1985).
pub struct Sample {
    dimension: usize,
    capacity: usize,
    seen: usize,
    vectors: Vec<f32>,
}

impl Sample {
    /// An empty sample of at most so many vectors.
    pub fn new(dimension: usize, capacity: usize) -> Self {
        Sample {
            dimension,
            capacity: capacity.max(1),
            seen: 0,
            vectors: Vec::new(),
        }
    }

    /// Shows it a vector.
    pub fn show(&mut self, vector: &[f32], rng: &mut SmallRng) -> Result<(), OutOfMemory> {
        self.seen += 1;
        if self.vectors.len() < self.capacity * self.dimension {
            reserve(&mut self.vectors, vector.len(), SAMPLING)?;
            self.vectors.extend_from_slice(vector);
            return Ok(());
        }
        let place = rng.random_range(0..self.seen);
        if place < self.capacity {
            let at = place * self.dimension;
            self.vectors[at..at + self.dimension].copy_from_slice(vector);
        }
        Ok(())
    }

    /// Vectors that were shown.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The vectors that were chosen.
    pub fn into_vectors(self) -> Vec<f32> {
        self.vectors
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::team::{Alone, Pair};

    fn clusters(rng: &mut SmallRng, count: usize, rows: usize, dimension: usize) -> Vec<f32> {
        let centres: Vec<f32> = (0..count * dimension)
            .map(|_| rng.random_range(-10.0..10.0))
            .collect();
        let member = |i: usize, rng: &mut SmallRng| {
            let centre = &centres[i % count * dimension..][..dimension];
            let near = centre.iter().map(|c| c + rng.random_range(-0.1..0.1));
            near.collect::<Vec<f32>>()
        };
        (0..rows).flat_map(|i| member(i, rng)).collect()
    }

    #[test]
    fn finds_separate_clusters() {
        let mut rng = SmallRng::seed_from_u64(1);
        let vectors = clusters(&mut rng, 10, 3000, 64);
        let mut rounds = 0;
        let centroids = cluster(
            &Pair,
            &vectors,
            64,
            40,
            Metric::L2,
            &mut rng,
            &mut |round| rounds = round,
        )
        .unwrap();
        assert_eq!(centroids.len(), 40);
        assert!(rounds > 0);
        let nearest = Members::new(&Alone, &vectors, &centroids).unwrap().nearest;
        for (vector, (number, key)) in vectors.chunks_exact(64).zip(nearest) {
            let exact =
                |c: &[f32]| -> f32 { vector.iter().zip(c).map(|(x, c)| (x - c) * (x - c)).sum() };
            let distances = (0..centroids.len()).map(|i| exact(centroids.get(i)));
            let least = distances.fold(f32::INFINITY, f32::min);
            assert!(exact(centroids.get(number as usize)) < least + 0.01);
            let squares: f32 = vector.iter().map(|x| x * x).sum();
            assert!((squares + 2.0 * key - least).abs() < 0.05, "{key} {least}");
            // Far less than to another cluster.
            assert!(least < 2.0, "{least}");
        }
    }

    #[test]
    fn comparing_with_near_centroids_is_nearly_as_good_as_with_all() {
        let mut rng = SmallRng::seed_from_u64(5);
        let vectors = clusters(&mut rng, 600, 9000, 64);
        let lists = 5 * NEAR;
        let mut centroids = Centroids::new(vectors[..64 * lists].to_vec(), 64);
        let mut members = Members::new(&Pair, &vectors, &centroids).unwrap();
        for _ in 0..5 {
            centroids = Centroids::new(members.means(&Pair, &mut rng).unwrap(), 64);
            let before = members.nearest.clone();
            let changed = members.update(&Pair, &centroids).unwrap();
            let pairs = members.nearest.iter().zip(&before);
            assert_eq!(changed, pairs.filter(|(now, old)| now.0 != old.0).count());
            // Each is in its centroid's part of the order.
            for list in 0..lists {
                for &member in members.groups.of(list) {
                    assert_eq!(members.nearest[member as usize].0, list as u32);
                }
            }
            let all = Members::new(&Pair, &vectors, &centroids).unwrap();
            let pairs = members.nearest.iter().zip(&all.nearest);
            let missed = pairs.filter(|(near, all)| near.1 > all.1 + 1e-3).count();
            assert!(missed * 50 < members.len(), "{missed}");
        }
    }

    #[test]
    fn branches_have_all_centroids_and_find_those_that_are_near() {
        let mut rng = SmallRng::seed_from_u64(7);
        let vectors = clusters(&mut rng, 300, 3000, 64);
        let flat = Centroids::new(vectors[..64 * 1000].to_vec(), 64);
        let again = Centroids::new(flat.values.clone(), 64);
        let (mut arranged, order) = again.in_branches(&Pair, None, &mut rng).unwrap();
        for _ in 0..2 {
            let branches = arranged.branches().unwrap();
            let count = branches.centroids.len();
            assert!(count > 20 && count <= branch_count(1000), "{count}");
            let ranges: Vec<_> = branches.each().map(|(_, range)| range).collect();
            assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, 1000));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            // As before, if what they were near to is given.
            let near = Centroids::new(branches.centroids.values.clone(), 64);
            let before = Centroids::new(arranged.values.clone(), 64);
            let (next, order) = before.in_branches(&Pair, Some(near), &mut rng).unwrap();
            for (now, &before) in order.iter().enumerate() {
                assert_eq!(next.get(now), arranged.get(before as usize));
            }
            arranged = next;
        }
        let mut numbers = order.clone();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<u32>>());
        let all = Members::new(&Pair, &vectors, &flat).unwrap();
        let near = Members::new(&Pair, &vectors, &arranged).unwrap();
        let pairs = near.nearest.iter().zip(&all.nearest);
        let missed = pairs.filter(|(near, all)| near.1 > all.1 + 1e-3).count();
        assert!(missed * 100 < near.len(), "{missed}");
    }

    #[test]
    fn many_centroids_are_as_good_as_few_would_be() {
        let mut rng = SmallRng::seed_from_u64(8);
        // Two clusters for each centroid, of three vectors each.
        let vectors = clusters(&mut rng, 2 * MANY, 6 * MANY, 16);
        let find = |lists| {
            let rng = &mut SmallRng::seed_from_u64(9);
            cluster(&Pair, &vectors, 16, lists, Metric::L2, rng, &mut |_| {}).unwrap()
        };
        let (many, fewer) = (find(MANY), find(MANY - 1));
        assert_eq!(many.len(), MANY);
        assert!(many.branches().is_some() && fewer.branches().is_none());
        let spread = |centroids: &Centroids| {
            // All with all, whatever the search does.
            let flat = Centroids::new(centroids.values.clone(), 16);
            let keys = Members::new(&Pair, &vectors, &flat).unwrap().nearest;
            let vectors = vectors.chunks_exact(16).zip(keys);
            let squared =
                |(x, (_, key)): (&[f32], (u32, f32))| metric::squares(x) + 2.0 * f64::from(key);
            vectors.map(squared).sum::<f64>()
        };
        let (many, fewer) = (spread(&many), spread(&fewer));
        assert!(many < 1.03 * fewer, "{many} {fewer}");
    }

    #[test]
    fn a_sample_of_equal_vectors_leaves_few_lists_empty() {
        let mut rng = SmallRng::seed_from_u64(6);
        let mut vectors = clusters(&mut rng, 500, 4000, 64);
        for (i, vector) in vectors.chunks_exact_mut(64).enumerate() {
            if i % 8 != 0 {
                vector.fill(3.0);
            }
        }
        let lists = 4 * NEAR;
        let centroids = cluster(
            &Pair,
            &vectors,
            64,
            lists,
            Metric::L2,
            &mut rng,
            &mut |_| {},
        )
        .unwrap();
        let members = Members::new(&Alone, &vectors, &centroids).unwrap();
        let empty = (0..lists).filter(|&list| members.groups.of(list).is_empty());
        let empty = empty.count();
        assert!(empty < lists / 20, "{empty} of {lists}");
    }

    #[test]
    fn hostile_samples_have_centroids_too() {
        let mut rng = SmallRng::seed_from_u64(2);
        let metrics = [Metric::L2, Metric::Cosine];
        let values = [0.0, 1.0, 1e-40, 3e38];
        let all = metrics.into_iter().flat_map(|m| values.map(|v| (m, v)));
        for (metric, value) in all {
            // Of many, only the simplest ones, because these take seconds.
            let kinds = [(20, 0), (2 * NEAR, 0), (MANY, 0), (MANY, 50)];
            let is_simple = (metric, value) == (Metric::L2, 1.0);
            for (lists, others) in kinds.into_iter().take(if is_simple { 4 } else { 2 }) {
                let rows = lists + lists / 2;
                let mut vectors = vec![value; 16 * rows];
                for vector in vectors.chunks_exact_mut(16).take(others) {
                    vector.fill_with(|| rng.random_range(-1.0..1.0));
                }
                let centroids =
                    cluster(&Pair, &vectors, 16, lists, metric, &mut rng, &mut |_| {}).unwrap();
                assert_eq!(centroids.len(), lists);
                let nearest = Members::new(&Alone, &vectors, &centroids).unwrap().nearest;
                assert!(nearest.iter().all(|n| (n.0 as usize) < lists));
            }
        }
        let few = cluster(
            &Alone,
            &[1.0; 64],
            64,
            20,
            Metric::L2,
            &mut rng,
            &mut |_| {},
        )
        .unwrap();
        assert_eq!(few.values, [1.0; 64]);
    }

    /// The mean of a wide cluster is short, which is to make it no nearer or farther.
    #[test]
    fn under_cosine_centroids_are_equally_long() {
        let mut rng = SmallRng::seed_from_u64(4);
        let vectors: Vec<f32> = (0..2000)
            .flat_map(|i| {
                let (noise, aside) = [(0.05, 0.0), (0.5, 0.84)][i % 2];
                let mut vector: Vec<f32> = (0..64)
                    .map(|_| noise * rng.random_range(-1.0..1.0))
                    .collect();
                vector[0] += 1.0;
                vector[1] += aside;
                metric::normalize(&mut vector);
                vector
            })
            .collect();
        for metric in [Metric::L2, Metric::Cosine] {
            let centroids =
                cluster(&Alone, &vectors, 64, 2, metric, &mut rng, &mut |_| {}).unwrap();
            let lengths = [0, 1].map(|i| metric::squares(centroids.get(i)).sqrt());
            assert!(
                lengths.iter().all(|length| (0.4..1.0).contains(length)),
                "{lengths:?}"
            );
            let difference = (lengths[0] - lengths[1]).abs();
            assert_eq!(metric == Metric::Cosine, difference < 1e-5, "{lengths:?}");
            assert_eq!(metric == Metric::L2, difference > 0.1, "{lengths:?}");
            // Both find the two clusters.
            let nearest = Members::new(&Alone, &vectors, &centroids).unwrap().nearest;
            let of_first = |kind: usize| {
                let of_kind = nearest.iter().skip(kind).step_by(2);
                of_kind.filter(|nearest| nearest.0 == 0).count()
            };
            assert!(of_first(0).abs_diff(of_first(1)) > 850);
        }
    }

    #[test]
    fn a_sample_is_a_fair_choice() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut hits = [0; 20];
        for _ in 0..2000 {
            let mut sample = Sample::new(1, 5);
            for i in 0..20 {
                sample.show(&[i as f32], &mut rng).unwrap();
            }
            assert_eq!(sample.seen(), 20);
            for value in sample.into_vectors() {
                hits[value as usize] += 1;
            }
        }
        // 500 each, with a standard deviation of 19.
        assert!(hits.iter().all(|&n| (400..600).contains(&n)), "{hits:?}");
    }
}
