-- Creates an object, unless it was pgvector's and is this extension's by now. Statements that create operators, casts
-- and the like look functions, operators and types up by their exact arguments, so they may name ours without a schema:
-- in the schema of the extension, and before it in the server's.
CREATE FUNCTION insitu.make(statement text) RETURNS void
    LANGUAGE plpgsql SET search_path = @extschema@, pg_temp AS $make$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN duplicate_object OR duplicate_function THEN
    IF pg_catalog.current_setting('insitu.replace_pgvector') OPERATOR(pg_catalog.<>) 'on' THEN
        RAISE;
    END IF;
END
$make$;

SET LOCAL search_path = pg_catalog, pg_temp;
-- What the types have alike: aggregates, casts, operators and classes.
DO $$
DECLARE
    type text;
    other text;
    item record;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec'] LOOP
        PERFORM insitu.make(format('CREATE AGGREGATE avg(%1$I) (
            SFUNC = %2$I, STYPE = double precision[], FINALFUNC = %3$I, COMBINEFUNC = %4$I,
            INITCOND = ''{0}'', PARALLEL = SAFE)', type, type || '_accum', type || '_avg', type || '_combine'));
        PERFORM insitu.make(format('CREATE AGGREGATE sum(%1$I) (
            SFUNC = %2$I, STYPE = %1$I, COMBINEFUNC = %2$I, PARALLEL = SAFE)', type, type || '_add'));
        FOR item IN SELECT * FROM (VALUES
            ('+', type || '_add', true), ('-', type || '_sub', false),
            ('*', type || '_mul', true), ('||', type || '_concat', false)
        ) AS operators (symbol, function, commutes) LOOP
            PERFORM insitu.make(format('CREATE OPERATOR %2$s (LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I%4$s)',
                type, item.symbol, item.function,
                CASE WHEN item.commutes THEN ', COMMUTATOR = ' || item.symbol END));
        END LOOP;
    END LOOP;

    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        -- Casts.
        PERFORM insitu.make(format('CREATE CAST (%1$I AS %1$I)
            WITH FUNCTION %1$I(%1$I, integer, boolean) AS IMPLICIT', type));
        FOREACH other IN ARRAY ARRAY['integer[]', 'real[]', 'double precision[]', 'numeric[]'] LOOP
            PERFORM insitu.make(format('CREATE CAST (%2$s AS %1$I)
                WITH FUNCTION %3$I(%2$s, integer, boolean) AS ASSIGNMENT', type, other, 'array_to_' || type));
        END LOOP;

        -- Distances.
        FOR item IN SELECT * FROM (VALUES
            ('<->', 'l2_distance'), ('<#>', type || '_negative_inner_product'),
            ('<=>', 'cosine_distance'), ('<+>', 'l1_distance')
        ) AS operators (symbol, function) LOOP
            PERFORM insitu.make(format('CREATE OPERATOR %2$s (
                LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I, COMMUTATOR = %2$s)',
                type, item.symbol, item.function));
        END LOOP;

        -- Comparison.
        FOR item IN SELECT * FROM (VALUES
            ('<', 'lt', '>', '>=', 'scalarlt'), ('<=', 'le', '>=', '>', 'scalarle'),
            ('=', 'eq', '=', '<>', 'eq'), ('<>', 'ne', '<>', '=', 'neq'),
            ('>=', 'ge', '<=', '<', 'scalarge'), ('>', 'gt', '<', '<=', 'scalargt')
        ) AS operators (symbol, function, commutator, negator, estimator) LOOP
            PERFORM insitu.make(format('CREATE OPERATOR %2$s (
                LEFTARG = %1$I, RIGHTARG = %1$I, FUNCTION = %3$I, COMMUTATOR = %4$s, NEGATOR = %5$s,
                RESTRICT = %6$I, JOIN = %7$I)',
                type, item.symbol, type || '_' || item.function, item.commutator, item.negator,
                item.estimator || 'sel', item.estimator || 'joinsel'));
        END LOOP;
        PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I DEFAULT FOR TYPE %1$I USING btree AS
            OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ops', type || '_cmp'));
    END LOOP;
END
$$;

DO $$
DECLARE
    source text;
    target text;
    function text;
    context text;
BEGIN
    -- Between types: implicit and by assignment as in pgvector.
    FOR source, target, function, context IN VALUES
        ('vector', 'real[]', 'vector_to_float4', 'IMPLICIT'),
        ('halfvec', 'real[]', 'halfvec_to_float4', 'ASSIGNMENT'),
        ('halfvec', 'vector', 'halfvec_to_vector', 'ASSIGNMENT'),
        ('vector', 'halfvec', 'vector_to_halfvec', 'IMPLICIT'),
        ('sparsevec', 'vector', 'sparsevec_to_vector', 'ASSIGNMENT'),
        ('vector', 'sparsevec', 'vector_to_sparsevec', 'IMPLICIT'),
        ('sparsevec', 'halfvec', 'sparsevec_to_halfvec', 'ASSIGNMENT'),
        ('halfvec', 'sparsevec', 'halfvec_to_sparsevec', 'IMPLICIT')
    LOOP
        PERFORM insitu.make(format('CREATE CAST (%1$s AS %2$s)
            WITH FUNCTION %3$I(%1$s, integer, boolean) AS %4$s', source, target, function, context));
    END LOOP;
    -- Bit strings.
    FOR source, function IN VALUES ('<~>', 'hamming_distance'), ('<%>', 'jaccard_distance') LOOP
        PERFORM insitu.make(format('CREATE OPERATOR %1$s (
            LEFTARG = bit, RIGHTARG = bit, FUNCTION = %2$I, COMMUTATOR = %1$s)', source, function));
    END LOOP;
    -- Access methods.
    FOREACH source IN ARRAY ARRAY['hnsw', 'ivf', 'ivfflat'] LOOP
        PERFORM insitu.make(format('CREATE ACCESS METHOD %I TYPE INDEX HANDLER %I', source, source || 'handler'));
        EXECUTE format('COMMENT ON ACCESS METHOD %I IS %L', source, source || ' index access method');
    END LOOP;
END
$$;

-- Operator classes. Support function 1 is the distance; function 2, if there is one, says that vectors are normalized.
DO $$
DECLARE
    type text;
    norm text;
BEGIN
    FOR type, norm IN VALUES ('vector', 'vector_norm'), ('halfvec', 'l2_norm'), ('sparsevec', 'l2_norm') LOOP
        PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <-> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_l2_ops', type || '_l2_squared_distance'));
        PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <#> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ip_ops', type || '_negative_inner_product'));
        PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <=> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 %3$I(%1$I, %1$I), FUNCTION 2 %4$I(%1$I)',
            type, type || '_cosine_ops', type || '_negative_inner_product', norm));
        PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING hnsw AS
            OPERATOR 1 <+> (%1$I, %1$I) FOR ORDER BY float_ops,
            FUNCTION 1 l1_distance(%1$I, %1$I)', type, type || '_l1_ops'));
    END LOOP;
    PERFORM insitu.make('CREATE OPERATOR CLASS bit_hamming_ops FOR TYPE bit USING hnsw AS
        OPERATOR 1 <~> (bit, bit) FOR ORDER BY float_ops, FUNCTION 1 hamming_distance(bit, bit)');
    PERFORM insitu.make('CREATE OPERATOR CLASS bit_jaccard_ops FOR TYPE bit USING hnsw AS
        OPERATOR 1 <%> (bit, bit) FOR ORDER BY float_ops, FUNCTION 1 jaccard_distance(bit, bit)');
END
$$;

DO $$
DECLARE
    method text;
    type text;
    norm text;
BEGIN
    FOREACH method IN ARRAY ARRAY['ivf', 'ivfflat'] LOOP
        FOR type, norm IN VALUES ('vector', 'vector_norm'), ('halfvec', 'l2_norm') LOOP
            PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I %4$s FOR TYPE %1$I USING %5$I AS
                OPERATOR 1 <-> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_l2_ops', type || '_l2_squared_distance',
                CASE type WHEN 'vector' THEN 'DEFAULT' END, method));
            PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING %4$I AS
                OPERATOR 1 <#> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I)', type, type || '_ip_ops', type || '_negative_inner_product', method));
            PERFORM insitu.make(format('CREATE OPERATOR CLASS %2$I FOR TYPE %1$I USING %5$I AS
                OPERATOR 1 <=> (%1$I, %1$I) FOR ORDER BY float_ops,
                FUNCTION 1 %3$I(%1$I, %1$I), FUNCTION 2 %4$I(%1$I)',
                type, type || '_cosine_ops', type || '_negative_inner_product', norm, method));
        END LOOP;
        PERFORM insitu.make(format('CREATE OPERATOR CLASS bit_hamming_ops FOR TYPE bit USING %I AS
            OPERATOR 1 <~> (bit, bit) FOR ORDER BY float_ops,
            FUNCTION 1 hamming_distance(bit, bit)', method));
    END LOOP;
END
$$;

DROP FUNCTION insitu.make(text);

-- What is left of a pgvector that was taken over: support functions that nothing calls any more, and its indexes.
DO $$
DECLARE
    item record;
BEGIN
    IF current_setting('insitu.replace_pgvector') <> 'on' THEN
        RETURN;
    END IF;
    FOR item IN
        SELECT p.oid::regprocedure AS function, format_type(p.prorettype, NULL) AS result
          FROM pg_proc p
          JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
          JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass
               AND d.refobjid = e.oid AND e.extname = 'insitu'
         WHERE p.probin IS NOT NULL AND p.probin <> 'MODULE_PATHNAME'
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION %s RETURNS %s LANGUAGE c AS %L, %L',
            item.function, item.result, 'MODULE_PATHNAME', 'replaced_wrapper');
    END LOOP;
    FOR item IN
        SELECT c.oid::regclass AS name
          FROM pg_class c JOIN pg_am a ON a.oid = c.relam
         WHERE a.amname IN ('hnsw', 'ivfflat') AND c.relkind = 'i'
         ORDER BY c.oid
    LOOP
        RAISE NOTICE 'rebuilding index %', item.name;
        EXECUTE format('REINDEX INDEX %s', item.name);
    END LOOP;
END
$$;

-- The option `centroids` of an index names a table, by which a restore finds it. The index also depends on the table
-- (src/am/ivf/given.rs): where the name does not lead there any more, because either table or a schema has another name or
-- another schema, the option gets the present one. The function does what the owner of the index may.
CREATE FUNCTION insitu.relation_altered() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    named regclass;
BEGIN
    FOR item IN
        WITH altered AS MATERIALIZED (
            SELECT e.classid, e.objid FROM pg_event_trigger_ddl_commands() e WHERE e.objsubid = 0),
        indexes (oid) AS (
            SELECT d.objid FROM altered a
              JOIN pg_depend d ON d.refclassid = a.classid AND d.refobjid = a.objid
             WHERE a.classid = 'pg_class'::regclass AND d.classid = a.classid AND d.deptype = 'n'
            UNION
            SELECT i.indexrelid FROM altered a JOIN pg_index i ON i.indrelid = a.objid
             WHERE a.classid = 'pg_class'::regclass
            UNION
            SELECT c.oid FROM pg_class c
             WHERE c.relkind = 'i' AND c.reloptions IS NOT NULL
               AND EXISTS (SELECT FROM altered a WHERE a.classid = 'pg_namespace'::regclass))
        SELECT format('%I.%I', s.nspname, c.relname) AS name, n.nspname AS nearby,
               pg_catalog.substr(o.option, 11) AS given, t.oid AS leads_to, format('%I.%I', l.nspname, t.relname) AS present
          FROM indexes x
          JOIN pg_class c ON c.oid = x.oid
          JOIN pg_namespace s ON s.oid = c.relnamespace
          JOIN pg_am m ON m.oid = c.relam AND m.amname IN ('ivf', 'ivfflat')
          JOIN pg_index i ON i.indexrelid = c.oid
          JOIN pg_opclass k ON k.oid = i.indclass[0]
          JOIN pg_class h ON h.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = h.relnamespace
          JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = d.classid
               AND d.refobjsubid = 0 AND d.deptype = 'n' AND d.refobjid <> i.indrelid
          JOIN pg_class t ON t.oid = d.refobjid
          JOIN pg_namespace l ON l.oid = t.relnamespace,
               unnest(c.reloptions) o (option)
         WHERE starts_with(o.option, 'centroids=') AND c.relpersistence <> 't'
           AND 1 = (SELECT count(*) FROM pg_attribute a
                     WHERE a.attrelid = t.oid AND a.atttypid = k.opcintype AND a.attnum > 0 AND NOT a.attisdropped)
    LOOP
        BEGIN
            named := to_regclass(CASE array_length(parse_ident(item.given), 1)
                                 WHEN 1 THEN format('%I.%s', item.nearby, item.given) ELSE item.given END);
        EXCEPTION WHEN invalid_parameter_value OR syntax_error OR feature_not_supported THEN
            -- What its owner has written there is no name. That is told when the index is built, and nobody else's concern.
            CONTINUE;
        END;
        IF named IS DISTINCT FROM item.leads_to::regclass THEN
            EXECUTE format('ALTER INDEX %s SET (centroids = %L)', item.name, item.present);
        END IF;
    END LOOP;
END
$$;
CREATE EVENT TRIGGER insitu_relation_altered ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE')
    EXECUTE FUNCTION insitu.relation_altered();
ALTER EVENT TRIGGER insitu_relation_altered ENABLE ALWAYS;

-- A client that creates the extension `vector` finds it where insitu is.
CREATE FUNCTION insitu.extension_asked_for() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'extension_asked_for_wrapper';
CREATE EVENT TRIGGER insitu_extension_asked_for ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION')
    EXECUTE FUNCTION insitu.extension_asked_for();
ALTER EVENT TRIGGER insitu_extension_asked_for ENABLE ALWAYS;

-- The extension `vector`, which clients of pgvector create when they start, stands for this one. Where it is there, it
-- depends on this one from now on. Where it is not, the server's files say what becomes of such a client: our own make
-- it when the client asks, pgvector's would fail because its types are there already, so it is made now.
CREATE FUNCTION insitu.leave_vector(schema oid, version text) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'leave_vector_wrapper';
DO $$
DECLARE
    pgvector text;
    description text := 'stands for insitu, for clients that create the extension vector';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        SELECT default_version INTO pgvector FROM pg_available_extensions()
         WHERE name = 'vector' AND comment IS DISTINCT FROM description;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        PERFORM insitu.leave_vector('@extschema@'::regnamespace,
                                    CASE WHEN pgvector LIKE '0.8.%' THEN pgvector ELSE '0.8.6' END);
    ELSE
        PERFORM insitu.tie_vector();
    END IF;
    EXECUTE format('COMMENT ON EXTENSION vector IS %L', description);
END
$$;
DROP FUNCTION insitu.leave_vector(oid, text);
SET LOCAL search_path = @extschema@, pg_temp;
