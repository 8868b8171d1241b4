-- Tables that keep themselves embedded, and tables that are embedded in bulk.

CREATE FUNCTION insitu.embed_row() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The trigger's arguments: text column, vector column, model.
    body text;
    is_given boolean;
BEGIN
    EXECUTE format('SELECT ($1).%I::text, ($1).%I IS NOT NULL', TG_ARGV[0], TG_ARGV[1])
        INTO body, is_given USING NEW;
    IF TG_OP = 'INSERT' AND (is_given OR body IS NULL) THEN
        RETURN NEW;
    END IF;
    RETURN jsonb_populate_record(NEW, jsonb_build_object(TG_ARGV[1], insitu.embed(TG_ARGV[2], body)::text));
END
$$;
COMMENT ON FUNCTION insitu.embed_row() IS 'the trigger function of insitu.auto_embed';

-- What is wrong with the columns that are to be embedded is an error.
CREATE FUNCTION insitu.check_columns(target regclass, text_column name, vector_column name, model text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dimension integer;
    found record;
BEGIN
    -- Also says whether there is such a model, and whether one may use it.
    PERFORM insitu.embed(model, '');
    SELECT m.dimension INTO dimension FROM insitu.models m WHERE m.name = model;
    FOR found IN
        SELECT c.name, c.is_text, a.attnum, a.atttypid, a.atttypmod, a.attgenerated, t.typname, t.typcategory
          FROM (VALUES (text_column, true), (vector_column, false)) AS c (name, is_text)
          LEFT JOIN pg_attribute a
            ON a.attrelid = target AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_type t ON t.oid = a.atttypid
    LOOP
        IF found.attnum IS NULL THEN
            RAISE undefined_column USING MESSAGE = format('column "%s" of %s does not exist', found.name, target);
        ELSIF found.is_text AND found.typcategory <> 'S' THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" of %s is of type %s, expected was text',
                                 found.name, target, format_type(found.atttypid, found.atttypmod));
        ELSIF NOT found.is_text AND found.typname NOT IN ('vector', 'halfvec') THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" of %s is of type %s, expected was vector or halfvec',
                                 found.name, target, format_type(found.atttypid, found.atttypmod));
        ELSIF NOT found.is_text AND found.attgenerated <> '' THEN
            RAISE generated_always USING
                MESSAGE = format('column "%s" of %s is generated and embeds itself', found.name, target);
        ELSIF NOT found.is_text AND found.atttypmod NOT IN (-1, dimension) THEN
            RAISE datatype_mismatch USING
                MESSAGE = format('column "%s" of %s has %s dimensions, model "%s" gives %s',
                                 found.name, target, found.atttypmod, model, dimension),
                HINT = format('Declare the column as %s(%s).', found.typname, dimension);
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION insitu.auto_embed(target regclass, text_column name, vector_column name, model text) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Names have 63 bytes.
    stem text := 'insitu_embed_' || left(md5(vector_column), 8);
    arguments text := format('(%L, %L, %L)', text_column, vector_column, model);
BEGIN
    PERFORM insitu.check_columns(target, text_column, vector_column, model);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE INSERT ON %s FOR EACH ROW'
                   ' EXECUTE FUNCTION insitu.embed_row%s', stem || '_insert', target, arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE UPDATE ON %s FOR EACH ROW'
                   ' WHEN (OLD.%I IS DISTINCT FROM NEW.%I) EXECUTE FUNCTION insitu.embed_row%s',
                   stem || '_update', target, text_column, text_column, arguments);
END
$$;
COMMENT ON FUNCTION insitu.auto_embed(regclass, name, name, text) IS
    'has rows embedded when they are inserted without a vector, and when their text changes';

CREATE FUNCTION insitu.drop_auto_embed(target regclass, vector_column name) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := 'insitu_embed_' || left(md5(vector_column), 8);
BEGIN
    EXECUTE format('DROP TRIGGER %I ON %s', stem || '_insert', target);
    EXECUTE format('DROP TRIGGER %I ON %s', stem || '_update', target);
END
$$;
COMMENT ON FUNCTION insitu.drop_auto_embed(regclass, name) IS 'undoes insitu.auto_embed';

-- Progress of embed_table. A row is of the session that wrote it.
CREATE TABLE insitu.embed_job (
    pid integer PRIMARY KEY,
    relation regclass NOT NULL,
    model text NOT NULL,
    rows_done bigint NOT NULL,
    rows_total bigint NOT NULL,
    started_at timestamptz NOT NULL
);
CREATE VIEW insitu.embed_progress AS
    SELECT j.pid, j.relation, j.model, j.rows_done, j.rows_total, j.started_at
      FROM insitu.embed_job j JOIN pg_catalog.pg_stat_activity a USING (pid)
     -- A session that was cancelled does something else by now, and another may have the
     -- number of one that ended. Who may not see what others do sees their rows all the same.
     WHERE (a.backend_start IS NULL OR a.backend_start <= j.started_at)
       AND (a.query_start IS NULL OR a.state = 'active' AND a.query_start <= j.started_at);
COMMENT ON VIEW insitu.embed_progress IS 'calls of insitu.embed_table that are at work';
GRANT SELECT ON insitu.embed_progress TO PUBLIC;

-- Notes the progress of this session; without a relation, that it is done.
CREATE FUNCTION insitu.note_embed_job(relation regclass, model text, rows_done bigint, rows_total bigint,
                                      started_at timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM insitu.embed_job j
     WHERE j.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = j.pid);
    INSERT INTO insitu.embed_job SELECT pg_backend_pid(), $1, $2, $3, $4, $5 WHERE $1 IS NOT NULL;
$$;

