//! The functions behind the operators, casts and aggregates of `vector`. The
//! SQL that names them is in `sql/vector.sql`.

mod aggregates;
mod arithmetic;
mod casts;
mod comparison;
mod distance;
