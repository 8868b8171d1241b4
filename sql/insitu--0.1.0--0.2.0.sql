-- Brings the extension of a database from version 0.1.0 to 0.2.0: ALTER EXTENSION insitu UPDATE. What is here stays as
-- it is: it ends in what the installation script of 0.2.0 makes (tests/test_upgrade.py).
\echo Use "ALTER EXTENSION insitu UPDATE" to load this file. \quit

-- As in the installation script, nothing is looked up in a schema that others may write to.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Nobody uses models or writes to tables that are embedded meanwhile.
LOCK TABLE insitu.model, insitu.model_part, insitu.model_grant IN ACCESS EXCLUSIVE MODE;

-- The functions of the types have no names for their arguments any more, which CREATE OR REPLACE FUNCTION would not take
-- away; the functions themselves have to stay, because columns, indexes and views refer to them.
UPDATE pg_proc SET proargnames = NULL
 WHERE pronamespace = '@extschema@'::regnamespace AND proargmodes IS NULL AND proargnames IS NOT NULL
   AND probin IS NOT NULL
   AND oid IN (SELECT d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
                  AND e.extname = 'insitu');

-- The functions of the types, behind their operators, casts, aggregates and formats. The library has them without the
-- wrapper that all other functions have (see src/function.rs), so they are declared here.
--
-- In each row, T stands for the type, and the symbol is insitu_T_... in the library.
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
CREATE OR REPLACE FUNCTION @extschema@.vector_typmod_in(list cstring[]) RETURNS integer
    IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', 'vector_typmod_in_wrapper';
CREATE OR REPLACE FUNCTION @extschema@.halfvec_typmod_in(list cstring[]) RETURNS integer
    IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', 'halfvec_typmod_in_wrapper';
CREATE OR REPLACE FUNCTION @extschema@.sparsevec_typmod_in(list cstring[]) RETURNS integer
    IMMUTABLE STRICT PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', 'sparsevec_typmod_in_wrapper';

-- Models. Their files get a place of their own, each under its SHA-256, and roles the type that is dumped by name.
CREATE FUNCTION insitu.earlier_file_sha256(model text, kind text) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'earlier_file_sha256_wrapper';
CREATE TABLE insitu.earlier_file AS
    SELECT p.model, p.file AS kind, insitu.earlier_file_sha256(p.model, p.file) AS sha256, count(*)::integer AS parts
      FROM insitu.model_part p GROUP BY p.model, p.file;
DROP FUNCTION insitu.earlier_file_sha256(text, text);

DROP VIEW insitu.models;
ALTER EXTENSION insitu DROP TABLE insitu.model;
ALTER EXTENSION insitu DROP TABLE insitu.model_part;
ALTER EXTENSION insitu DROP TABLE insitu.model_grant;
ALTER TABLE insitu.model RENAME TO earlier_model;
ALTER TABLE insitu.model_part RENAME TO earlier_model_part;
ALTER TABLE insitu.model_grant RENAME TO earlier_model_grant;
ALTER INDEX insitu.model_pkey RENAME TO earlier_model_pkey;
ALTER INDEX insitu.model_part_pkey RENAME TO earlier_model_part_pkey;
ALTER INDEX insitu.model_grant_pkey RENAME TO earlier_model_grant_pkey;

-- A role, as regrole has it, but what is written is its name alone and never its number, which is another role's in
-- another cluster. A dump that names a role which the other cluster lacks is restored all the same: it stands for nobody
-- there. 0, written "-", is PUBLIC; a negative number stands for a name that was unknown.
CREATE TYPE insitu.role;
CREATE FUNCTION insitu.role_in(cstring) RETURNS insitu.role
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'role_in_wrapper';
CREATE FUNCTION insitu.role_out(insitu.role) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'role_out_wrapper';
CREATE TYPE insitu.role (INPUT = insitu.role_in, OUTPUT = insitu.role_out, LIKE = bigint);
CREATE CAST (insitu.role AS bigint) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (bigint AS insitu.role) WITHOUT FUNCTION;
CREATE FUNCTION insitu.role_to_regrole(insitu.role) RETURNS regrole
    IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN $1::bigint OPERATOR(pg_catalog.>=) 0 THEN $1::bigint::oid::regrole END;
