//! How much of one model another one keeps.

use memory::vec;

use crate::error::Error;
use crate::operators::{Isa, dot};
use crate::pooling::scale_to_length_one;

/// The most rows whose neighbours are looked for.
const MOST_QUERIES: usize = 1_000;

/// What memory is asked for.
const ROWS: &str = "the comparison of vectors";

/// What [`compare`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Of each row, the cosine of the two vectors, ascending; `None` if they have
    /// different dimensions.
    pub cosines: Option<Vec<f64>>,
    /// The part of the `k` nearest neighbours by the reference that the model
    /// finds among its own `k`.
    pub recall: f64,
}

impl Comparison {
    /// The mean of the cosines.
    pub fn mean(&self) -> Option<f64> {
        let cosines = self.cosines.as_ref()?;
        Some(cosines.iter().sum::<f64>() / cosines.len() as f64)
    }

    /// The cosine that one row in a hundred has at most.
    pub fn first_percentile(&self) -> Option<f64> {
        let cosines = self.cosines.as_ref()?;
        cosines.get(cosines.len().saturating_sub(1) / 100).copied()
    }
}

/// The cosine of two vectors, in `f64`.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Compares the vectors of the same texts by a model and by a reference: each a
/// slice of rows, with the number of their components.
///
/// Neighbours are those of highest cosine, of up to 1,000 rows spread evenly,
/// among all other rows. `interrupted` is asked now and then.
///
/// # Errors
/// [`Error::Argument`] if there are not more than `k` rows; [`Error::Interrupted`].
pub fn compare(
    model: (&[f32], usize),
    reference: (&[f32], usize),
    k: usize,
    interrupted: fn() -> bool,
) -> Result<Comparison, Error> {
    let (ours, theirs) = (Rows::new(model)?, Rows::new(reference)?);
    let count = ours.count().min(theirs.count());
    if k == 0 || count <= k {
        return Err(Error::Argument {
            reason: format!("k is {k}, but must be at least 1 and less than the {count} texts"),
        });
    }
    let cosines = match ours.dimension == theirs.dimension {
        true => {
            let of_row = |row: usize| f64::from(dot(ours.isa, ours.row(row), theirs.row(row)));
            let mut cosines = vec::collect((0..count).map(of_row), ROWS)?;
            cosines.sort_unstable_by(f64::total_cmp);
            Some(cosines)
        }
        false => None,
    };
    let queries = count.min(MOST_QUERIES);
    let mut found = 0;
    for query in 0..queries {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let row = query * count / queries;
        let expected = theirs.nearest(row, k)?;
        found += ours
            .nearest(row, k)?
            .iter()
            .filter(|&near| expected.contains(near))
            .count();
    }
    Ok(Comparison {
        cosines,
        recall: found as f64 / (queries * k) as f64,
    })
}

/// Vectors of length 1.
struct Rows {
    values: Vec<f32>,
    dimension: usize,
    isa: Isa,
}

impl Rows {
    fn new((values, dimension): (&[f32], usize)) -> Result<Self, Error> {
        let mut values = vec::copied(values, ROWS)?;
        values
            .chunks_exact_mut(dimension)
            .for_each(scale_to_length_one);
        Ok(Rows {
            values,
            dimension,
            isa: Isa::best(),
        })
    }

    fn count(&self) -> usize {
        self.values.len() / self.dimension
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimension..][..self.dimension]
    }

    /// The `k` nearest rows to a row, without itself.
    fn nearest(&self, row: usize, k: usize) -> Result<Vec<usize>, Error> {
        let others = (0..self.count()).filter(|&other| other != row);
        let near = others.map(|other| (dot(self.isa, self.row(row), self.row(other)), other));
        let mut near = vec::collect(near, ROWS)?;
        let by_cosine =
            |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        near.select_nth_unstable_by(k - 1, by_cosine);
        Ok(near[..k].iter().map(|&(_, other)| other).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::compare;

    /// Points on a circle, a degree apart.
    fn circle(count: u16, dimension: usize) -> Vec<f32> {
        (0..count)
            .flat_map(|i| {
                let angle = f32::from(i).to_radians();
                let mut row = vec![0.0; dimension];
                (row[0], row[1]) = (3.0 * angle.cos(), 3.0 * angle.sin());
                row
            })
            .collect()
    }

    #[test]
    fn a_model_keeps_itself_whole() {
        let rows = circle(50, 2);
        let found = compare((&rows, 2), (&rows, 2), 4, || false).expect("compare");
        assert_eq!(found.recall, 1.0);
        assert!((found.mean().expect("mean") - 1.0).abs() < 1e-6);
        // Neighbours are compared whatever the dimensions.
        let wider = circle(50, 3);
        let found = compare((&wider, 3), (&rows, 2), 4, || false).expect("compare");
        assert_eq!((found.recall, found.cosines), (1.0, None));
    }

    #[test]
    fn what_was_lost_is_told() {
        let rows = circle(50, 2);
        let mut other = rows.clone();
        // Two rows change places: their own neighbours are lost.
        for i in 0..2 {
            other.swap(20 + i, 80 + i);
        }
        let found = compare((&other, 2), (&rows, 2), 2, || false).expect("compare");
        assert!(
            found.recall > 0.8 && found.recall < 0.95,
            "{}",
            found.recall
        );
        let expected = f64::from(30_f32.to_radians().cos());
        assert!((found.first_percentile().expect("p1") - expected).abs() < 1e-5);
    }

    #[test]
    fn k_must_be_less_than_the_rows() {
        let rows = circle(3, 2);
        for k in [0, 3, 10] {
            assert!(compare((&rows, 2), (&rows, 2), k, || false).is_err());
        }
        assert!(compare((&rows, 2), (&rows, 2), 1, || true).is_err());
    }
}
