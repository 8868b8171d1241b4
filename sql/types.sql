-- The types. Their functions are generated from src/types. Types of pgvector that were taken over stay as they are.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    type text;
    description text;
BEGIN
    FOR type, description IN VALUES
        ('vector', 'single-precision vector'), ('halfvec', 'half-precision vector'), ('sparsevec', 'sparse vector')
    LOOP
        IF NOT (SELECT typisdefined FROM pg_type
                 WHERE typname = type AND typnamespace = '@extschema@'::regnamespace) THEN
            EXECUTE format('CREATE TYPE %1$s.%2$I (INPUT = %1$s.%3$I, OUTPUT = %1$s.%4$I,
                TYPMOD_IN = %1$s.%5$I, RECEIVE = %1$s.%6$I, SEND = %1$s.%7$I, STORAGE = external)',
                '@extschema@', type, type || '_in', type || '_out', type || '_typmod_in', type || '_recv', type || '_send');
        END IF;
        EXECUTE format('COMMENT ON TYPE %s.%I IS %L', '@extschema@', type, description);
    END LOOP;
END
$$;
SET LOCAL search_path = @extschema@, pg_temp;
