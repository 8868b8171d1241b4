\i pg_test/plan.sql
-- The type sparsevec: of a long vector, the components that are not zero.
SELECT '{1:1.5,3:-2}/5'::sparsevec, ' { 3 : 2 , 1:1e-3 } / 4 '::sparsevec, '{}/3'::sparsevec, '{2:0,1:1}/2'::sparsevec;
SELECT '{1:1}/1000000000'::sparsevec, '{1:1,2:2}/3'::sparsevec(3), pg_column_size('{1:1,2:2}/3'::sparsevec) AS bytes;
SELECT '{1:1}/3'::sparsevec(2);
SELECT '{1:1}/0'::sparsevec;
SELECT '{1:1}/1000000001'::sparsevec;
SELECT '{0:1}/3'::sparsevec;
SELECT '{4:1}/3'::sparsevec;
SELECT '{99999999999999999999:1}/3'::sparsevec;
SELECT '{1:1,1:2}/3'::sparsevec;
SELECT '{1:NaN}/3'::sparsevec;
SELECT '{1:-inf}/3'::sparsevec;
SELECT '{1:1e39}/3'::sparsevec;
SELECT '{1:1e-50}/3'::sparsevec;
SELECT '1:1/3'::sparsevec;
SELECT '{1:1,}/3'::sparsevec;
SELECT '{1}/3'::sparsevec;
SELECT '{1:x}/3'::sparsevec;
SELECT '{1:1}'::sparsevec;
SELECT '{1:1}/'::sparsevec;
SELECT '{1:1}/3 x'::sparsevec;
SELECT '{1:1}/3'::sparsevec(0), 1;
SELECT '{1:1}/3'::sparsevec(1000000001), 1;
SELECT sparsevec_send('{1:1,3:-2}/5'), sparsevec_out('{2:0.1}/2');

-- Casts.
SELECT '[1,0,2]'::vector::sparsevec, '[1,0,2]'::halfvec::sparsevec, '{1:1,3:2}/3'::sparsevec::vector, '{1:1,3:0.1}/3'::sparsevec::halfvec;
SELECT ARRAY[0,1,2]::sparsevec, ARRAY[0,1.5]::real[]::sparsevec, ARRAY[0,1.5]::double precision[]::sparsevec, ARRAY[0,1.5]::numeric[]::sparsevec;
SELECT '[1,2]'::vector::sparsevec(3);
SELECT '{1:1}/2'::sparsevec::vector(3);
SELECT '{1:1}/16001'::sparsevec::vector;
SELECT '{1:1}/16001'::sparsevec::halfvec;
SELECT '{1:70000}/2'::sparsevec::halfvec;
SELECT array_agg(1)::sparsevec FROM generate_series(1, 16001);
SELECT array_agg(i % 2)::sparsevec::text = array_agg(i % 2)::vector::sparsevec::text AS same FROM generate_series(1, 16000) AS i;

-- Functions and operators. What is in neither vector counts for nothing.
SELECT '{1:3}/9'::sparsevec <-> '{9:4}/9' AS l2, '{1:1,5:2}/9'::sparsevec <#> '{5:3,6:1}/9' AS negative_product,
       '{1:1,2:1}/9'::sparsevec <=> '{1:2,2:2}/9' AS cosine, '{1:3}/9'::sparsevec <+> '{1:1,2:-4}/9' AS l1;
