-- Before anything else: pgvector defines the same types. It is refused, or taken over if the session asks for that.
--
-- The script runs as a superuser, with the schema that the extension goes into on the path, in which others may have made
-- functions and operators that fit our arguments better than the server's. So each part of it that computes anything sets
-- the path to the server's own schema and names what is in @extschema@ with its schema.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Taking over leaves pgvector's types, operators, casts, classes and access methods where they are, because tables,
-- views and indexes refer to them. They become members of this extension; the functions behind them are replaced
-- below, one by one, and the indexes rebuilt at the end (operators.sql). The extension `vector` stays, without members,
-- for clients that create it (src/vector_extension.rs). All of it is this one transaction.
DO $$
DECLARE
    pgvector pg_extension%ROWTYPE;
    other text;
    item record;
BEGIN
    -- Without types it is not pgvector, but stands for this extension.
    SELECT * INTO pgvector FROM pg_extension e
     WHERE e.extname = 'vector'
       AND EXISTS (SELECT FROM pg_depend d
                    WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                      AND d.deptype = 'e' AND d.classid = 'pg_type'::regclass);
    IF NOT FOUND THEN
        PERFORM set_config('insitu.replace_pgvector', 'off', true);
        RETURN;
    END IF;
    IF coalesce(current_setting('insitu.replace_pgvector', true), 'off') NOT IN ('on', 'true', '1') THEN
        RAISE EXCEPTION 'extension "insitu" cannot be created beside extension "vector" (pgvector)'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both define the type vector and the access method hnsw.',
                  HINT = 'Create insitu in another database, or put it in the place of pgvector in this one: SET insitu.replace_pgvector = on.';
    END IF;
    IF pgvector.extversion !~ '^0\.8\.' THEN
        RAISE EXCEPTION 'pgvector % cannot be replaced', pgvector.extversion
            USING ERRCODE = 'feature_not_supported', HINT = 'Update it to 0.8 first: ALTER EXTENSION vector UPDATE.';
    END IF;
    IF pgvector.extnamespace <> '@extschema@'::regnamespace THEN
        RAISE EXCEPTION 'pgvector is in schema %', pgvector.extnamespace::regnamespace
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('CREATE EXTENSION insitu SCHEMA %s', pgvector.extnamespace::regnamespace);
    END IF;

    -- Who owns a function of this extension can change what everybody's queries call. An owner that is not written
    -- down is the role that the cluster was made by.
    FOR item IN
        SELECT o.type, o.identity, r.rolname AS owner
          FROM pg_depend d
          JOIN pg_shdepend s ON s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o'
          JOIN pg_roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid AND NOT r.rolsuper,
               pg_identify_object(d.classid, d.objid, 0) o
         WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = pgvector.oid AND d.deptype = 'e'
         LIMIT 1
    LOOP
        RAISE EXCEPTION '% % is part of pgvector, but belongs to role "%", which is no superuser', item.type, item.identity, item.owner
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'If pgvector made it, give it to a superuser with ALTER ... OWNER TO; if not, take it out with ALTER EXTENSION vector DROP.';
    END LOOP;

    -- Nobody may go on with what their session knows of pgvector's indexes. First the locks, which keep those who come
    -- later away from the tables; then nobody may be there who came before.
    FOR item IN
        SELECT i.indrelid::regclass AS name
          FROM pg_index i
          JOIN pg_class c ON c.oid = i.indexrelid
          JOIN pg_am a ON a.oid = c.relam
         WHERE a.amname IN ('hnsw', 'ivfflat')
         ORDER BY i.indrelid
    LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', item.name);
    END LOOP;
    SELECT string_agg(pid::text, ', ') INTO other
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type NOT LIKE 'autovacuum%';
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'pgvector cannot be replaced while other sessions use the database'
            USING ERRCODE = 'object_in_use', DETAIL = format('Sessions: %s.', other),
                  HINT = 'Disconnect them. They would go on with the library of pgvector.';
    END IF;

    FOR item IN
        SELECT o.type, o.identity, d.classid, d.objid
          FROM pg_depend d, pg_identify_object(d.classid, d.objid, 0) o
         WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = pgvector.oid AND d.deptype = 'e'
         ORDER BY o.identity LIKE '%[]'
    LOOP
        -- Newer servers take the type of its arrays along with a type.
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM pg_depend d
             WHERE d.classid = item.classid AND d.objid = item.objid AND d.deptype = 'e'
               AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = pgvector.oid);
        EXECUTE format('ALTER EXTENSION vector DROP %s %s', item.type, item.identity);
        EXECUTE format('ALTER EXTENSION insitu ADD %s %s', item.type, item.identity);
    END LOOP;
    PERFORM set_config('insitu.replace_pgvector', 'on', true);
END
$$;

-- A type of this name that is not pgvector's is an error.
DO $$
DECLARE
    type text;
BEGIN
    FOREACH type IN ARRAY ARRAY['vector', 'halfvec', 'sparsevec'] LOOP
        IF current_setting('insitu.replace_pgvector') <> 'on' THEN
            EXECUTE format('CREATE TYPE %s.%I', '@extschema@', type);
        END IF;
    END LOOP;
END
$$;
SET LOCAL search_path = @extschema@, pg_temp;
