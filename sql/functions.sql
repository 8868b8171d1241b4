-- The functions of the types, behind their operators, casts, aggregates and formats. The library has them without the
-- wrapper that all other functions have (see src/function.rs), so they are declared here.
--
-- In each row, T stands for the type, and the symbol is insitu_T_... in the library.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    type text;
    item record;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        FOR item IN SELECT * FROM (VALUES
            ('T_in', 'cstring, oid, integer', 'T', 'in', true),
            ('T_out', 'T', 'cstring', 'out', true),
            ('T_recv', 'internal, oid, integer', 'T', 'recv', true),
            ('T_send', 'T', 'bytea', 'send', true),
            -- Distances and lengths.
            ('l2_distance', 'T, T', 'double precision', 'l2_distance', true),
            ('T_l2_squared_distance', 'T, T', 'double precision', 'l2_squared_distance', true),
            ('inner_product', 'T, T', 'double precision', 'inner_product', true),
            ('T_negative_inner_product', 'T, T', 'double precision', 'negative_inner_product', true),
            ('cosine_distance', 'T, T', 'double precision', 'cosine_distance', true),
            ('l1_distance', 'T, T', 'double precision', 'l1_distance', true),
            ('T_spherical_distance', 'T, T', 'double precision', 'spherical_distance', false),
            ('l2_normalize', 'T', 'T', 'l2_normalize', true),
            ('vector_dims', 'T', 'integer', 'dims', false),
            -- Arithmetic.
            ('T_add', 'T, T', 'T', 'add', false),
            ('T_sub', 'T, T', 'T', 'sub', false),
            ('T_mul', 'T, T', 'T', 'mul', false),
            ('T_concat', 'T, T', 'T', 'concat', false),
            ('subvector', 'T, integer, integer', 'T', 'subvector', false),
            ('binary_quantize', 'T', 'bit', 'binary_quantize', false),
            -- Comparison.
            ('T_lt', 'T, T', 'boolean', 'lt', true), ('T_le', 'T, T', 'boolean', 'le', true),
            ('T_eq', 'T, T', 'boolean', 'eq', true), ('T_ne', 'T, T', 'boolean', 'ne', true),
            ('T_ge', 'T, T', 'boolean', 'ge', true), ('T_gt', 'T, T', 'boolean', 'gt', true),
            ('T_cmp', 'T, T', 'integer', 'cmp', true),
            -- Aggregates.
            ('T_accum', 'double precision[], T', 'double precision[]', 'accum', false),
            ('T_combine', 'double precision[], double precision[]', 'double precision[]', 'combine', false),
            ('T_avg', 'double precision[]', 'T', 'avg', false),
            -- Casts: to the type of so many dimensions, from arrays and to one.
            ('T', 'T, integer, boolean', 'T', 'to_T', true),
            ('array_to_T', 'integer[], integer, boolean', 'T', 'from_integers', true),
            ('array_to_T', 'real[], integer, boolean', 'T', 'from_reals', true),
            ('array_to_T', 'double precision[], integer, boolean', 'T', 'from_doubles', true),
            ('array_to_T', 'numeric[], integer, boolean', 'T', 'from_numerics', true),
            ('T_to_float4', 'T, integer, boolean', 'real[]', 'to_reals', false)
        ) AS functions (name, arguments, result, symbol, is_of_sparse) LOOP
            CONTINUE WHEN type = 'sparsevec' AND NOT item.is_of_sparse;
            EXECUTE format('CREATE OR REPLACE FUNCTION %s.%I(%s) RETURNS %s
                IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS %L, %L',
                '@extschema@', replace(item.name, 'T', type), replace(item.arguments, 'T', '@extschema@.' || type),
                replace(item.result, 'T', '@extschema@.' || type), 'MODULE_PATHNAME',
                format('insitu_%s_%s', type, replace(item.symbol, 'T', type)));
        END LOOP;
    END LOOP;
    -- What has another name for each type, and what is between two of them.
    FOR item IN SELECT * FROM (VALUES
        ('vector_norm', '@extschema@.vector', 'double precision', 'vector_norm'),
        ('l2_norm', '@extschema@.halfvec', 'double precision', 'halfvec_norm'),
        ('l2_norm', '@extschema@.sparsevec', 'double precision', 'sparsevec_norm'),
        ('hamming_distance', 'bit, bit', 'double precision', 'bit_hamming_distance'),
        ('jaccard_distance', 'bit, bit', 'double precision', 'bit_jaccard_distance')
    ) AS functions (name, arguments, result, symbol) LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %s.%I(%s) RETURNS %s
            IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS %L, %L',
            '@extschema@', item.name, item.arguments, item.result, 'MODULE_PATHNAME', 'insitu_' || item.symbol);
    END LOOP;
    FOR item IN SELECT * FROM (VALUES
        ('halfvec', 'vector'), ('vector', 'halfvec'), ('sparsevec', 'vector'), ('vector', 'sparsevec'),
        ('sparsevec', 'halfvec'), ('halfvec', 'sparsevec')
    ) AS casts (source, target) LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %1$s.%2$I(%1$s.%3$I, integer, boolean) RETURNS %1$s.%4$I
            IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS %5$L, %6$L',
            '@extschema@', format('%s_to_%s', item.source, item.target), item.source, item.target,
            'MODULE_PATHNAME', format('insitu_%s_to_%s', item.source, item.target));
    END LOOP;
END
$$;
SET LOCAL search_path = @extschema@, pg_temp;