SELECT '{}/2'::sparsevec <-> '{}/2' AS l2, '{}/2'::sparsevec <#> '{1:1}/2' AS product, '{}/2'::sparsevec <=> '{1:1}/2' AS cosine;
SELECT '{1:1}/2'::sparsevec <-> '{1:1}/3';
SELECT l2_norm('{1:3,7:4}/9'::sparsevec), l2_normalize('{1:3,7:4}/9'::sparsevec), l2_normalize('{}/9'::sparsevec);
SELECT l2_normalize('{1:1e30,2:1e-30}/2'::sparsevec) AS vanishes;
-- As the same vectors with their zeros.
SELECT bool_and(abs((a::sparsevec <-> b::sparsevec) - (a <-> b)) < 1e-4 AND abs((a::sparsevec <#> b::sparsevec) - (a <#> b)) < 1e-2
    AND abs((a::sparsevec <=> b::sparsevec) - (a <=> b)) < 1e-6 AND abs((a::sparsevec <+> b::sparsevec) - (a <+> b)) < 1e-3) AS same
FROM (SELECT array_agg(greatest(i * n % 17 - 9, 0))::vector AS a, array_agg(greatest(i * n % 19 - 11, 0))::vector AS b
      FROM generate_series(1, 100) AS i, generate_series(1, 16) AS n GROUP BY n) AS pairs;
-- A vector is at no distance from itself.
SELECT bool_and(v <=> v = 0 AND v <-> v = 0 AND v <+> v = 0) AS same
FROM (SELECT array_agg(sin(i * n))::vector::sparsevec AS v
      FROM generate_series(1, 100) AS i, generate_series(1, 50) AS n GROUP BY n) AS vectors;

-- Order: as of the same vectors with their zeros.
CREATE TABLE sparse (v sparsevec(4));
INSERT INTO sparse VALUES ('{1:1}/4'), ('{2:1}/4'), ('{1:-1}/4'), (NULL), ('{}/4'), ('{2:1,4:-1}/4'), ('{1:1}/4');
SELECT v FROM sparse ORDER BY v;
SELECT count(*) FROM (SELECT v::text, row_number() OVER (ORDER BY v) - row_number() OVER (ORDER BY v::vector) AS moved FROM sparse) AS places
WHERE moved <> 0;
SELECT DISTINCT v FROM sparse ORDER BY v DESC;
CREATE INDEX ON sparse (v);
SET enable_seqscan = off;
SELECT count(*) FROM sparse WHERE v = '{1:1}/4';
RESET enable_seqscan;
SELECT '{1:1}/2'::sparsevec < '{1:1}/3', '{1:1}/2'::sparsevec < '{2:1}/3', '{2:1}/2'::sparsevec < '{3:1}/3', '{1:1}/2'::sparsevec <> '{1:2}/2';
DROP TABLE sparse;

-- Indexes: the row itself is nearest, and the order is that of the operator, also where a code has not all components.
CREATE TABLE sparse_points (id int PRIMARY KEY, v sparsevec(5000));
INSERT INTO sparse_points SELECT n, ('{' || string_agg((i * n % 4999 + 1) || ':' || (i * 7 + n) % 11 + 1, ',') || '}/5000')::sparsevec
FROM generate_series(1, 300) AS n, generate_series(1, 20) AS i GROUP BY n;
INSERT INTO sparse_points VALUES (301, '{}/5000'), (302, NULL);
CREATE INDEX sparse_l2 ON sparse_points USING hnsw (v sparsevec_l2_ops);
CREATE INDEX sparse_ip ON sparse_points USING hnsw (v sparsevec_ip_ops);
CREATE INDEX sparse_cosine ON sparse_points USING hnsw (v sparsevec_cosine_ops) WITH (m = 8, ef_construction = 40);
CREATE INDEX sparse_l1 ON sparse_points USING hnsw (v sparsevec_l1_ops);
-- More components than the rows had when the index was built.
INSERT INTO sparse_points SELECT 400, ('{' || string_agg(i || ':' || 1 + i % 3, ',') || '}/5000')::sparsevec FROM generate_series(1, 100) AS i;
SET enable_seqscan = off;
SELECT pg_temp.plan($$SELECT id FROM sparse_points ORDER BY v <=> (SELECT v FROM sparse_points WHERE id = 5) LIMIT 3$$);
SELECT array_agg(id) FROM (SELECT id FROM sparse_points ORDER BY v <-> (SELECT v FROM sparse_points WHERE id = 5) LIMIT 1) AS l2
UNION ALL SELECT array_agg(id) FROM (SELECT id FROM sparse_points ORDER BY v <=> (SELECT v FROM sparse_points WHERE id = 6) LIMIT 1) AS cosine
UNION ALL SELECT array_agg(id) FROM (SELECT id FROM sparse_points ORDER BY v <+> (SELECT v FROM sparse_points WHERE id = 7) LIMIT 1) AS l1
UNION ALL SELECT array_agg(id) FROM (SELECT id FROM sparse_points ORDER BY v <=> (SELECT v FROM sparse_points WHERE id = 400) LIMIT 1) AS wide
UNION ALL SELECT array_agg(id) FROM (SELECT id FROM sparse_points ORDER BY v <-> '{}/5000' LIMIT 1) AS zero;
SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY d) AS exact, row_number() OVER () AS returned
    FROM (SELECT v <#> (SELECT v FROM sparse_points WHERE id = 9) AS d FROM sparse_points
          ORDER BY v <#> (SELECT v FROM sparse_points WHERE id = 9) LIMIT 20) AS rows) AS ranks
WHERE exact <> returned;
SELECT heap_tids FROM insitu.verify_index('sparse_l2');
SELECT heap_tids FROM insitu.verify_index('sparse_cosine');
SELECT rows FROM insitu.explain_search('sparse_l2', (SELECT v FROM sparse_points WHERE id = 5), 3) WHERE step = 'return rows';
SELECT count(*) FROM (SELECT id FROM sparse_points ORDER BY v <-> (SELECT NULL::sparsevec) LIMIT 5) AS any_five;
SELECT id FROM sparse_points ORDER BY v <-> '{1:1}/3' LIMIT 1;
DELETE FROM sparse_points WHERE id % 2 = 0;
VACUUM sparse_points;
-- A graph may lose the way to a few.
SELECT heap_tids, unreachable <= 3 AS reached FROM insitu.verify_index('sparse_l2');
CREATE INDEX ON sparse_points USING hnsw (v sparsevec_l2_ops) WITH (storage = fused);
DROP TABLE sparse_points;
RESET enable_seqscan;
