-- Empty: insitu has the types, operators and access methods. The version is that of the pgvector whose SQL they speak,
-- because clients read it to learn what they may use.
--
-- Anybody may run this who may create extensions in the database, with a path on which others may have put functions and
-- operators: everything is named with its schema.
DO $$
DECLARE
    schema pg_catalog.name;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'insitu') THEN
        IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user) THEN
            RAISE EXCEPTION 'permission denied to create extension "vector"' USING
                ERRCODE = 'insufficient_privilege',
                DETAIL = 'It stands for the extension insitu, which is missing in this database, and which only superusers create.',
                HINT = 'Have a superuser run CREATE EXTENSION insitu in this database first.';
        END IF;
        CREATE FUNCTION create_insitu() RETURNS void LANGUAGE c AS '$libdir/insitu', 'create_insitu_wrapper';
        EXECUTE pg_catalog.format('SELECT %I.create_insitu()', pg_catalog.current_schema());
        DROP FUNCTION create_insitu();
    END IF;
    PERFORM insitu.tie_vector();
    SELECT n.nspname INTO schema
      FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
     WHERE e.extname OPERATOR(pg_catalog.=) 'insitu';
    IF schema OPERATOR(pg_catalog.<>) pg_catalog.current_schema() THEN
        RAISE WARNING 'the type vector is in schema "%", where extension "insitu" was created', schema;
    END IF;
END
$$;
