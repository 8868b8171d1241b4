-- What the types have alike: aggregates, casts, operators and classes.
DO $$
DECLARE
    type text;
    other text;
    item record;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec'] LOOP
        EXECUTE format('CREATE AGGREGATE avg(%1$I) (
            SFUNC = %2$I, STYPE = double precision[], FINALFUNC = %3$I, COMBINEFUNC = %4$I,
            INITCOND = ''{0}'', PARALLEL = SAFE)', type, type || '_accum', type || '_avg', type || '_combine');
        EXECUTE format('CREATE AGGREGATE sum(%1$I) (
            SFUNC = %2$I, STYPE = %1$I, COMBINEFUNC = %2$I, PARALLEL = SAFE)', type, type || '_add');
        FOR item IN SELECT * FROM (VALUES
            ('+', type || '_add', true), ('-', type || '_sub', false),
            ('*', type || '_mul', true), ('||', type || '_concat', false)
        ) AS operators (symbol, function, commutes) LOOP
            EXECUTE format('CREATE OPERATOR %2$s (LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I%4$s)',
                type, item.symbol, item.function,
                CASE WHEN item.commutes THEN ', COMMUTATOR = ' || item.symbol END);
        END LOOP;
    END LOOP;

    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        -- Casts.
        EXECUTE format('CREATE CAST (%1$I AS %1$I)
            WITH FUNCTION %1$I(%1$I, integer, boolean) AS IMPLICIT', type);
        FOREACH other IN ARRAY ARRAY['integer[]', 'real[]', 'double precision[]', 'numeric[]'] LOOP
            EXECUTE format('CREATE CAST (%2$s AS %1$I)
                WITH FUNCTION %3$I(%2$s, integer, boolean) AS ASSIGNMENT', type, other, 'array_to_' || type);
        END LOOP;

        -- Distances.
        FOR item IN SELECT * FROM (VALUES
            ('<->', 'l2_distance'), ('<#>', type || '_negative_inner_product'),
            ('<=>', 'cosine_distance'), ('<+>', 'l1_distance')
        ) AS operators (symbol, function) LOOP
            EXECUTE format('CREATE OPERATOR %2$s (
                LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I, COMMUTATOR = %2$s)',
                type, item.symbol, item.function);
        END LOOP;

        -- Comparison.
        FOR item IN SELECT * FROM (VALUES
            ('<', 'lt', '>', '>=', 'scalarlt'), ('<=', 'le', '>=', '>', 'scalarle'),
            ('=', 'eq', '=', '<>', 'eq'), ('<>', 'ne', '<>', '=', 'neq'),
            ('>=', 'ge', '<=', '<', 'scalarge'), ('>', 'gt', '<', '<=', 'scalargt')
        ) AS operators (symbol, function, commutator, negator, estimator) LOOP
            EXECUTE format('CREATE OPERATOR %2$s (
                LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I, COMMUTATOR = %4$s, NEGATOR = %5$s,
                RESTRICT = %6$I, JOIN = %7$I)',
                type, item.symbol, type || '_' || item.function, item.commutator, item.negator,
                item.estimator || 'sel', item.estimator || 'joinsel');
        END LOOP;
        EXECUTE format('CREATE OPERATOR CLASS %2$I DEFAULT FOR TYPE %1$I USING btree AS
            OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ops', type || '_cmp');
    END LOOP;
END
$$;

-- Between types: implicit and by assignment as in pgvector.
CREATE CAST (vector AS real[])
    WITH FUNCTION vector_to_float4(vector, integer, boolean) AS IMPLICIT;
CREATE CAST (halfvec AS real[])
    WITH FUNCTION halfvec_to_float4(halfvec, integer, boolean) AS ASSIGNMENT;
CREATE CAST (halfvec AS vector)
    WITH FUNCTION halfvec_to_vector(halfvec, integer, boolean) AS ASSIGNMENT;
CREATE CAST (vector AS halfvec)
    WITH FUNCTION vector_to_halfvec(vector, integer, boolean) AS IMPLICIT;
CREATE CAST (sparsevec AS vector)
    WITH FUNCTION sparsevec_to_vector(sparsevec, integer, boolean) AS ASSIGNMENT;
CREATE CAST (vector AS sparsevec)
    WITH FUNCTION vector_to_sparsevec(vector, integer, boolean) AS IMPLICIT;
CREATE CAST (sparsevec AS halfvec)
    WITH FUNCTION sparsevec_to_halfvec(sparsevec, integer, boolean) AS ASSIGNMENT;
CREATE CAST (halfvec AS sparsevec)
    WITH FUNCTION halfvec_to_sparsevec(halfvec, integer, boolean) AS IMPLICIT;

-- Bit strings.
CREATE OPERATOR <~> (
    LEFTARG = bit, RIGHTARG = bit, FUNCTION = hamming_distance, COMMUTATOR = <~>
);
CREATE OPERATOR <%> (
    LEFTARG = bit, RIGHTARG = bit, FUNCTION = jaccard_distance, COMMUTATOR = <%>
);

-- The index. Support function 1 is the distance; function 2, if there is one,
-- says that vectors are normalized.
CREATE ACCESS METHOD hnsw TYPE INDEX HANDLER hnswhandler;
COMMENT ON ACCESS METHOD hnsw IS 'hnsw index access method';

DO $$
DECLARE
    type text;
    norm text;
BEGIN
    FOR type, norm IN VALUES ('vector', 'vector_norm'), ('halfvec', 'l2_norm'), ('sparsevec', 'l2_norm') LOOP
        EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <-> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_l2_ops', type || '_l2_squared_distance');
        EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <#> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ip_ops', type || '_negative_inner_product');
        EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <=> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I), FUNCTION 2 %4$I(%1$I)',
            type, type || '_cosine_ops', type || '_negative_inner_product', norm);
        EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <+> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 l1_distance(%1$I, %1$I)', type, type || '_l1_ops');
    END LOOP;
