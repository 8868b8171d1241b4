\i pg_test/plan.sql
-- Inverted lists, under their own name and under pgvector's.
SET enable_seqscan = off;
CREATE TABLE spots (id int PRIMARY KEY, emb vector(2));
INSERT INTO spots VALUES (1, '[0,0]'), (2, '[1,2]'), (3, '[3,1]'), (4, '[-2,5]'), (5, NULL), (6, '[10,-1]');
CREATE INDEX spots_l2 ON spots USING ivf (emb vector_l2_ops);
INSERT INTO spots VALUES (7, '[2,2.5]'), (8, '[-4,-4]'), (9, NULL);
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY emb <-> '[2,2.1]' LIMIT 3;
SELECT id, emb, round((emb <-> '[2,2.1]')::numeric, 5) AS distance FROM spots ORDER BY emb <-> '[2,2.1]' LIMIT 4;
SELECT id FROM spots ORDER BY emb <-> '[-1.4,-3.25]';
SELECT id FROM spots WHERE id % 2 = 0 ORDER BY emb <-> '[-1.4,-3.25]' LIMIT 2;
SELECT count(*) FROM (SELECT id FROM spots ORDER BY emb <-> (SELECT NULL::vector) LIMIT 3) n;
SELECT id FROM spots ORDER BY emb <-> '[1,2,3]' LIMIT 3;
INSERT INTO spots VALUES (10, '[1,2,3]');
-- Another operator is not this index's.
SELECT pg_temp.plan($$SELECT id FROM spots ORDER BY emb <#> '[2,2.1]' LIMIT 3$$);
UPDATE spots SET emb = '[2,2.25]' WHERE id = 8;
DELETE FROM spots WHERE id IN (2, 7);
VACUUM spots;
SELECT id FROM spots ORDER BY emb <-> '[2,2.1]';
SELECT * FROM insitu.verify_index('spots_l2');
REINDEX INDEX spots_l2;
SELECT id FROM spots ORDER BY emb <-> '[2,2.1]' LIMIT 2;
SELECT * FROM insitu.verify_index('spots_l2');
DROP INDEX spots_l2;

-- The other distances. Vectors without a direction are not in an index of directions.
CREATE INDEX spots_ip ON spots USING ivfflat (emb vector_ip_ops) WITH (lists = 2);
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY emb <#> '[2,2.1]' LIMIT 3;
SET ivfflat.probes = 2;
SELECT id FROM spots ORDER BY emb <#> '[2,2.1]';
DROP INDEX spots_ip;
CREATE INDEX spots_cosine ON spots USING ivfflat (emb vector_cosine_ops) WITH (lists = 2);
SELECT id FROM spots ORDER BY emb <=> '[2,2.1]';
SELECT count(*) FROM (SELECT id FROM spots ORDER BY emb <=> '[0,0]' LIMIT 9) n;
SELECT heap_tids, lists FROM insitu.verify_index('spots_cosine');
DROP INDEX spots_cosine;
RESET ivfflat.probes;
DROP TABLE spots;

-- Halves, strings of bits, parts of rows, expressions.
CREATE TABLE forms (id int PRIMARY KEY, h halfvec(3), b bit(5), v vector(4));
INSERT INTO forms SELECT i, ARRAY[i, i % 3, i % 7], (i % 32)::bit(5), ARRAY[i % 11, 1, i, i % 5] FROM generate_series(1, 60) i;
CREATE INDEX forms_h ON forms USING ivf (h halfvec_l2_ops);
SELECT id FROM forms ORDER BY h <-> '[17,2,3]' LIMIT 3;
CREATE INDEX forms_b ON forms USING ivf (b bit_hamming_ops);
SELECT id, b <~> B'10001' AS differing FROM forms ORDER BY b <~> B'10001', id LIMIT 4;
CREATE INDEX forms_part ON forms USING ivf (v vector_l2_ops) WHERE id > 30;
SELECT id FROM forms WHERE id > 30 ORDER BY v <-> '[1,1,12,2]' LIMIT 2;
CREATE INDEX forms_half ON forms USING ivf ((v::halfvec(4)) halfvec_cosine_ops);
SELECT id FROM forms ORDER BY v::halfvec(4) <=> '[0,1,11,1]' LIMIT 2;
CREATE INDEX forms_signs ON forms USING ivf ((binary_quantize(v)::bit(4)) bit_hamming_ops);
SELECT id FROM (SELECT id, v FROM forms ORDER BY binary_quantize(v)::bit(4) <~> binary_quantize('[1,1,12,2]'::vector) LIMIT 60) near
ORDER BY v <-> '[1,1,12,2]' LIMIT 2;
SELECT relname, (insitu.verify_index(oid::regclass)).heap_tids FROM pg_class WHERE relname LIKE 'forms\__%' AND relam <> 403 ORDER BY 1;
DROP TABLE forms;

-- Lists, and how many of them a scan takes.
CREATE TABLE line (id int PRIMARY KEY, emb vector(1));
CREATE INDEX line_early ON line USING ivfflat (emb) WITH (lists = 5);
INSERT INTO line SELECT i, ARRAY[i] FROM generate_series(1, 1000) i;
SELECT heap_tids, lists FROM insitu.verify_index('line_early');
SELECT lists, empty_lists, longest_list, rows, rows_when_built, drift FROM insitu.index_stats('line_early');
DROP INDEX line_early;
CREATE INDEX line_emb ON line USING ivfflat (emb) WITH (lists = 10);
ANALYZE line;
SELECT lists, empty_lists, rows, rows_when_built, round(drift::numeric, 3) AS drift FROM insitu.index_stats('line_emb');
SELECT count(*) < 1000 AS some, max(abs(id - 500)) < 300 AS near FROM (SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 1000) n;
SET ivfflat.probes = 10;
SELECT count(*) FROM (SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 1000) n;
SET ivfflat.probes = 1;
SET ivfflat.iterative_scan = relaxed_order;
SELECT count(*) FROM (SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 1000) n;
SELECT id FROM line WHERE id % 500 = 0 ORDER BY emb <-> '[500]' LIMIT 2;
SET ivfflat.max_probes = 2;
SELECT count(*) < 1000 AS some FROM (SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 1000) n;
RESET ivfflat.iterative_scan;
RESET ivfflat.max_probes;
RESET ivfflat.probes;
-- Rows unlike those that the index was built with show as drift.
INSERT INTO line SELECT i, ARRAY[i * 10] FROM generate_series(1001, 1500) i;
SELECT drift > 100 AS drifted, rows, rows_when_built FROM insitu.index_stats('line_emb');
REINDEX INDEX line_emb;
SELECT round(drift::numeric, 3) AS drift, rows, rows_when_built FROM insitu.index_stats('line_emb');
-- What a search does.
SELECT step, vertices > 0 AS vertices, neighbours > 0 AS neighbours, rows >= 3 AS rows
FROM insitu.explain_search('line_emb', '[5.2]'::vector, 3);
-- The server takes the index where it is cheaper.
RESET enable_seqscan;
EXPLAIN (COSTS OFF) SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM line WHERE id < 5 ORDER BY emb <-> '[500]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT count(*) FROM line;

-- Centroids from a table.
CREATE TABLE marks (name text, place vector(1));
INSERT INTO marks VALUES ('low', '[100]'), ('middle', '[500]'), ('none', NULL), ('high', '[900]');
DROP INDEX line_emb;
CREATE INDEX line_emb ON line USING ivf (emb) WITH (centroids = 'marks');
SELECT lists, rows FROM insitu.index_stats('line_emb');
SET enable_seqscan = off;
SET ivf.probes = 1;
SELECT count(*) BETWEEN 350 AND 450 AS a_third FROM (SELECT id FROM line ORDER BY emb <-> '[500]' LIMIT 1000) n;
RESET ivf.probes;
RESET enable_seqscan;
ALTER TABLE marks ADD COLUMN other vector(1);
REINDEX INDEX line_emb;
ALTER TABLE marks DROP COLUMN other;
DROP TABLE marks;
ALTER TABLE marks RENAME TO signs;
REINDEX INDEX line_emb;
SELECT heap_tids, lists FROM insitu.verify_index('line_emb');
ALTER INDEX line_emb SET (centroids = 'nowhere.signs');
REINDEX INDEX line_emb;
ALTER INDEX line_emb RESET (centroids);
REINDEX INDEX line_emb;
DROP TABLE signs;
CREATE INDEX ON line USING ivf (emb) WITH (centroids = 'signs');
CREATE TEMPORARY TABLE signs (place vector(1));
CREATE INDEX ON line USING ivf (emb) WITH (centroids = 'signs');
DROP TABLE signs;
CREATE TABLE no_marks (place vector(1));
CREATE INDEX ON line USING ivf (emb) WITH (centroids = 'no_marks');
DROP TABLE line, no_marks;

-- Options.
CREATE TABLE options (emb vector(3), wide vector(16000), any_width vector, sparse sparsevec(3), note text);
CREATE INDEX ON options USING ivf (emb) WITH (lists = -1);
CREATE INDEX ON options USING ivf (emb) WITH (lists = 32769);
CREATE INDEX ON options USING ivfflat (emb) WITH (lists = 0);
CREATE INDEX ON options USING ivf (emb) WITH (bits = 5);
CREATE INDEX ON options USING ivf (emb) WITH (m = 16);
CREATE INDEX options_auto ON options USING ivf (emb) WITH (lists = 0, bits = auto);
CREATE INDEX options_four ON options USING ivf (emb vector_cosine_ops) WITH (bits = 4);
SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'options\_%' ORDER BY relname;
-- Codes of 8 bits of the widest vectors do not fit into a page; 4 bits do.
CREATE INDEX ON options USING ivf (wide) WITH (bits = 8);
CREATE INDEX options_wide ON options USING ivf (wide);
INSERT INTO options (wide) SELECT array_agg(i * k % 101) FROM generate_series(1, 16000) i, generate_series(1, 3) k GROUP BY k;
SET enable_seqscan = off;
SELECT round((wide <-> array_fill(1, ARRAY[16000])::vector)::numeric, 1) AS distance FROM options ORDER BY wide <-> array_fill(1, ARRAY[16000])::vector;
RESET enable_seqscan;
SELECT heap_tids FROM insitu.verify_index('options_wide');
-- What an index can't be built on.
CREATE INDEX ON options USING ivf (any_width);
CREATE INDEX ON options USING ivf (sparse);
CREATE INDEX ON options USING ivf (note);
CREATE INDEX ON options USING ivf (emb vector_l1_ops);
CREATE UNIQUE INDEX ON options USING ivf (emb);
SET maintenance_work_mem = '1MB';
INSERT INTO options (emb, wide) SELECT '[1,2,3]', array_fill(i, ARRAY[16000]) FROM generate_series(1, 20) i;
CREATE INDEX ON options USING ivf (wide) WITH (lists = 20);
RESET maintenance_work_mem;
DROP TABLE options;
SELECT * FROM insitu.index_stats('pg_class_oid_index');

-- So many lists are in branches.
CREATE TABLE many (id int, emb vector(6));
INSERT INTO many SELECT i, ARRAY[sin(i), cos(i * 1.7), sin(i * 0.3), cos(i * 0.11), sin(i * 2.9), cos(i * 0.7)] FROM generate_series(1, 12000) i;
CREATE TABLE many_centroids AS SELECT emb FROM many WHERE id % 4 > 0;
CREATE INDEX many_l2 ON many USING ivf (emb) WITH (lists = 9000);
CREATE INDEX many_ip ON many USING ivf (emb vector_ip_ops) WITH (centroids = many_centroids);
CREATE INDEX many_cosine ON many USING ivf (emb vector_cosine_ops) WITH (lists = 9000);
INSERT INTO many SELECT id + 12000, emb * array_fill(1.001, ARRAY[6])::vector FROM many WHERE id <= 500;
DELETE FROM many WHERE id % 7 = 0;
VACUUM many;
SELECT name, heap_tids FROM unnest(ARRAY['many_l2', 'many_ip', 'many_cosine']) name, insitu.verify_index(name::regclass) ORDER BY name;
-- Centroids with equal codes are one.
SELECT name, lists BETWEEN 8800 AND 9000 AS lists, rows FROM unnest(ARRAY['many_l2', 'many_ip', 'many_cosine']) name, insitu.index_stats(name::regclass) ORDER BY name;
SET enable_seqscan = off;
-- Most lists are not compared with the query.
SELECT neighbours BETWEEN 500 AND 6000 AS few FROM insitu.explain_search('many_l2', '[1,0,0,1,0,1]'::vector, 5) WHERE step = 'choose lists';
-- All of them have all rows.
SET ivf.probes = 9000;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM many ORDER BY emb <-> '[1,0,0,1,0,1]') found;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM many ORDER BY emb <#> '[1,0,0,1,0,1]') found;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM many ORDER BY emb <=> '[1,0,0,1,0,1]') found;
RESET ivf.probes;
-- Few have what is near.
CREATE TABLE asked AS SELECT id, emb FROM many WHERE id % 400 = 1;
CREATE TABLE found AS SELECT a.id AS asked, n.id FROM asked a, LATERAL (SELECT id FROM many ORDER BY emb <-> a.emb LIMIT 5) n;
SET enable_indexscan = off;
CREATE TABLE exact AS SELECT a.id AS asked, n.id FROM asked a, LATERAL (SELECT id FROM many ORDER BY emb <-> a.emb LIMIT 5) n;
RESET enable_indexscan;
RESET enable_seqscan;
SELECT count(*) AS exact, count(f.id) >= 0.9 * count(*) AS found FROM exact LEFT JOIN found f USING (asked, id);
DROP TABLE many, many_centroids, asked, found, exact;

