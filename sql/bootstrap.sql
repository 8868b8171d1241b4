-- Before anything else: pgvector defines the same types. It is refused, or taken over if the session asks for that.
--
-- Taking over leaves pgvector's types, operators, casts, classes and access methods where they are, because tables,
-- views and indexes refer to them. They become members of this extension; the functions behind them are replaced
-- below, one by one, and the indexes rebuilt at the end (operators.sql). All of it is this one transaction.
DO $$
DECLARE
    pgvector pg_catalog.pg_extension%ROWTYPE;
    other text;
    item record;
BEGIN
    SELECT * INTO pgvector FROM pg_catalog.pg_extension WHERE extname = 'vector';
    IF NOT FOUND THEN
        PERFORM pg_catalog.set_config('insitu.replace_pgvector', 'off', true);
        RETURN;
    END IF;
    IF coalesce(pg_catalog.current_setting('insitu.replace_pgvector', true), 'off') NOT IN ('on', 'true', '1') THEN
        RAISE EXCEPTION 'extension "insitu" cannot be created beside extension "vector" (pgvector)'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both define the type vector and the access method hnsw.',
                  HINT = 'Create insitu in another database, or put it in the place of pgvector in this one: SET insitu.replace_pgvector = on.';
    END IF;
    IF pgvector.extversion !~ '^0\.8\.' THEN
        RAISE EXCEPTION 'pgvector % cannot be replaced', pgvector.extversion
            USING ERRCODE = 'feature_not_supported', HINT = 'Update it to 0.8 first: ALTER EXTENSION vector UPDATE.';
    END IF;
    IF pgvector.extnamespace <> '@extschema@'::pg_catalog.regnamespace THEN
        RAISE EXCEPTION 'pgvector is in schema %', pgvector.extnamespace::pg_catalog.regnamespace
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = pg_catalog.format('CREATE EXTENSION insitu SCHEMA %s', pgvector.extnamespace::pg_catalog.regnamespace);
    END IF;

    -- Nobody may go on with what their session knows of pgvector's indexes. First the locks, which keep those who come
    -- later away from the tables; then nobody may be there who came before.
    FOR item IN
        SELECT i.indrelid::pg_catalog.regclass AS name
          FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
          JOIN pg_catalog.pg_am a ON a.oid = c.relam
         WHERE a.amname IN ('hnsw', 'ivfflat')
         ORDER BY i.indrelid
    LOOP
        EXECUTE pg_catalog.format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', item.name);
    END LOOP;
    SELECT pg_catalog.string_agg(pid::text, ', ') INTO other
      FROM pg_catalog.pg_stat_activity
     WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
       AND backend_type NOT LIKE 'autovacuum%';
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'pgvector cannot be replaced while other sessions use the database'
            USING ERRCODE = 'object_in_use', DETAIL = pg_catalog.format('Sessions: %s.', other),
                  HINT = 'Disconnect them. They would go on with the library of pgvector.';
    END IF;

    FOR item IN
        SELECT o.type, o.identity
          FROM pg_catalog.pg_depend d, pg_catalog.pg_identify_object(d.classid, d.objid, 0) o
         WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = pgvector.oid
           AND d.deptype = 'e'
    LOOP
        EXECUTE pg_catalog.format('ALTER EXTENSION vector DROP %s %s', item.type, item.identity);
        EXECUTE pg_catalog.format('ALTER EXTENSION insitu ADD %s %s', item.type, item.identity);
    END LOOP;
    DROP EXTENSION vector;
    PERFORM pg_catalog.set_config('insitu.replace_pgvector', 'on', true);
END
$$;

DO $$
DECLARE
    type text;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_type
                        WHERE typname = type AND typnamespace = '@extschema@'::pg_catalog.regnamespace) THEN
            EXECUTE pg_catalog.format('CREATE TYPE %I', type);
        END IF;
    END LOOP;
END
$$;