END
$$;

CREATE OPERATOR CLASS bit_hamming_ops
    FOR TYPE bit USING hnsw AS
    OPERATOR 1 <~> (bit, bit) FOR ORDER BY float_ops,
    FUNCTION 1 hamming_distance(bit, bit);
CREATE OPERATOR CLASS bit_jaccard_ops
    FOR TYPE bit USING hnsw AS
    OPERATOR 1 <%> (bit, bit) FOR ORDER BY float_ops,
    FUNCTION 1 jaccard_distance(bit, bit);

-- Inverted lists, under their own name and under pgvector's.
CREATE ACCESS METHOD ivf TYPE INDEX HANDLER ivfhandler;
COMMENT ON ACCESS METHOD ivf IS 'ivf index access method';
CREATE ACCESS METHOD ivfflat TYPE INDEX HANDLER ivfflathandler;
COMMENT ON ACCESS METHOD ivfflat IS 'ivfflat index access method';

DO $$
DECLARE
    method text;
    type text;
    norm text;
BEGIN
    FOREACH method IN ARRAY ARRAY['ivf', 'ivfflat'] LOOP
        FOR type, norm IN VALUES ('vector', 'vector_norm'), ('halfvec', 'l2_norm') LOOP
            EXECUTE format('CREATE OPERATOR CLASS %2$I %4$s FOR TYPE %1$I USING %5$I AS
                OPERATOR 1 <-> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_l2_ops', type || '_l2_squared_distance',
                CASE type WHEN 'vector' THEN 'DEFAULT' END, method);
            EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING %4$I AS
                OPERATOR 1 <#> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ip_ops', type || '_negative_inner_product', method);
            EXECUTE format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING %5$I AS
                OPERATOR 1 <=> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I), FUNCTION 2 %4$I(%1$I)',
                type, type || '_cosine_ops', type || '_negative_inner_product', norm, method);
        END LOOP;
        EXECUTE format('CREATE OPERATOR CLASS bit_hamming_ops FOR TYPE bit USING %I AS
            OPERATOR 1 <~> (bit, bit) FOR ORDER BY float_ops,
            FUNCTION 1 hamming_distance(bit, bit)', method);
    END LOOP;
END
$$;
