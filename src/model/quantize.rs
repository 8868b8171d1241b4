//! `insitu.quantize_model`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use encoder::{Precision, QuantizeOptions};
use pgrx::prelude::*;

use super::{catalog, load, session, unwrap_model};
use crate::encoding::{JsonbText, Text};
use crate::errors::{notice, quoted, raise_with_hint};

/// How long it may be silent about its progress.
const SILENCE: Duration = Duration::from_secs(3);

/// Makes a smaller model of a loaded one: `precision` is fp16, int8 or int4, and
/// the keys of `options` are `scheme` (linear, affine, kmeans) and `block`.
#[pg_extern(schema = "insitu", volatile, parallel_unsafe, strict)]
fn quantize_model(
    source: Text<'_>,
    target: Text<'_>,
    precision: Text<'_>,
    options: default!(JsonbText<'_>, "'{}'"),
) {
    catalog::check_writable(c"insitu.quantize_model()");
    load::check_name(&target);
    let Some(precision) = Precision::from_name(&precision).filter(|&p| p != Precision::Fp32) else {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("there is no precision \"{}\"", quoted(&precision)),
            "It is fp16, int8 or int4.",
        );
    };
    let options = unwrap_model(QuantizeOptions::from_json(options.0));
    let model = session::stored(&source);
    if model.settings.precision != Precision::Fp32 {
        raise_with_hint(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "model \"{}\" is of {}, but only a model of fp32 can be quantized",
                &*source,
                model.settings.precision.name()
            ),
            "Name the model that it was made of.",
        );
    }
    let (done, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut told = Instant::now();
    let smaller = session::uninterrupted_with(
        || {
            encoder::quantize(&model, precision, &options, &mut |now, of| {
                done.store(now, Ordering::Relaxed);
                count.store(of, Ordering::Relaxed);
                !session::interrupted()
            })
        },
        || {
            if told.elapsed() > SILENCE {
                told = Instant::now();
                let (done, count) = (done.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
                let message = format!("quantizing model \"{}\": {done} of {count} nodes", &*source);
                notice(message, None, None);
            }
        },
    );
    load::store(&target, smaller);
}
