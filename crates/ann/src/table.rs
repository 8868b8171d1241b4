//! Large tables that are read at random.
//!
//! A processor remembers the addresses of some thousand pages. In a table of many more,
//! nearly every read also waits for a walk through page tables, unless pages are large:
//! so the system is asked for huge ones (`MADV_HUGEPAGE` of madvise(2)). Whether it has
//! any is its own affair, and changes nothing but the time that reads take.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;
use memmap2::{MmapMut, MmapRaw};
use memory::OutOfMemory;

/// A table of a fixed number of entries, all zero at first. Pages of it that are
/// never written to take no memory.
pub struct Table<T> {
    memory: MmapRaw,
    len: usize,
    _entries: PhantomData<T>,
}

impl<T: Zeroable> Table<T> {
    /// A table of `len` entries; an error where the system has no memory for them, which
    /// says what they are for.
    pub fn zeroed(len: usize, what: &'static str) -> Result<Self, OutOfMemory> {
        const {
            assert!(!std::mem::needs_drop::<T>());
            assert!(align_of::<T>() <= 4096);
        }
        let refused = OutOfMemory::of::<T>(len, what);
        let memory = MmapMut::map_anon(refused.bytes.ok_or(refused)?);
        let memory = MmapRaw::from(memory.map_err(|_| refused)?);
        // A kernel without huge pages says so; then they are small.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Table {
            memory,
            len,
            _entries: PhantomData,
        })
    }
}

impl<T: Zeroable> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory has so many bytes, begins at a page, and was zero before
        // entries were written, which zeroes are too. It is borrowed with the table.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Zeroable> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the table is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn entries_are_zero_and_then_what_was_written() {
        for len in [0, 1, 511, 512, 1 << 20] {
            let mut table = Table::<u64>::zeroed(len, "a test").unwrap();
            assert_eq!(table.len(), len);
            assert!(table.iter().all(|&entry| entry == 0));
            (0..)
                .zip(table.iter_mut())
                .for_each(|(i, entry)| *entry = i);
            assert!((0..).zip(table.iter()).all(|(i, &entry)| entry == i));
        }
    }

    #[test]
    fn threads_share_atomic_entries() {
        let table = Table::<AtomicU64>::zeroed(1000, "a test").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    table
                        .iter()
                        .for_each(|e| _ = e.fetch_add(1, Ordering::Relaxed))
                });
            }
        });
        assert!(table.iter().all(|e| e.load(Ordering::Relaxed) == 2));
    }

    #[test]
    fn what_no_memory_holds_is_an_error() {
        let bytes = |len| Table::<u64>::zeroed(len, "a test").err().map(|e| e.bytes);
        assert_eq!(bytes(usize::MAX / 16), Some(Some(usize::MAX / 16 * 8)));
        assert_eq!(bytes(usize::MAX), Some(None));
    }
}