CREATE CAST (insitu.role AS regrole) WITH FUNCTION insitu.role_to_regrole(insitu.role) AS ASSIGNMENT;

-- Models. A dump holds the rows of all three tables. They have no foreign keys: a restore with several jobs brings the
-- tables in any order.
--
-- The files of models, a graph or a tokenizer each, in parts that count from 1. Models share those that are equal.
CREATE TABLE insitu.model_part (
    file text COLLATE "C",
    part integer,
    data bytea NOT NULL,
    PRIMARY KEY (file, part)
);
-- Weights do not compress.
ALTER TABLE insitu.model_part ALTER data SET STORAGE EXTERNAL;

CREATE TABLE insitu.model (
    -- The name may change.
    id uuid NOT NULL UNIQUE DEFAULT pg_catalog.gen_random_uuid(),
    name text COLLATE "C" PRIMARY KEY,
    sha256 text NOT NULL,
    settings jsonb NOT NULL,
    graph text COLLATE "C" NOT NULL,
    graph_parts integer NOT NULL,
    tokenizer text COLLATE "C" NOT NULL,
    tokenizer_parts integer NOT NULL,
    bytes bigint NOT NULL,
    owner insitu.role NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE insitu.model_grant (
    model uuid,
    grantee insitu.role,
    PRIMARY KEY (model, grantee)
);

SELECT pg_catalog.pg_extension_config_dump('insitu.model_part', '');
SELECT pg_catalog.pg_extension_config_dump('insitu.model', '');
-- A grant to a role that was dropped ends there.
SELECT pg_catalog.pg_extension_config_dump('insitu.model_grant',
    'WHERE grantee::bigint OPERATOR(pg_catalog.=) 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles r'
    ' WHERE r.oid::bigint OPERATOR(pg_catalog.=) grantee::bigint)');
-- The owner of a database may be no superuser, and dumps it.
GRANT SELECT ON insitu.model_part, insitu.model, insitu.model_grant TO pg_database_owner;

-- Sessions remember what a name means until these tables change. Whoever changes them: a subscription applies row by
-- row, without triggers for statements, and as a replica, for which triggers are off but for those that are always on.
CREATE TRIGGER model_changed
    AFTER INSERT OR UPDATE OR DELETE ON insitu.model
    FOR EACH ROW EXECUTE FUNCTION insitu.model_changed();
CREATE TRIGGER models_gone
    AFTER TRUNCATE ON insitu.model
    FOR EACH STATEMENT EXECUTE FUNCTION insitu.model_changed();
CREATE TRIGGER model_changed
    AFTER INSERT OR UPDATE OR DELETE ON insitu.model_grant
    FOR EACH ROW EXECUTE FUNCTION insitu.model_changed();
CREATE TRIGGER models_gone
    AFTER TRUNCATE ON insitu.model_grant
    FOR EACH STATEMENT EXECUTE FUNCTION insitu.model_changed();
ALTER TABLE insitu.model ENABLE ALWAYS TRIGGER model_changed, ENABLE ALWAYS TRIGGER models_gone;
ALTER TABLE insitu.model_grant ENABLE ALWAYS TRIGGER model_changed, ENABLE ALWAYS TRIGGER models_gone;

INSERT INTO insitu.model_part (file, part, data)
    SELECT f.sha256, p.part + 1, p.data
      FROM insitu.earlier_model_part p
      -- Models share files that are equal: of each the parts of one model.
      JOIN (SELECT DISTINCT ON (sha256) model, kind, sha256 FROM insitu.earlier_file ORDER BY sha256, model, kind) f
        ON f.model = p.model AND f.kind = p.file
     ORDER BY f.sha256, p.part;
INSERT INTO insitu.model (name, sha256, settings, graph, graph_parts, tokenizer, tokenizer_parts, bytes, owner, loaded_at)
    SELECT m.name, m.sha256, m.settings, coalesce(g.sha256, ''), coalesce(g.parts, 0), coalesce(t.sha256, ''),
           coalesce(t.parts, 0), m.bytes, m.owner::oid::bigint::insitu.role, m.loaded_at
      FROM insitu.earlier_model m
      LEFT JOIN insitu.earlier_file g ON g.model = m.name AND g.kind = 'graph'
      LEFT JOIN insitu.earlier_file t ON t.model = m.name AND t.kind = 'tokenizer'
     ORDER BY m.loaded_at, m.name;
-- A grant to a role that was dropped ends here.
INSERT INTO insitu.model_grant (model, grantee)
    SELECT m.id, g.grantee::oid::bigint::insitu.role
      FROM insitu.earlier_model_grant g JOIN insitu.model m ON m.name = g.model
     WHERE g.grantee::oid = 0 OR g.grantee::oid IN (SELECT oid FROM pg_roles);
DROP TABLE insitu.earlier_file, insitu.earlier_model_grant, insitu.earlier_model_part, insitu.earlier_model;

-- Whatever the settings of one model are, the others can be seen.
CREATE VIEW insitu.models AS
    SELECT name, sha256,
           settings OPERATOR(pg_catalog.->>) 'architecture' AS architecture,
           CASE WHEN settings OPERATOR(pg_catalog.->>) 'dimension' OPERATOR(pg_catalog.~) '^\d{1,9}$'
                THEN (settings OPERATOR(pg_catalog.->>) 'dimension')::integer END AS dimension,
           CASE WHEN settings OPERATOR(pg_catalog.->>) 'max_tokens' OPERATOR(pg_catalog.~) '^\d{1,9}$'
                THEN (settings OPERATOR(pg_catalog.->>) 'max_tokens')::integer END AS max_tokens,
           settings OPERATOR(pg_catalog.->>) 'pooling' AS pooling,
           CASE WHEN settings OPERATOR(pg_catalog.->>) 'normalize' OPERATOR(pg_catalog.~) '^(true|false)$'
                THEN (settings OPERATOR(pg_catalog.->>) 'normalize')::boolean END AS normalize,
           settings OPERATOR(pg_catalog.->>) 'query_prefix' AS query_prefix,
           settings OPERATOR(pg_catalog.->>) 'passage_prefix' AS passage_prefix,
           settings OPERATOR(pg_catalog.->>) 'precision' AS precision,
           bytes, owner::regrole AS owner, loaded_at
      FROM insitu.model;
GRANT SELECT ON insitu.models TO PUBLIC;

CREATE VIEW insitu.model_grants AS
    SELECT m.name AS model, g.grantee::regrole AS grantee
      FROM insitu.model_grant g JOIN insitu.model m ON m.id OPERATOR(pg_catalog.=) g.model
     WHERE g.grantee::bigint OPERATOR(pg_catalog.>=) 0;
GRANT SELECT ON insitu.model_grants TO PUBLIC;


-- Functions of the schema insitu that are new, and one that returns more.
CREATE FUNCTION insitu.drop_model(name text, force boolean) RETURNS void
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'drop_model_by_force_wrapper';
REVOKE EXECUTE ON FUNCTION insitu.drop_model(text, boolean) FROM PUBLIC;
CREATE FUNCTION insitu.explain_search(index regclass, query text, k integer DEFAULT 10) RETURNS TABLE (
        step text, vertices bigint, neighbours bigint, pages bigint, rows bigint, microseconds double precision)
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'explain_search_of_text_wrapper';
DROP FUNCTION insitu.index_stats(regclass);
CREATE FUNCTION insitu.index_stats(index regclass) RETURNS TABLE (
        lists bigint, empty_lists bigint, longest_list bigint, rows bigint, rows_when_built bigint,
        drift double precision, storage text, blurred double precision)
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'index_stats_wrapper';
CREATE FUNCTION insitu.tie_vector() RETURNS void STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'tie_vector_wrapper';
CREATE FUNCTION insitu.version() RETURNS TABLE (
        extension text, library text, pgvector text, postgresql text, simd text, onnxruntime text,
        onnxruntime_path text, onnxruntime_error text, execution_providers text[])
    STRICT STABLE PARALLEL RESTRICTED LANGUAGE c AS 'MODULE_PATHNAME', 'version_wrapper';

-- Tables that keep themselves embedded, and tables that are embedded in bulk.
CREATE FUNCTION insitu.embedded_columns(trigger oid) RETURNS smallint[]
    STRICT STABLE PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', 'embedded_columns_wrapper';
DROP VIEW insitu.embed_progress;
DROP FUNCTION insitu.note_embed_job(regclass, text, bigint, bigint, timestamptz);
DROP FUNCTION insitu.check_columns(regclass, name, name, text);
DROP TABLE insitu.embed_job;
CREATE FUNCTION insitu.embed_jobs() RETURNS TABLE (
        pid integer, relation oid, model bytea, rows_done bigint, rows_total bigint, started_at timestamptz)
    STRICT PARALLEL RESTRICTED LANGUAGE c AS 'MODULE_PATHNAME', 'embed_jobs_wrapper';

CREATE OR REPLACE FUNCTION insitu.embed_row() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'embed_row_wrapper';

CREATE OR REPLACE FUNCTION insitu.auto_embed(target pg_catalog.regclass, text_column pg_catalog.name,
                                  vector_column pg_catalog.name, model pg_catalog.text) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'auto_embed_wrapper';

CREATE OR REPLACE FUNCTION insitu.drop_auto_embed(target pg_catalog.regclass, vector_column pg_catalog.name) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_auto_embed_wrapper';

CREATE OR REPLACE FUNCTION insitu.trigger_created() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'trigger_created_wrapper';
CREATE EVENT TRIGGER insitu_trigger_created ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER')
    EXECUTE FUNCTION insitu.trigger_created();
ALTER EVENT TRIGGER insitu_trigger_created ENABLE ALWAYS;

-- A trigger of a partition belongs to that of its table. The model is the trigger's one argument, with a closing zero.
CREATE VIEW insitu.auto_embeds AS
    SELECT t.tgrelid::pg_catalog.regclass AS relation, b.attname AS text_column, v.attname AS vector_column,
           pg_catalog.convert_from(pg_catalog.rtrim(t.tgargs, '\x00'), pg_catalog.getdatabaseencoding()) AS model,
           t.tgname AS trigger
      FROM pg_catalog.pg_trigger t
      CROSS JOIN LATERAL insitu.embedded_columns(t.oid) AS c (numbers)
      JOIN pg_catalog.pg_attribute b
        ON b.attrelid OPERATOR(pg_catalog.=) t.tgrelid AND b.attnum OPERATOR(pg_catalog.=) c.numbers[1]
      JOIN pg_catalog.pg_attribute v
        ON v.attrelid OPERATOR(pg_catalog.=) t.tgrelid AND v.attnum OPERATOR(pg_catalog.=) c.numbers[2]
     WHERE t.tgfoid OPERATOR(pg_catalog.=) 'insitu.embed_row()'::pg_catalog.regprocedure
       AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid;
GRANT SELECT ON insitu.auto_embeds TO PUBLIC;

CREATE OR REPLACE PROCEDURE insitu.embed_table(target pg_catalog.regclass, text_column pg_catalog.name,
                                    vector_column pg_catalog.name, model pg_catalog.text,
                                    batch pg_catalog.int4 DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'embed_table_wrapper';

CREATE VIEW insitu.embed_progress AS
    SELECT j.pid, j.relation::pg_catalog.regclass AS relation,
           pg_catalog.convert_from(j.model, pg_catalog.getdatabaseencoding()) AS model,
           j.rows_done, j.rows_total, j.started_at
      FROM insitu.embed_jobs() j;
GRANT SELECT ON insitu.embed_progress TO PUBLIC;

-- The two triggers that version 0.1.0 made for each column become one. They named their columns in their arguments, so
-- after a column was renamed they made every write fail: those are for somebody to look at.
DO $$
DECLARE
    item record;
    column_name name;
    stem text;
    other name;
    trigger_name text;
    number integer;
    place integer;
    arguments text[];
BEGIN
    FOR item IN
        SELECT t.oid, t.tgargs, t.tgrelid, t.tgrelid::regclass AS relation, t.tgname, t.tgenabled
          FROM pg_trigger t
         WHERE t.tgfoid = 'insitu.embed_row()'::regprocedure AND t.tgparentid = 0 AND t.tgnargs = 3
           AND t.tgname LIKE 'insitu\_embed\_%\_insert'
         ORDER BY t.tgrelid, t.tgname
    LOOP
        -- Each with a closing zero: column of texts, column of vectors, model.
        FOR number IN 1..3 LOOP
            place := position('\x00'::bytea IN item.tgargs);
            arguments[number] := convert_from(substring(item.tgargs FROM 1 FOR place - 1), getdatabaseencoding());
            item.tgargs := substring(item.tgargs FROM place + 1);
        END LOOP;
        FOREACH column_name IN ARRAY arguments[1:2]::name[] LOOP
            IF NOT EXISTS (SELECT FROM pg_attribute a
                            WHERE a.attrelid = item.tgrelid AND a.attname = column_name AND NOT a.attisdropped) THEN
                RAISE EXCEPTION 'trigger "%" of % embeds column "%", which does not exist', item.tgname, item.relation, column_name
                    USING ERRCODE = 'undefined_column',
                          HINT = 'The column was renamed or dropped. Drop the trigger and the one whose name ends in _update, update insitu, and call insitu.auto_embed again.';
            END IF;
        END LOOP;
        stem := left(item.tgname, -length('_insert'));
        EXECUTE format('DROP TRIGGER %I ON %s', item.tgname, item.relation);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', stem || '_update', item.relation);
        -- It has to be the last one: triggers are called in the order of their names.
        SELECT max(t.tgname COLLATE "C") INTO other
          FROM pg_trigger t
         WHERE t.tgrelid IN (SELECT item.tgrelid UNION SELECT relid FROM pg_partition_tree(item.tgrelid))
           AND NOT t.tgisinternal AND t.tgtype & 2 <> 0 AND t.tgfoid <> 'insitu.embed_row()'::regprocedure;
        stem := CASE WHEN other COLLATE "C" > '~insitu_embed' COLLATE "C" THEN other ELSE '' END || '~insitu_embed';
        trigger_name := stem;
        number := 1;
        WHILE EXISTS (SELECT FROM pg_trigger t
                       WHERE t.tgrelid IN (SELECT item.tgrelid UNION SELECT relid FROM pg_partition_tree(item.tgrelid))
                         AND t.tgname = trigger_name) LOOP
            number := number + 1;
            trigger_name := format('%s_%s', stem, number);
        END LOOP;
        EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE ON %s FOR EACH ROW'
                       ' WHEN (NEW.%I IS NOT NULL OR NEW.%I IS NOT NULL) EXECUTE FUNCTION insitu.embed_row(%L)',
                       trigger_name, item.relation, arguments[1], arguments[2], arguments[3]);
        IF item.tgenabled <> 'O' THEN
            EXECUTE format('ALTER TABLE %s %s TRIGGER %I', item.relation,
                           CASE item.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
                           trigger_name);
        END IF;
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

-- The extension `vector` of version 0.1.0 could be moved, and asked for insitu by its control file.
UPDATE pg_extension SET extrelocatable = false
 WHERE extname = 'vector'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = pg_extension.oid
                      AND d.deptype = 'e');

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

