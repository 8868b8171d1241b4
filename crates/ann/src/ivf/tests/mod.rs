//! Tests of a whole index in memory.

mod search;
