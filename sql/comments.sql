-- What psql shows of each object (\df+, \do, \dx+). The last part of the script: it comments on what is there.
SET LOCAL search_path = pg_catalog, pg_temp;

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
