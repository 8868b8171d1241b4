-- The functions behind the operators of distances, for each type. They are called
-- once a row of a sequential scan, so the library has them without the wrapper that
-- all other functions have (see src/operators/distance.rs).
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    type text;
    item record;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        FOR item IN SELECT * FROM (VALUES
            ('l2_distance', 'l2_distance'), (type || '_l2_squared_distance', 'l2_squared_distance'),
            ('inner_product', 'inner_product'), (type || '_negative_inner_product', 'negative_inner_product'),
            ('cosine_distance', 'cosine_distance'), ('l1_distance', 'l1_distance')
        ) AS functions (name, symbol) LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION %5$s.%1$I(%5$s.%2$I, %5$s.%2$I) RETURNS double precision
                IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS %3$L, %4$L',
                item.name, type, 'MODULE_PATHNAME', format('insitu_%s_%s', type, item.symbol), '@extschema@');
        END LOOP;
    END LOOP;
    FOREACH type IN ARRAY ARRAY['hamming', 'jaccard'] LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %4$s.%1$I(bit, bit) RETURNS double precision
            IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS %2$L, %3$L',
            type || '_distance', 'MODULE_PATHNAME', format('insitu_bit_%s_distance', type), '@extschema@');
    END LOOP;
END
$$;
SET LOCAL search_path = @extschema@, pg_temp;
