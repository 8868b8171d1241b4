\i pg_test/plan.sql
-- Distances of bit strings.
SELECT hamming_distance(B'111', B'100'), B'111' <~> B'111' AS same, B'1' <~> B'0' AS one, B'' <~> B'' AS empty;
SELECT jaccard_distance(B'1111', B'1100'), B'1100' <%> B'1010' AS third, B'00' <%> B'11' AS nothing_common, B'00' <%> B'00' AS none;
SELECT B'111' <~> B'11';
SELECT B'111' <%> B'1';
-- Longer than any register, with a rest.
SELECT repeat('10', 515)::varbit::bit(1030) <~> repeat('01', 515)::varbit::bit(1030) AS all_differ,
       repeat('10', 515)::varbit::bit(1030) <%> repeat('11', 515)::varbit::bit(1030) AS half_common;
-- The nearest by signs, put into order by the vectors.
CREATE TABLE signs (id int PRIMARY KEY, v vector(64));
INSERT INTO signs SELECT i, (SELECT array_agg(sin(i * j))::real[]::vector FROM generate_series(1, 64) AS j)
FROM generate_series(1, 200) AS i;
SELECT id FROM (
    SELECT id, v FROM signs
    ORDER BY binary_quantize(v)::bit(64) <~> binary_quantize((SELECT v FROM signs WHERE id = 3))::bit(64) LIMIT 20
) AS candidates ORDER BY v <-> (SELECT v FROM signs WHERE id = 3) LIMIT 1;

-- Indexes: on the signs of vectors, put into order by the vectors; and on bits.
CREATE INDEX signs_v ON signs USING hnsw ((binary_quantize(v)::bit(64)) bit_hamming_ops);
SET enable_seqscan = off;
SELECT pg_temp.plan($$
SELECT id FROM signs
ORDER BY binary_quantize(v)::bit(64) <~> binary_quantize((SELECT v FROM signs WHERE id = 3))::bit(64) LIMIT 20$$);
SELECT id FROM (
    SELECT id, v FROM signs
    ORDER BY binary_quantize(v)::bit(64) <~> binary_quantize((SELECT v FROM signs WHERE id = 3))::bit(64) LIMIT 20
) AS candidates ORDER BY v <-> (SELECT v FROM signs WHERE id = 3) LIMIT 1;
SELECT heap_tids FROM insitu.verify_index('signs_v');
DROP TABLE signs;

CREATE TABLE flags (b bit(10), v varbit(10));
INSERT INTO flags SELECT b, b FROM (SELECT i::bit(10) AS b FROM generate_series(0, 299) AS i) AS numbers;
INSERT INTO flags VALUES (NULL, NULL);
CREATE INDEX flags_hamming ON flags USING hnsw (b bit_hamming_ops) WITH (m = 8, ef_construction = 32);
CREATE INDEX flags_jaccard ON flags USING hnsw (b bit_jaccard_ops);
INSERT INTO flags VALUES (B'1111111111', NULL);
SELECT b, b <~> B'1111111111' AS distance FROM flags ORDER BY b <~> B'1111111111' LIMIT 1;
SELECT b, b <%> B'0000000111' AS distance FROM flags ORDER BY b <%> B'0000000111' LIMIT 1;
EXPLAIN (COSTS OFF) SELECT b FROM flags ORDER BY b <%> B'0000000111' LIMIT 1;
SELECT count(*) FROM (SELECT b FROM flags ORDER BY b <~> (SELECT NULL::bit(10)) LIMIT 5) AS any_five;
SELECT heap_tids FROM insitu.verify_index('flags_hamming');
SELECT heap_tids FROM insitu.verify_index('flags_jaccard');
SELECT rows FROM insitu.explain_search('flags_hamming', B'1111111111', 3) WHERE step = 'return rows';
SELECT b FROM flags ORDER BY b <~> B'111' LIMIT 1;
CREATE INDEX ON flags USING hnsw (b bit_hamming_ops) WITH (storage = fused);
CREATE INDEX ON flags USING hnsw (v bit_hamming_ops);
CREATE INDEX ON flags USING hnsw ((b::bit(64000)) bit_hamming_ops);
CREATE INDEX ON flags USING hnsw ((b::bit(64001)) bit_hamming_ops);
DROP TABLE flags;
RESET enable_seqscan;
