-- Before anything else: pgvector defines the same types.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector') THEN
        RAISE EXCEPTION 'extension "insitu" cannot be created beside extension "vector" (pgvector)'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both define the type vector and the access method hnsw.',
                  HINT = 'Create insitu in another database, or dump this one and restore it with insitu in the place of pgvector.';
    END IF;
END
$$;

CREATE TYPE vector;
CREATE TYPE halfvec;
CREATE TYPE sparsevec;