-- What psql shows of each object (\df+, \do, \dx+). The last part of the script: it comments on what is there.

-- Functions of the types; T stands for the name of a type. What is for the server alone is said so, as in the server's
-- own catalog. A function of pgvector's that has no meaning here keeps the last words.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT p.oid::regprocedure AS routine, coalesce(d.comment, 'internal: of pgvector, has no meaning in insitu') AS comment
          FROM pg_proc p
          JOIN pg_depend m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid AND m.deptype = 'e'
               AND m.refclassid = 'pg_extension'::regclass
               AND m.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu')
          LEFT JOIN (VALUES
            ('l2_distance', 'L2 (Euclidean) distance'),
            ('l1_distance', 'L1 (taxicab) distance'),
            ('cosine_distance', 'cosine distance: 1 less the cosine'),
            ('inner_product', 'inner product'),
            ('hamming_distance', 'number of bits that differ'),
            ('jaccard_distance', 'Jaccard distance: 1 less the common bits over all set bits'),
            ('l2_norm', 'length (L2 norm)'),
            ('vector_norm', 'length (L2 norm)'),
            ('l2_normalize', 'vector of the same direction with length 1'),
            ('vector_dims', 'number of dimensions'),
            ('subvector', 'components from a position on (the first is 1), as many as the last argument says'),
            ('binary_quantize', 'a bit for each component: whether it is above 0'),
            ('avg', 'component-wise average of all vectors that are not null'),
            ('sum', 'component-wise sum of all vectors that are not null'),
            ('hnswhandler', 'internal: hnsw index access method handler'),
            ('ivfhandler', 'internal: ivf index access method handler'),
            ('ivfflathandler', 'internal: ivfflat index access method handler'),
            ('T_in', 'I/O'), ('T_out', 'I/O'), ('T_recv', 'I/O'), ('T_send', 'I/O'),
            ('T_typmod_in', 'I/O typmod'),
            ('T', 'implementation of the cast that checks the number of dimensions'),
            ('T_add', 'implementation of + operator'),
            ('T_sub', 'implementation of - operator'),
            ('T_mul', 'implementation of * operator'),
            ('T_concat', 'implementation of || operator'),
            ('T_lt', 'implementation of < operator'),
            ('T_le', 'implementation of <= operator'),
            ('T_eq', 'implementation of = operator'),
            ('T_ne', 'implementation of <> operator'),
            ('T_ge', 'implementation of >= operator'),
            ('T_gt', 'implementation of > operator'),
            ('T_cmp', 'internal: less-equal-greater, for btree'),
            ('T_negative_inner_product', 'implementation of <#> operator'),
            ('T_l2_squared_distance', 'internal: squared L2 distance, for indexes'),
            ('T_spherical_distance', 'internal: angle over pi, kept for pgvector''s operator classes'),
            ('T_accum', 'internal: aggregate transition'),
            ('T_combine', 'internal: aggregate combination'),
            ('T_avg', 'internal: aggregate final function'),
            ('array_to_T', 'implementation of a cast from arrays'),
            ('T_to_float4', 'implementation of the cast to real[]'),
            ('T_to_vector', 'implementation of the cast to vector'),
            ('T_to_halfvec', 'implementation of the cast to halfvec'),
            ('T_to_sparsevec', 'implementation of the cast to sparsevec')
          ) AS d (name, comment)
            ON p.proname IN (d.name, replace(d.name, 'T', 'vector'), replace(d.name, 'T', 'halfvec'),
                             replace(d.name, 'T', 'sparsevec'))
         WHERE p.pronamespace = '@extschema@'::regnamespace
    LOOP
        EXECUTE format('COMMENT ON ROUTINE %s IS %L', item.routine, item.comment);
    END LOOP;
    FOR item IN
        SELECT o.oid::regoperator AS operator, d.comment
          FROM pg_operator o
          JOIN pg_depend m ON m.classid = 'pg_operator'::regclass AND m.objid = o.oid AND m.deptype = 'e'
               AND m.refclassid = 'pg_extension'::regclass
               AND m.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'insitu')
          JOIN (VALUES
            ('<->', 'L2 (Euclidean) distance'), ('<#>', 'negative inner product'), ('<=>', 'cosine distance'),
            ('<+>', 'L1 (taxicab) distance'), ('<~>', 'Hamming distance'), ('<%>', 'Jaccard distance'),
            ('+', 'add component by component'), ('-', 'subtract component by component'),
            ('*', 'multiply component by component'), ('||', 'concatenate'),
            ('<', 'less than, component by component'), ('<=', 'less than or equal, component by component'),
            ('=', 'equal'), ('<>', 'not equal'),
            ('>', 'greater than, component by component'), ('>=', 'greater than or equal, component by component')
          ) AS d (symbol, comment) ON d.symbol = o.oprname
    LOOP
        EXECUTE format('COMMENT ON OPERATOR %s IS %L', item.operator, item.comment);
    END LOOP;
