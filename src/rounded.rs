//! Numbers as people read them: the functions that inspect return no digits that mean
//! nothing.

/// `value` rounded to `places` decimal places; NaN and infinities stay as they are.
pub fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    let scaled = value * scale;
    if scaled.is_finite() {
        scaled.round() / scale
    } else {
        value
    }
}