-- Settings.
SHOW ivf.probes;
SHOW ivfflat.probes;
SET ivfflat.probes = 0;
SET ivfflat.probes = 32769;
SET ivf.probes = -1;
SET ivfflat.iterative_scan = strict_order;
SHOW ivfflat.iterative_scan;
SET ivfflat.max_probes = 0;
SHOW ivfflat.max_probes;
SET ivf.lists = 5;
RESET ivf.probes;

-- Unlogged tables, and tables that come and go.
CREATE UNLOGGED TABLE loose (id int, emb vector(3));
INSERT INTO loose SELECT i, ARRAY[i, 1, 2] FROM generate_series(1, 10) i;
CREATE INDEX loose_emb ON loose USING ivf (emb);
CREATE INDEX CONCURRENTLY loose_again ON loose USING ivf (emb vector_cosine_ops);
REINDEX INDEX CONCURRENTLY loose_emb;
SELECT (insitu.verify_index('loose_emb')).heap_tids, (insitu.verify_index('loose_again')).heap_tids AS again;
TRUNCATE loose;
SELECT * FROM insitu.verify_index('loose_emb');
DROP TABLE loose;
CREATE TEMP TABLE brief (emb vector(2)) ON COMMIT DELETE ROWS;
CREATE INDEX ON brief USING ivf (emb);
BEGIN;
INSERT INTO brief VALUES ('[1,2]'), ('[2,3]');
SET LOCAL enable_seqscan = off;
SELECT emb FROM brief ORDER BY emb <-> '[2,2.9]';
COMMIT;
SELECT count(*) FROM brief;