END
$$;

COMMENT ON SCHEMA insitu IS 'embedding models, tables that embed themselves, and functions that inspect indexes';

COMMENT ON FUNCTION insitu.load_model(text, text, integer) IS
    'loads a model from a directory of the server; dimensions keeps the beginning of each vector, 0 all of it';
COMMENT ON FUNCTION insitu.load_model(text, text[], bytea[], integer) IS
    'loads a model from the names and contents of its files; dimensions keeps the beginning of each vector, 0 all of it';
COMMENT ON FUNCTION insitu.drop_model(text) IS 'drops a model that nothing in the database needs';
COMMENT ON FUNCTION insitu.drop_model(text, boolean) IS 'drops a model; with force, also if something needs it';
COMMENT ON FUNCTION insitu.quantize_model(text, text, text, jsonb) IS
    'makes a model of int8, int4 or fp16 out of one of 32-bit floats';
COMMENT ON FUNCTION insitu.evaluate_model(text, text, text, integer) IS
    'compares a model with another one on the texts of a query: accuracy, size and speed';
COMMENT ON FUNCTION insitu.grant_model(text, text) IS 'lets a role, or public, use a model';
COMMENT ON FUNCTION insitu.revoke_model(text, text) IS 'takes back what grant_model gave';
COMMENT ON FUNCTION insitu.embed(text, text) IS 'the vector that a model gives a text';
COMMENT ON FUNCTION insitu.embed(text, text[]) IS 'the vectors that a model gives texts; faster than one by one';
COMMENT ON FUNCTION insitu.embed_query(text, text) IS
    'the vector that a model gives a question: of the text behind the model''s prefix for queries, if it has one';
