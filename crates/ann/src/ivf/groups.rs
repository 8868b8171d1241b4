//! Vectors by their lists.

use memory::OutOfMemory;
use memory::vec::{copied, filled};

/// Numbers of vectors, those of the first list first; in a list, in their order.
pub struct Groups {
    order: Vec<u32>,
    /// Where each list's begin; one more, where the last one's end.
    starts: Vec<usize>,
}

impl Groups {
    /// The groups of vectors whose lists are given; there are `count` lists.
    pub fn new(
        lists: impl ExactSizeIterator<Item = u32> + Clone,
        count: usize,
    ) -> Result<Self, OutOfMemory> {
        const WHAT: &str = "the order of vectors by their lists";
        let mut ends = filled(0, count + 1, WHAT)?;
        for list in lists.clone() {
            ends[list as usize + 1] += 1;
        }
        for i in 0..count {
            ends[i + 1] += ends[i];
        }
        let starts = copied(&ends, WHAT)?;
        let mut order = filled(0, lists.len(), WHAT)?;
        for (number, list) in (0_u32..).zip(lists) {
            let end = &mut ends[list as usize];
            order[*end] = number;
            *end += 1;
        }
        Ok(Groups { order, starts })
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The numbers of a list's vectors.
    pub fn of(&self, list: usize) -> &[u32] {
        &self.order[self.starts[list]..self.starts[list + 1]]
    }

    /// Where each list's begin in [`Groups::order`], and where the last one's end.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The numbers of all vectors.
    pub fn order(&self) -> &[u32] {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vector_is_in_its_list_in_order() {
        let lists = [3_u32, 0, 3, 1, 0, 3];
        let groups = Groups::new(lists.into_iter(), 5).unwrap();
        assert_eq!(groups.len(), 5);
        let found: Vec<&[u32]> = (0..5).map(|list| groups.of(list)).collect();
        assert_eq!(found, [&[1, 4][..], &[3], &[], &[0, 2, 5], &[]]);
        assert_eq!(groups.order(), [1, 4, 3, 0, 2, 5]);
        assert_eq!(Groups::new([].into_iter(), 2).unwrap().of(1), []);
    }
}
