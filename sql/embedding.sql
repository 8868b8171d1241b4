-- Tables that keep themselves embedded, and tables that are embedded in bulk. The functions are in src/embedding.

CREATE FUNCTION insitu.embed_row() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'embed_row_wrapper';

CREATE FUNCTION insitu.auto_embed(target pg_catalog.regclass, text_column pg_catalog.name,
                                  vector_column pg_catalog.name, model pg_catalog.text) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'auto_embed_wrapper';

CREATE FUNCTION insitu.drop_auto_embed(target pg_catalog.regclass, vector_column pg_catalog.name) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_auto_embed_wrapper';

CREATE FUNCTION insitu.trigger_created() RETURNS event_trigger
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

CREATE PROCEDURE insitu.embed_table(target pg_catalog.regclass, text_column pg_catalog.name,
                                    vector_column pg_catalog.name, model pg_catalog.text,
                                    batch pg_catalog.int4 DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'embed_table_wrapper';

CREATE VIEW insitu.embed_progress AS
    SELECT j.pid, j.relation::pg_catalog.regclass AS relation,
           pg_catalog.convert_from(j.model, pg_catalog.getdatabaseencoding()) AS model,
           j.rows_done, j.rows_total, j.started_at
      FROM insitu.embed_jobs() j;
GRANT SELECT ON insitu.embed_progress TO PUBLIC;