COMMENT ON FUNCTION insitu.chunk(text, text, integer, integer) IS
    'cuts a text into pieces of at most max_tokens tokens, which begin with up to overlap tokens of the one before';

COMMENT ON VIEW insitu.models IS 'embedding models that are loaded into this database';
COMMENT ON VIEW insitu.model_grants IS
    'roles that may use a model, beside its owner: "-" is PUBLIC, and a number a role that was dropped';

COMMENT ON FUNCTION insitu.auto_embed(regclass, name, name, text) IS
    'has rows embedded when they are inserted without a vector, and when their text changes';
COMMENT ON FUNCTION insitu.drop_auto_embed(regclass, name) IS 'undoes insitu.auto_embed';
COMMENT ON PROCEDURE insitu.embed_table(regclass, name, name, text, integer) IS
    'embeds the rows that have a text and no vector, in batches that are committed';
COMMENT ON VIEW insitu.auto_embeds IS 'columns that are kept embedded, and by which model';
COMMENT ON VIEW insitu.embed_progress IS 'calls of insitu.embed_table that are at work';

COMMENT ON FUNCTION insitu.verify_index(regclass) IS
    'proves that an index is sound and holds every row of its table; raises an error if not';
COMMENT ON FUNCTION insitu.index_stats(regclass) IS
    'how rows are spread over the lists of an index, and whether its codes still fit the rows';
