//! Functions by the names that the SQL of version 0.1.0 calls them by. They go on to
//! work until `ALTER EXTENSION insitu UPDATE`, for sessions, dumps and pg_upgrade (see
//! `release`): each takes and returns what the function of today does.

#![allow(unsafe_code)]

use pgrx::pg_sys;

macro_rules! names {
    ($($earlier:ident => $today:ident;)*) => {
        unsafe extern "C-unwind" {
            $(fn $today(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;)*
        }
        $(const _: () = {
            #[unsafe(export_name = stringify!($earlier))]
            unsafe extern "C-unwind" fn call(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
                // SAFETY: the function is in this library (`function::functions`); the
                // server's call goes on to it as it is.
                unsafe { $today(call) }
            }

            #[unsafe(export_name = concat!("pg_finfo_", stringify!($earlier)))]
            extern "C" fn information() -> &'static pg_sys::Pg_finfo_record {
                &pg_sys::Pg_finfo_record { api_version: 1 }
            }
        };)*
    };
}

names! {
    binary_quantize_wrapper => insitu_vector_binary_quantize;
    doubles_to_halfvec_wrapper => insitu_halfvec_from_doubles;
    doubles_to_sparsevec_wrapper => insitu_sparsevec_from_doubles;
    doubles_to_vector_wrapper => insitu_vector_from_doubles;
    halfvec_accum_wrapper => insitu_halfvec_accum;
    halfvec_add_wrapper => insitu_halfvec_add;
    halfvec_avg_wrapper => insitu_halfvec_avg;
    halfvec_binary_quantize_wrapper => insitu_halfvec_binary_quantize;
    halfvec_cmp_wrapper => insitu_halfvec_cmp;
    halfvec_combine_wrapper => insitu_halfvec_combine;
    halfvec_concat_wrapper => insitu_halfvec_concat;
    halfvec_eq_wrapper => insitu_halfvec_eq;
    halfvec_ge_wrapper => insitu_halfvec_ge;
    halfvec_gt_wrapper => insitu_halfvec_gt;
    halfvec_in_wrapper => insitu_halfvec_in;
    halfvec_l2_norm_wrapper => insitu_halfvec_norm;
    halfvec_l2_normalize_wrapper => insitu_halfvec_l2_normalize;
    halfvec_le_wrapper => insitu_halfvec_le;
    halfvec_lt_wrapper => insitu_halfvec_lt;
    halfvec_mul_wrapper => insitu_halfvec_mul;
    halfvec_ne_wrapper => insitu_halfvec_ne;
    halfvec_out_wrapper => insitu_halfvec_out;
    halfvec_recv_wrapper => insitu_halfvec_recv;
    halfvec_send_wrapper => insitu_halfvec_send;
    halfvec_spherical_distance_wrapper => insitu_halfvec_spherical_distance;
    halfvec_sub_wrapper => insitu_halfvec_sub;
    halfvec_subvector_wrapper => insitu_halfvec_subvector;
    halfvec_to_float4_wrapper => insitu_halfvec_to_reals;
    halfvec_to_halfvec_wrapper => insitu_halfvec_to_halfvec;
    halfvec_to_sparsevec_wrapper => insitu_halfvec_to_sparsevec;
    halfvec_to_vector_wrapper => insitu_halfvec_to_vector;
    halfvec_vector_dims_wrapper => insitu_halfvec_dims;
    integers_to_halfvec_wrapper => insitu_halfvec_from_integers;
    integers_to_sparsevec_wrapper => insitu_sparsevec_from_integers;
    integers_to_vector_wrapper => insitu_vector_from_integers;
    l2_normalize_wrapper => insitu_vector_l2_normalize;
    numerics_to_halfvec_wrapper => insitu_halfvec_from_numerics;
    numerics_to_sparsevec_wrapper => insitu_sparsevec_from_numerics;
    numerics_to_vector_wrapper => insitu_vector_from_numerics;
    reals_to_halfvec_wrapper => insitu_halfvec_from_reals;
    reals_to_sparsevec_wrapper => insitu_sparsevec_from_reals;
    reals_to_vector_wrapper => insitu_vector_from_reals;
    sparsevec_cmp_wrapper => insitu_sparsevec_cmp;
    sparsevec_eq_wrapper => insitu_sparsevec_eq;
    sparsevec_ge_wrapper => insitu_sparsevec_ge;
    sparsevec_gt_wrapper => insitu_sparsevec_gt;
    sparsevec_in_wrapper => insitu_sparsevec_in;
    sparsevec_l2_norm_wrapper => insitu_sparsevec_norm;
    sparsevec_l2_normalize_wrapper => insitu_sparsevec_l2_normalize;
    sparsevec_le_wrapper => insitu_sparsevec_le;
    sparsevec_lt_wrapper => insitu_sparsevec_lt;
    sparsevec_ne_wrapper => insitu_sparsevec_ne;
    sparsevec_out_wrapper => insitu_sparsevec_out;
    sparsevec_recv_wrapper => insitu_sparsevec_recv;
    sparsevec_send_wrapper => insitu_sparsevec_send;
    sparsevec_to_halfvec_wrapper => insitu_sparsevec_to_halfvec;
    sparsevec_to_sparsevec_wrapper => insitu_sparsevec_to_sparsevec;
    sparsevec_to_vector_wrapper => insitu_sparsevec_to_vector;
    subvector_wrapper => insitu_vector_subvector;
    vector_accum_wrapper => insitu_vector_accum;
    vector_add_wrapper => insitu_vector_add;
    vector_avg_wrapper => insitu_vector_avg;
    vector_cmp_wrapper => insitu_vector_cmp;
    vector_combine_wrapper => insitu_vector_combine;
    vector_concat_wrapper => insitu_vector_concat;
    vector_dims_wrapper => insitu_vector_dims;
    vector_eq_wrapper => insitu_vector_eq;
    vector_ge_wrapper => insitu_vector_ge;
    vector_gt_wrapper => insitu_vector_gt;
    vector_in_wrapper => insitu_vector_in;
    vector_le_wrapper => insitu_vector_le;
    vector_lt_wrapper => insitu_vector_lt;
    vector_mul_wrapper => insitu_vector_mul;
    vector_ne_wrapper => insitu_vector_ne;
    vector_norm_wrapper => insitu_vector_norm;
    vector_out_wrapper => insitu_vector_out;
    vector_recv_wrapper => insitu_vector_recv;
    vector_send_wrapper => insitu_vector_send;
    vector_spherical_distance_wrapper => insitu_vector_spherical_distance;
    vector_sub_wrapper => insitu_vector_sub;
    vector_to_float4_wrapper => insitu_vector_to_reals;
    vector_to_halfvec_wrapper => insitu_vector_to_halfvec;
    vector_to_sparsevec_wrapper => insitu_vector_to_sparsevec;
    vector_to_vector_wrapper => insitu_vector_to_vector;
}
