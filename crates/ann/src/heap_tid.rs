//! Rows of a table, as indexes name them.

use std::fmt;

/// The address of a table row: block number × 2^16 + line pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeapTid(pub u64);

/// As PostgreSQL writes a `ctid`.
impl fmt::Display for HeapTid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.0 >> 16, self.0 & 0xffff)
    }
}

impl HeapTid {
    /// The six bytes that matter.
    pub(crate) fn to_bytes(self) -> [u8; 6] {
        let b = self.0.to_le_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }

    /// The address of these bytes.
    pub(crate) fn from_bytes(b: &[u8; 6]) -> Self {
        HeapTid(u64::from_le_bytes([
            b[0], b[1], b[2], b[3], b[4], b[5], 0, 0,
        ]))
    }
}
