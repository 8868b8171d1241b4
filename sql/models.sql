GRANT USAGE ON SCHEMA insitu TO PUBLIC;

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

-- Loading a model runs code on its author's data: the administrator says who may.
REVOKE EXECUTE ON FUNCTION insitu.load_model(text, text, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.load_model(text, text[], bytea[], integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.quantize_model(text, text, text, jsonb) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.drop_model(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.drop_model(text, boolean) FROM PUBLIC;
