-- What a search of an index does.
CREATE TABLE points (id int PRIMARY KEY, v vector(64));
SELECT setseed(0.5);
INSERT INTO points SELECT i, ARRAY(SELECT random() FROM generate_series(1, 64) WHERE i > 0)::real[]::vector
FROM generate_series(1, 500) AS i;
CREATE INDEX fused ON points USING hnsw (v vector_l2_ops);
CREATE INDEX plain ON points USING hnsw (v vector_cosine_ops) WITH (storage = plain);
CREATE VIEW query AS SELECT v FROM points WHERE id = 7;
-- Rows are compared with the query only where codes do not tell the exact order.
SELECT step, vertices > 0 AS vertices, neighbours > 0 AS neighbours, pages > 0 AND step <> 'compare rows' AS pages, rows > 0 AS rows,
       microseconds >= 0 AS microseconds
FROM insitu.explain_search('fused', (SELECT v FROM query));
SELECT step, vertices > 0 AS vertices, neighbours > 0 AS neighbours, pages > 0 AND step <> 'compare rows' AS pages, rows > 0 AS rows,
       microseconds >= 0 AS microseconds
FROM insitu.explain_search('plain', (SELECT v FROM query));
-- A search returns what it is asked for, and no more than ef_search finds.
SELECT k, rows FROM generate_series(1, 25, 8) AS k, insitu.explain_search('fused', (SELECT v FROM query), k)
WHERE step = 'return rows';
SET hnsw.ef_search = 5;
SELECT rows FROM insitu.explain_search('plain', (SELECT v FROM query), 10) WHERE step = 'return rows';
SET hnsw.iterative_scan = strict_order;
SELECT rows FROM insitu.explain_search('plain', (SELECT v FROM query), 10) WHERE step = 'return rows';
SET hnsw.iterative_scan = relaxed_order;
SELECT rows FROM insitu.explain_search('fused', (SELECT v FROM query), 600) WHERE step = 'return rows';
RESET hnsw.iterative_scan;
-- More vertices are visited by a wider search.
SELECT a.vertices < b.vertices AS more
FROM insitu.explain_search('fused', (SELECT v FROM query)) AS a,
     LATERAL (SELECT set_config('hnsw.ef_search', '100', false)) AS wider,
     LATERAL insitu.explain_search('fused', (SELECT v FROM query WHERE wider IS NOT NULL)) AS b
WHERE a.step = 'search level 0' AND b.step = 'search level 0';
RESET hnsw.ef_search;
-- Rows that are gone are fetched but not returned. A graph may lose the way to one of those that are left.
DELETE FROM points WHERE id > 3;
SELECT step, rows BETWEEN 2 AND 3 AS rows FROM insitu.explain_search('fused', (SELECT v FROM points WHERE id = 1))
WHERE step = 'return rows';
TRUNCATE points;
SELECT step, vertices, rows FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector);
-- A literal without a type, or text, is read as a vector of the index's type.
SELECT rows FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector::text) WHERE step = 'return rows';
PREPARE as_unknown AS SELECT rows FROM insitu.explain_search('fused', $1, 3) WHERE step = 'return rows';
EXECUTE as_unknown(array_fill(1, ARRAY[64])::vector::text);
DEALLOCATE as_unknown;
SELECT * FROM insitu.explain_search('fused', '[1,2,3]');
SELECT * FROM insitu.explain_search('fused', 'no vector', 3);
-- Errors.
SELECT * FROM insitu.explain_search('fused', '[1,2,3]'::vector);
SELECT * FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector, 0);
SELECT * FROM insitu.explain_search('fused', (SELECT '[1,2,3]'::halfvec));
SELECT * FROM insitu.explain_search('points_pkey', '[1,2,3]'::vector);
SELECT * FROM insitu.explain_search('points', '[1,2,3]'::vector);
SELECT * FROM insitu.explain_search('fused', NULL::vector);
CREATE ROLE explain_search_reader;
SET ROLE explain_search_reader;
SELECT * FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector);
RESET ROLE;
GRANT SELECT ON points TO explain_search_reader;
SET ROLE explain_search_reader;
SELECT step, rows FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector);
RESET ROLE;
ALTER TABLE points ENABLE ROW LEVEL SECURITY;
SET ROLE explain_search_reader;
SELECT step, rows FROM insitu.explain_search('fused', array_fill(1, ARRAY[64])::vector);
RESET ROLE;
ALTER TABLE points DISABLE ROW LEVEL SECURITY;
-- An expression of the index runs with the rights of the table's owner.
CREATE FUNCTION who_asks(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql COST 1
    AS $$ BEGIN RAISE NOTICE 'by %', current_user; RETURN v; END $$;
GRANT CREATE ON SCHEMA public TO explain_search_reader;
INSERT INTO points VALUES (1, array_fill(1, ARRAY[64]));
ALTER TABLE points OWNER TO explain_search_reader;
SET client_min_messages = warning;
CREATE INDEX by_owner ON points USING hnsw ((public.who_asks(v)::vector(64)) vector_l2_ops);
RESET client_min_messages;
SELECT step, rows FROM insitu.explain_search('by_owner', array_fill(1, ARRAY[64])::vector) WHERE step = 'compare rows';
DROP VIEW query;
DROP TABLE points;
DROP FUNCTION who_asks;
REVOKE ALL ON SCHEMA public FROM explain_search_reader;
DROP OWNED BY explain_search_reader;
DROP ROLE explain_search_reader;
