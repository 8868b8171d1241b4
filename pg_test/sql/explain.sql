-- What EXPLAIN tells of searches.
CREATE TABLE points (id int PRIMARY KEY, v vector(64));
SELECT setseed(0.5);
INSERT INTO points SELECT i, ARRAY(SELECT random() FROM generate_series(1, 64) WHERE i > 0)::real[]::vector
FROM generate_series(1, 500) AS i;
CREATE INDEX graph ON points USING hnsw (v vector_l2_ops) WITH (storage = plain);
CREATE INDEX fused ON points USING hnsw (v vector_cosine_ops);
CREATE INDEX lists ON points USING ivf (v vector_ip_ops) WITH (lists = 20, bits = 8);
CREATE VIEW query AS SELECT v FROM points WHERE id = 7;
SET enable_seqscan = off;
SET enable_sort = off;
-- Where the lines stand depends on the server's version, and what is visited on the luck of a build.
CREATE FUNCTION explained(query text, options text DEFAULT 'ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF') RETURNS SETOF text
    LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE format('EXPLAIN (%s) %s', options, query) LOOP
        IF line ~ '^ *(Vector Index|Search Width|Searches|Search Ended):' THEN
            RETURN NEXT regexp_replace(ltrim(line), '(Visited|Estimated|Compared): [1-9]\d*', '\1: n', 'g');
        END IF;
    END LOOP;
END $$;
-- The executor asks for no more than it needs.
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 5');
-- It asks for all that a search finds; and where a width comes from.
SET hnsw.ef_search = 10;
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query)');
RESET hnsw.ef_search;
-- Why a search that goes on ends.
SET hnsw.iterative_scan = relaxed_order;
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 100') ~ 'Rounds: \d*[2-9]' AS more
LIMIT 1 OFFSET 2;
SET hnsw.max_scan_tuples = 50;
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query)'), '(Rounds|Returned): \d+', '\1: n', 'g');
RESET hnsw.max_scan_tuples;
SET hnsw.iterative_scan = strict_order;
SET hnsw.ef_search = 500;
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query)'), '(Rounds|Returned): \d+', '\1: n', 'g');
RESET hnsw.iterative_scan;
SET hnsw.ef_search = 1000;
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query)'), '(Returned): \d+', '\1: n', 'g');
RESET hnsw.ef_search;
-- Rows that the snapshot does not see are made up for.
SET hnsw.ef_search = 20;
BEGIN;
DELETE FROM points WHERE id IN (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 16) AND id <> 7;
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query)') ~ 'Rounds: [2-9]' AS more LIMIT 1 OFFSET 2;
ROLLBACK;
RESET hnsw.ef_search;
-- Short codes, and lists.
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <=> (SELECT v FROM query) LIMIT 5'), '(Returned): \d+', '\1: n', 'g');
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query) LIMIT 5'), '(Returned): \d+', '\1: n', 'g');
SET ivf.probes = 2;
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query)'), '(Returned): \d+', '\1: n', 'g');
SET ivf.iterative_scan = relaxed_order;
SET ivf.max_probes = 5;
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query)'), '(Returned): \d+', '\1: n', 'g');
SET ivf.max_probes = 100;
SELECT explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query)');
RESET ivf.iterative_scan;
RESET ivf.max_probes;
RESET ivf.probes;
DROP INDEX lists;
CREATE INDEX flat ON points USING ivfflat (v vector_ip_ops) WITH (lists = 10);
SELECT regexp_replace(explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query)'), '(Returned): \d+', '\1: n', 'g');
-- A scan that is begun anew for each row of another table: the sum of all.
SELECT explained('SELECT * FROM generate_series(1, 3) AS i,
    LATERAL (SELECT id FROM points ORDER BY v <-> (SELECT v FROM points WHERE id = i) LIMIT i) AS nearest');
SET hnsw.ef_search = 2;
SELECT explained('SELECT * FROM generate_series(1, 3) AS i,
    LATERAL (SELECT id FROM points ORDER BY v <-> (SELECT v FROM points WHERE id = i) LIMIT i) AS nearest');
-- A setting that has changed during the query: what held, without where it came from.
SELECT explained('SELECT id, set_config(''hnsw.ef_search'', ''3'', false) FROM points ORDER BY v <-> (SELECT v FROM query)');
RESET hnsw.ef_search;
-- One that never runs.
SELECT explained('SELECT id FROM points WHERE (SELECT id < 0 FROM points WHERE id = 1) ORDER BY v <-> (SELECT v FROM query)');
-- Two, and one under a CTE.
SELECT explained('WITH a AS MATERIALIZED (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 3)
    SELECT * FROM a UNION ALL (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 4)');
-- Without ANALYZE only what the index is like, and only for those who want details.
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 5', 'COSTS OFF, VERBOSE');
SELECT explained('SELECT * FROM points ORDER BY v <#> (SELECT v FROM query) LIMIT 5', 'COSTS OFF, VERBOSE');
SELECT explained('SELECT * FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 5', 'COSTS OFF');
SELECT explained('SELECT * FROM points ORDER BY id LIMIT 5', 'ANALYZE, VERBOSE, COSTS OFF, TIMING OFF');
SET hnsw.ef_search = 30;
EXPLAIN (SETTINGS, COSTS OFF) SELECT 1;
RESET hnsw.ef_search;
-- Statements that hold a query.
PREPARE nearest(int) AS SELECT id FROM points ORDER BY v <-> (SELECT v FROM points WHERE id = $1) LIMIT 5;
SELECT explained('EXECUTE nearest(3)');
SET plan_cache_mode = force_generic_plan;
SELECT explained('EXECUTE nearest(3)');
RESET plan_cache_mode;
SELECT explained('EXECUTE nearest(3, 4)');
SELECT explained('EXECUTE nothing');
SELECT explained('EXECUTE nearest(3)', 'COSTS OFF, VERBOSE');
SELECT explained('EXECUTE nearest(3)', 'COSTS OFF');
SELECT explained('CREATE TABLE copied AS SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 5');
SELECT explained('CREATE TABLE again AS EXECUTE nearest(3)');
DROP TABLE copied, again;
SELECT explained('DECLARE c CURSOR FOR SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 5', 'VERBOSE, COSTS OFF');
DEALLOCATE nearest;
-- EXPLAIN within EXPLAIN: each tells of its own.
CREATE FUNCTION inner_explain() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2;
    RETURN QUERY SELECT explained('SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2');
END $$;
CREATE TABLE told (line text);
SELECT explained('INSERT INTO told SELECT inner_explain() FROM (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 1) AS one');
SELECT * FROM told;
-- An ERROR leaves nothing behind.
SELECT explained('SELECT id / 0 FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2');
SELECT explained('SELECT v <-> ''[1]'' FROM points');
SELECT count(*) FROM (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2) AS two;
SELECT explained('SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2');
CREATE FUNCTION caught() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM explained('SELECT id / 0 FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2');
    EXCEPTION WHEN division_by_zero THEN
        RETURN NEXT 'caught';
    END;
    RETURN NEXT count(*) FROM (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 2) AS two;
END $$;
TRUNCATE told;
SELECT explained('INSERT INTO told SELECT caught() FROM (SELECT id FROM points ORDER BY v <-> (SELECT v FROM query) LIMIT 1) AS one');
SELECT * FROM told;
DROP VIEW query;
DROP TABLE points, told;
DROP FUNCTION explained, inner_explain, caught;
