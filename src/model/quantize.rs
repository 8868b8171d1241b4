//! `insitu.quantize_model`.

use std::time::{Duration, Instant};

use encoder::{Precision, QuantizeOptions};
use pgrx::JsonB;
use pgrx::prelude::*;

use super::{catalog, load, session, unwrap_model};
use crate::errors::raise_with_hint;

/// How long it may be silent about its progress.
const SILENCE: Duration = Duration::from_secs(3);

/// Makes a smaller model of a loaded one: `precision` is fp16, int8 or int4, and
/// the keys of `options` are `scheme` (linear, affine, kmeans) and `block`.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn quantize_model(source: &str, target: &str, precision: &str, options: default!(JsonB, "'{}'")) {
    catalog::check_writable(c"insitu.quantize_model()");
    load::check_name(target);
    let Some(precision) = Precision::from_name(precision).filter(|&p| p != Precision::Fp32) else {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("there is no precision \"{precision}\""),
            "It is fp16, int8 or int4.",
        );
    };
    let options = unwrap_model(QuantizeOptions::from_json(&options.0.to_string()));
    let model = session::stored(source);
    let smaller = session::uninterrupted(|| {
        let mut told = Instant::now();
        encoder::quantize(&model, precision, &options, &mut |done, count| {
            if told.elapsed() > SILENCE {
                told = Instant::now();
                pgrx::notice!("quantizing model \"{source}\": {done} of {count} nodes");
            }
            !session::interrupted()
        })
    });
    load::store(target, &smaller);
}
