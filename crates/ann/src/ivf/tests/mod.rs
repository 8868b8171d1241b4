//! Tests of a whole index in memory.

mod concurrency;
mod damage;
mod fixture;
mod replay;
mod search;
mod vacuum;
