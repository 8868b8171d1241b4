\i pg_test/plan.sql
-- The type halfvec: half-precision vectors.
SELECT '[1,2,3]'::halfvec, '[ -1.5 , 0.1 ,65504 ]'::halfvec, '[6e-8,1e-9]'::halfvec;
SELECT '[1,2,3]'::halfvec(3), '[1,2]'::halfvec(3);
SELECT '[1,2,3]'::halfvec(2);
SELECT '[65520]'::halfvec;
SELECT '[1e40]'::halfvec;
SELECT '[NaN]'::halfvec;
SELECT '[Infinity]'::halfvec;
SELECT '[]'::halfvec;
SELECT '[1,]'::halfvec;
SELECT '1,2'::halfvec;
SELECT '[1]x'::halfvec;
SELECT '[1]'::halfvec(0), 1;
SELECT '[1]'::halfvec(16001), 1;
SELECT array_fill(1, ARRAY[16000])::halfvec IS NOT NULL AS widest;
SELECT array_fill(1, ARRAY[16001])::halfvec;
SELECT pg_column_size('[1,2,3]'::halfvec) AS bytes, pg_typeof('[1]'::halfvec);
SELECT halfvec_send('[1,-2]'), halfvec_out('[0.1]');

-- Casts.
SELECT '[1.5,2.25]'::vector::halfvec, '[1.5,2.25]'::halfvec::vector, '[1.5]'::halfvec::real[];
SELECT '[0.1]'::vector::halfvec::vector AS rounded;
SELECT '[70000]'::vector::halfvec;
SELECT ARRAY[1,2]::halfvec, ARRAY[1.5,2]::real[]::halfvec, ARRAY[1.5]::double precision[]::halfvec,
       ARRAY[1.5]::numeric[]::halfvec;
SELECT ARRAY[1e6]::double precision[]::halfvec;
SELECT ARRAY[NULL]::real[]::halfvec;
SELECT ARRAY[[1,2]]::real[]::halfvec;
SELECT ARRAY[]::real[]::halfvec;
SELECT '[1,2]'::vector::halfvec(3);
SELECT '[1,2]'::halfvec::vector(3);
-- A vector is made a halfvec by itself where one is asked for.
SELECT l2_distance('[1,2]'::halfvec, '[4,6]'::vector::halfvec);

-- Functions and operators.
SELECT '[1,2,3]'::halfvec + '[4,5,6]' AS sum, '[1,2,3]'::halfvec - '[4,5,6]' AS difference,
       '[1,2,3]'::halfvec * '[4,5,6]' AS product, '[1,2]'::halfvec || '[3]' AS joined;
SELECT '[65000]'::halfvec + '[65000]';
SELECT '[1e-7]'::halfvec * '[1e-7]';
SELECT '[1]'::halfvec + '[1,2]';
SELECT '[0,0]'::halfvec <-> '[3,4]' AS l2, '[1,2]'::halfvec <#> '[3,4]' AS negative_product,
       '[1,1]'::halfvec <=> '[2,2]' AS cosine, '[0,0]'::halfvec <+> '[3,-4]' AS l1;
SELECT '[0,0]'::halfvec <=> '[1,1]' AS of_zero, inner_product('[1,2]'::halfvec, '[3,4]');
SELECT '[1]'::halfvec <-> '[1,2]';
SELECT vector_dims('[1,2,3]'::halfvec), l2_norm('[3,4]'::halfvec), l2_normalize('[3,4]'::halfvec),
       l2_normalize('[0,0]'::halfvec), binary_quantize('[1,0,-1]'::halfvec), subvector('[1,2,3]'::halfvec, 2, 5);
SELECT subvector('[1,2,3]'::halfvec, 4, 1);
-- Long ones take the whole of each kernel.
SELECT l2_distance(a, b), inner_product(a, b), cosine_distance(a, b), l1_distance(a, b)
FROM (SELECT array_agg(i % 7)::halfvec AS a, array_agg(i % 5)::halfvec AS b FROM generate_series(1, 100) AS i) AS long;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2]', '[3,5]']::halfvec[]) AS v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::halfvec[]) AS v;
SELECT avg(v) FROM unnest(ARRAY['[1,2]', '[3]']::halfvec[]) AS v;

