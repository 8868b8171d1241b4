//! Collections that say that there is no memory for them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

use crate::{OutOfMemory, asking};

/// Makes room for so many more values.
///
/// # Errors
/// [`OutOfMemory`] if there is none; the vector is as it was.
#[inline]
pub fn reserve<T>(vec: &mut Vec<T>, more: usize, what: &'static str) -> Result<(), OutOfMemory> {
    match vec.capacity() - vec.len() >= more {
        true => Ok(()),
        false => grow(vec, more, what),
    }
}

#[cold]
fn grow<T>(vec: &mut Vec<T>, more: usize, what: &'static str) -> Result<(), OutOfMemory> {
    asking(|| vec.try_reserve(more))
        .map_err(|_| OutOfMemory::of::<T>(vec.len().saturating_add(more), what))
}

/// Adds a value.
///
/// # Errors
/// As for [`reserve`].
#[inline]
pub fn push<T>(vec: &mut Vec<T>, value: T, what: &'static str) -> Result<(), OutOfMemory> {
    reserve(vec, 1, what)?;
    vec.push(value);
    Ok(())
}

/// Adds the values of an iterator that knows how many there are at most.
///
/// # Errors
/// As for [`reserve`].
pub fn extend<T>(
    vec: &mut Vec<T>,
    values: impl IntoIterator<Item = T>,
    what: &'static str,
) -> Result<(), OutOfMemory> {
    let values = values.into_iter();
    let (least, most) = values.size_hint();
    reserve(vec, most.unwrap_or(least), what)?;
    for value in values {
        push(vec, value, what)?;
    }
    Ok(())
}

/// The values of an iterator.
///
/// # Errors
/// As for [`reserve`].
pub fn collect<T>(
    values: impl IntoIterator<Item = T>,
    what: &'static str,
) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    extend(&mut vec, values, what)?;
    Ok(vec)
}

/// The values of an iterator of which each may lack memory.
///
/// # Errors
/// As for [`reserve`], and those of the values.
pub fn try_collect<T>(
    values: impl IntoIterator<Item = Result<T, OutOfMemory>>,
    what: &'static str,
) -> Result<Vec<T>, OutOfMemory> {
    let values = values.into_iter();
    let (least, most) = values.size_hint();
    let mut vec = Vec::new();
    reserve(&mut vec, most.unwrap_or(least), what)?;
    for value in values {
        push(&mut vec, value?, what)?;
    }
    Ok(vec)
}

/// So many times the same value.
///
/// # Errors
/// As for [`reserve`].
pub fn filled<T: Clone>(value: T, len: usize, what: &'static str) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    asking(|| vec.try_reserve_exact(len)).map_err(|_| OutOfMemory::of::<T>(len, what))?;
    vec.resize(len, value);
    Ok(vec)
}

/// Makes a vector longer, by so many times the same value.
///
/// # Errors
/// As for [`reserve`].
#[inline]
pub fn lengthen<T: Clone>(
    vec: &mut Vec<T>,
    value: T,
    more: usize,
    what: &'static str,
) -> Result<(), OutOfMemory> {
    reserve(vec, more, what)?;
    vec.resize(vec.len() + more, value);
    Ok(())
}

/// A copy of a slice.
///
/// # Errors
/// As for [`reserve`].
pub fn copied<T: Copy>(values: &[T], what: &'static str) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    asking(|| vec.try_reserve_exact(values.len()))
        .map_err(|_| OutOfMemory::of::<T>(values.len(), what))?;
    vec.extend_from_slice(values);
    Ok(vec)
}

/// Makes room in a map for so many more entries.
///
/// # Errors
/// [`OutOfMemory`] if there is none; the map is as it was.
#[inline]
pub fn reserve_in_map<K: Eq + Hash, V, S: BuildHasher>(
    map: &mut HashMap<K, V, S>,
    more: usize,
    what: &'static str,
) -> Result<(), OutOfMemory> {
    if map.capacity() - map.len() >= more {
        return Ok(());
    }
    let len = map.len().saturating_add(more);
    // A map has places for half as many again as it grows to.
    asking(|| map.try_reserve(more))
        .map_err(|_| OutOfMemory::of::<(K, V)>(len.saturating_mul(2), what))
}

/// The same in a set.
///
/// # Errors
/// As for [`reserve_in_map`].
#[inline]
pub fn reserve_in_set<K: Eq + Hash, S: BuildHasher>(
    set: &mut HashSet<K, S>,
    more: usize,
    what: &'static str,
) -> Result<(), OutOfMemory> {
    if set.capacity() - set.len() >= more {
        return Ok(());
    }
    let len = set.len().saturating_add(more);
    asking(|| set.try_reserve(more)).map_err(|_| OutOfMemory::of::<K>(len.saturating_mul(2), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_room_is_what_it_would_be_anyway() {
        let mut vec = collect([1, 2, 3], "a test").unwrap();
        push(&mut vec, 4, "a test").unwrap();
        lengthen(&mut vec, 7, 2, "a test").unwrap();
        extend(&mut vec, (0..3).filter(|&i| i != 1), "a test").unwrap();
        assert_eq!(vec, [1, 2, 3, 4, 7, 7, 0, 2]);
        assert_eq!(filled(5, 3, "a test").unwrap(), [5, 5, 5]);
        assert_eq!(try_collect([Ok(1), Ok(2)], "a test").unwrap(), [1, 2]);
        assert_eq!(copied(&vec[..2], "a test").unwrap(), [1, 2]);
        let mut map = HashMap::from([(1, 2)]);
        reserve_in_map(&mut map, 100, "a test").unwrap();
        assert!(map.capacity() > 100);
        let mut set = HashSet::from([1]);
        reserve_in_set(&mut set, 100, "a test").unwrap();
        assert!(set.capacity() > 100);
    }

    #[test]
    fn what_has_no_room_says_how_much_it_would_take() {
        let mut vec = vec![1_u64];
        let bytes = |len: usize| Some(8 * len);
        let error = reserve(&mut vec, 1 << 50, "a test").unwrap_err();
        assert_eq!((error.bytes, error.what), (bytes((1 << 50) + 1), "a test"));
        assert_eq!(vec, [1]);
        assert_eq!(try_collect([Ok(1), Err(error)], "a test"), Err(error));
        let error = filled(0_u64, 1 << 50, "a test").unwrap_err();
        assert_eq!(error.bytes, bytes(1 << 50));
        assert_eq!(filled(0_u64, usize::MAX, "a test").unwrap_err().bytes, None);
        assert!(lengthen(&mut vec, 0, usize::MAX, "a test").is_err());
        assert!(reserve_in_map(&mut HashMap::<u64, u64>::new(), 1 << 55, "a test").is_err());
        assert!(reserve_in_set(&mut HashSet::<u64>::new(), 1 << 55, "a test").is_err());
    }
}