CREATE PROCEDURE insitu.embed_table(target regclass, text_column name, vector_column name, model text,
                                    batch integer DEFAULT 1000)
    LANGUAGE plpgsql AS $$
DECLARE
    callers_path text := pg_catalog.current_setting('search_path');
    leaves regclass[];
    leaf regclass;
    leaf_name text;
    next_rows text;
    last tid;
    pass_end tid;
    is_tail boolean;
    found bigint;
    written bigint;
    lost bigint;
    of_pass bigint;
    before bigint;
    left_out bigint;
    alike integer;
    done bigint := 0;
    total bigint;
    started timestamptz := pg_catalog.clock_timestamp();
    told timestamptz := started;
BEGIN
    -- A procedure that commits can't have a search_path of its own: it lasts until
    -- the next commit.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF batch IS NULL OR batch NOT BETWEEN 1 AND 100000 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('batch is %s, but must be between 1 and 100000', coalesce(batch::text, 'null'));
    END IF;
    PERFORM insitu.check_columns(target, text_column, vector_column, model);
    leaves := ARRAY(SELECT relid FROM pg_partition_tree(target) WHERE isleaf);
    IF leaves = '{}' THEN
        leaves := ARRAY[target];
    END IF;
    EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL AND %I IS NOT NULL', target, vector_column, text_column)
        INTO total;
    FOREACH leaf IN ARRAY leaves LOOP
        SELECT format('%I.%I', n.nspname, c.relname) INTO leaf_name
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = leaf;
        -- The rows are locked before they are read, so no text changes meanwhile.
        next_rows := format(
            'WITH batch AS MATERIALIZED ('
            '  SELECT ctid AS place, %2$I::pg_catalog.text AS body FROM ONLY %1$s'
            '   WHERE ctid OPERATOR(pg_catalog.>) $1 AND ctid OPERATOR(pg_catalog.<) $2 AND %3$I IS NULL AND %2$I IS NOT NULL'
            '   LIMIT $3 FOR NO KEY UPDATE),'
            ' embedded AS MATERIALIZED ('
            '  SELECT pg_catalog.unnest(pg_catalog.array_agg(place)) AS place,'
            '         pg_catalog.unnest(insitu.embed($4, pg_catalog.array_agg(body))) AS vector FROM batch),'
            ' written AS (UPDATE ONLY %1$s AS t SET %3$I = e.vector FROM embedded e WHERE t.ctid OPERATOR(pg_catalog.=) e.place'
            '   RETURNING e.place, t.%3$I AS vector)'
            ' SELECT coalesce(pg_catalog.max(w.place), pg_catalog.max(e.place)), pg_catalog.count(*), pg_catalog.count(w.place),'
            '        pg_catalog.count(*) FILTER (WHERE w.place IS NOT NULL AND w.vector IS NULL)'
            '   FROM embedded e LEFT JOIN written w ON w.place OPERATOR(pg_catalog.=) e.place', leaf_name, text_column, vector_column);
        -- Rows that others change move behind, and a scan may begin in the middle:
        -- until a pass from the beginning finds none, or two in turn write none. A pass
        -- goes up to where the table ended when it began, and takes one batch of what has
        -- come behind that: so it ends, whatever comes.
        before := NULL;
        alike := 0;
        LOOP
            last := '(0,0)';
            pass_end := format('(%s,0)', pg_relation_size(leaf) / current_setting('block_size')::bigint);
            of_pass := 0;
            left_out := 0;
            is_tail := false;
            LOOP
                -- The table's triggers look names up where they are used to.
                PERFORM set_config('search_path', callers_path, true);
                EXECUTE next_rows INTO last, found, written, lost USING last, pass_end, batch, model;
                PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
                IF found = 0 THEN
                    EXIT WHEN is_tail;
                    is_tail := true;
                    last := pass_end;
                    pass_end := '(4294967295,65535)';
                    CONTINUE;
                END IF;
                IF lost > 0 THEN
                    RAISE object_not_in_prerequisite_state USING
                        MESSAGE = format('a trigger of %s takes the vectors in column "%s" away again', leaf, vector_column),
                        DETAIL = format('%s of %s rows were NULL after the update.', lost, found),
                        HINT = 'Disable the trigger, or have it leave vectors that are given alone.';
                END IF;
                of_pass := of_pass + written;
                left_out := left_out + found - written;
                done := done + written;
                PERFORM insitu.note_embed_job(target, model, done, greatest(done, total), started);
                IF clock_timestamp() > told + interval '5 seconds' THEN
                    told := clock_timestamp();
                    RAISE NOTICE 'embedded % of % rows of %', done, greatest(done, total), target;
                END IF;
                COMMIT;
                PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
                EXIT WHEN is_tail;
            END LOOP;
            EXIT WHEN of_pass = 0 AND (left_out = 0 OR before = 0);
            alike := CASE WHEN of_pass > 0 AND of_pass >= before THEN alike + 1 ELSE 0 END;
            before := of_pass;
            IF alike = 3 THEN
                RAISE WARNING USING
                    MESSAGE = format('rows of %s keep coming without a vector', leaf),
                    DETAIL = format('The last passes over it embedded %s rows each, or more and more.', before),
                    HINT = 'Others insert them, or a trigger takes vectors away again.';
                EXIT;
            END IF;
        END LOOP;
        IF left_out > 0 THEN
            RAISE WARNING '% rows of % have no vector: a trigger left them as they are', left_out, leaf;
        END IF;
    END LOOP;
    PERFORM insitu.note_embed_job(NULL, NULL, NULL, NULL, NULL);
    RAISE NOTICE 'embedded % rows of %', done, target;
END
$$;
COMMENT ON PROCEDURE insitu.embed_table(regclass, name, name, text, integer) IS
    'embeds the rows that have a text and no vector, in batches that are committed';