-- Order.
CREATE TABLE halves (v halfvec(3));
INSERT INTO halves VALUES ('[1,2,3]'), ('[1,2,2]'), (NULL), ('[0,5,5]'), ('[1,2,3]');
SELECT v FROM halves ORDER BY v;
SELECT DISTINCT v FROM halves ORDER BY v DESC;
CREATE INDEX ON halves (v);
SET enable_seqscan = off;
SELECT count(*) FROM halves WHERE v = '[1,2,3]';
SELECT '[1,2]'::halfvec < '[1,2,3]', '[1,2]'::halfvec >= '[1,2]', '[-0]'::halfvec = '[0]', '[1]'::halfvec <> '[2]';
DROP TABLE halves;

-- Indexes: the row itself is nearest, and the order is that of the operator.
CREATE TABLE half_points (id int PRIMARY KEY, v halfvec(96), body vector(96));
INSERT INTO half_points SELECT i, v, v FROM generate_series(1, 400) AS i,
    LATERAL (SELECT array_agg(sin(i * j))::real[]::vector AS v FROM generate_series(1, 96) AS j) AS made;
-- Whether short codes will do is a close thing for these rows: the sample decides, and a NOTICE tells.
SET client_min_messages = warning;
CREATE INDEX half_l2 ON half_points USING hnsw (v halfvec_l2_ops);
CREATE INDEX half_ip ON half_points USING hnsw (v halfvec_ip_ops);
RESET client_min_messages;
CREATE INDEX half_cosine ON half_points USING hnsw (v halfvec_cosine_ops) WITH (storage = plain);
CREATE INDEX half_l1 ON half_points USING hnsw (v halfvec_l1_ops);
CREATE INDEX half_cast ON half_points USING hnsw ((body::halfvec(96)) halfvec_cosine_ops);
SELECT pg_temp.plan($$SELECT id FROM half_points ORDER BY v <-> (SELECT v FROM half_points WHERE id = 5) LIMIT 3$$);
SELECT id FROM half_points ORDER BY v <-> (SELECT v FROM half_points WHERE id = 5) LIMIT 1;
SELECT id FROM half_points ORDER BY v <=> (SELECT v FROM half_points WHERE id = 6) LIMIT 1;
SELECT id FROM half_points ORDER BY v <+> (SELECT v FROM half_points WHERE id = 7) LIMIT 1;
SELECT pg_temp.plan($$SELECT id FROM half_points ORDER BY body::halfvec(96) <=> (SELECT v FROM half_points WHERE id = 8) LIMIT 1$$);
SELECT id FROM half_points ORDER BY body::halfvec(96) <=> (SELECT v FROM half_points WHERE id = 8) LIMIT 1;
SELECT count(*) FROM (SELECT id, row_number() OVER (ORDER BY d) AS exact, row_number() OVER () AS returned
    FROM (SELECT id, v <#> (SELECT v FROM half_points WHERE id = 9) AS d FROM half_points
          ORDER BY v <#> (SELECT v FROM half_points WHERE id = 9) LIMIT 20) AS rows) AS ranks
WHERE exact <> returned;
SELECT heap_tids FROM insitu.verify_index('half_l2');
SELECT heap_tids FROM insitu.verify_index('half_l1');
SELECT rows FROM insitu.explain_search('half_l2', (SELECT v FROM half_points WHERE id = 5), 3) WHERE step = 'return rows';
SELECT id FROM half_points ORDER BY v <-> '[1,2,3]' LIMIT 1;
INSERT INTO half_points VALUES (401, array_fill(2, ARRAY[96])::halfvec, NULL);
SELECT id FROM half_points ORDER BY v <-> array_fill(2, ARRAY[96])::halfvec LIMIT 1;
DROP TABLE half_points;
RESET enable_seqscan;
