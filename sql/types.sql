-- The types. Their functions are generated from src/types. Types of pgvector that were taken over stay as they are.
DO $$
DECLARE
    type text;
    description text;
BEGIN
    FOR type, description IN VALUES
        ('vector', 'single-precision vector'), ('halfvec', 'half-precision vector'), ('sparsevec', 'sparse vector')
    LOOP
        IF NOT (SELECT typisdefined FROM pg_catalog.pg_type
                 WHERE typname = type AND typnamespace = '@extschema@'::pg_catalog.regnamespace) THEN
            EXECUTE pg_catalog.format('CREATE TYPE %1$I (
                INPUT = %2$I, OUTPUT = %3$I, TYPMOD_IN = %4$I, RECEIVE = %5$I, SEND = %6$I, STORAGE = external)',
                type, type || '_in', type || '_out', type || '_typmod_in', type || '_recv', type || '_send');
        END IF;
        EXECUTE pg_catalog.format('COMMENT ON TYPE %I IS %L', type, description);
    END LOOP;
END
$$;
