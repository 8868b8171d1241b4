GRANT USAGE ON SCHEMA insitu TO PUBLIC;

-- Models. A dump holds the rows of all three tables.
CREATE TABLE insitu.model (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    settings jsonb NOT NULL,
    bytes bigint NOT NULL,
    owner regrole NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE insitu.model IS 'embedding models, one row each; see the view insitu.models';

CREATE TABLE insitu.model_part (
    model text REFERENCES insitu.model ON UPDATE CASCADE ON DELETE CASCADE,
    file text CHECK (file IN ('graph', 'tokenizer')),
    part integer,
    data bytea NOT NULL,
    PRIMARY KEY (model, file, part)
);
-- Weights do not compress.
ALTER TABLE insitu.model_part ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE insitu.model_part IS 'the bytes of models, in parts';

CREATE TABLE insitu.model_grant (
    model text REFERENCES insitu.model ON UPDATE CASCADE ON DELETE CASCADE,
    -- 0, written "-", is PUBLIC. A regrole is dumped by name.
    grantee regrole,
    PRIMARY KEY (model, grantee)
);
COMMENT ON TABLE insitu.model_grant IS 'roles that may use a model, beside its owner';

SELECT pg_catalog.pg_extension_config_dump('insitu.model', '');
SELECT pg_catalog.pg_extension_config_dump('insitu.model_part', '');
SELECT pg_catalog.pg_extension_config_dump('insitu.model_grant', '');

-- Sessions remember what a name means until these tables change.
CREATE TRIGGER model_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON insitu.model
    FOR EACH STATEMENT EXECUTE FUNCTION insitu.model_changed();
CREATE TRIGGER model_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON insitu.model_grant
    FOR EACH STATEMENT EXECUTE FUNCTION insitu.model_changed();

CREATE VIEW insitu.models AS
    SELECT name, sha256,
           settings ->> 'architecture' AS architecture,
           (settings ->> 'dimension')::integer AS dimension,
           (settings ->> 'max_tokens')::integer AS max_tokens,
           settings ->> 'pooling' AS pooling,
           (settings ->> 'normalize')::boolean AS normalize,
           settings ->> 'query_prefix' AS query_prefix,
           settings ->> 'passage_prefix' AS passage_prefix,
           settings ->> 'precision' AS precision,
           bytes, owner, loaded_at
      FROM insitu.model;
COMMENT ON VIEW insitu.models IS 'embedding models that are loaded into this database';
GRANT SELECT ON insitu.models TO PUBLIC;

-- Loading a model runs code on its author's data: the administrator says who may.
REVOKE EXECUTE ON FUNCTION insitu.load_model(text, text, integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.load_model(text, text[], bytea[], integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.quantize_model(text, text, text, jsonb) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION insitu.drop_model(text) FROM PUBLIC;