COMMENT ON FUNCTION insitu.explain_search(regclass, anyelement, integer) IS
    'searches an index for the k nearest rows to a vector, and tells what each step did';
COMMENT ON FUNCTION insitu.explain_search(regclass, text, integer) IS
    'searches an index for the k nearest rows to a vector that is given as text, and tells what each step did';

COMMENT ON FUNCTION insitu.version() IS
    'versions of the extension, its library, the server and ONNX Runtime, and what the processor and models can use';

COMMENT ON FUNCTION insitu.trigger_created() IS
    'internal: lets triggers of insitu.auto_embed go with their columns, also those out of a dump';
COMMENT ON FUNCTION insitu.relation_altered() IS 'internal: has the option centroids of indexes follow renames';
COMMENT ON FUNCTION insitu.extension_asked_for() IS
    'internal: has the extension vector there for clients that create it';
COMMENT ON FUNCTION insitu.embed_row() IS 'internal: the trigger function of insitu.auto_embed';
COMMENT ON FUNCTION insitu.embedded_columns(oid) IS
    'internal: numbers of the columns of texts and vectors of a trigger of insitu.auto_embed; see insitu.auto_embeds';
COMMENT ON FUNCTION insitu.embed_jobs() IS 'internal: what the view insitu.embed_progress shows';
COMMENT ON FUNCTION insitu.model_changed() IS 'internal: tells sessions that the tables of models have changed';
COMMENT ON FUNCTION insitu.tie_vector() IS
    'internal: makes the extension vector, which stands for insitu, depend on it';
COMMENT ON FUNCTION insitu.role_in(cstring) IS 'I/O';
COMMENT ON FUNCTION insitu.role_out(insitu.role) IS 'I/O';
COMMENT ON FUNCTION insitu.role_to_regrole(insitu.role) IS 'implementation of the cast to regrole';
COMMENT ON TYPE insitu.role IS 'internal: a role, or PUBLIC, that is dumped by its name';
COMMENT ON TABLE insitu.model IS 'internal: embedding models, one row each; see the view insitu.models';
COMMENT ON TABLE insitu.model_part IS 'internal: the files of models, in parts';
COMMENT ON COLUMN insitu.model_part.file IS 'SHA-256 of the whole file';
COMMENT ON TABLE insitu.model_grant IS 'internal: roles that may use a model; see the view insitu.model_grants';
SET LOCAL search_path = @extschema@, pg_temp;
