\i pg_test/plan.sql
-- Nearest rows by <+>, through an index of vector_l1_ops.
SET enable_seqscan = off;
CREATE TABLE l1_points (id int PRIMARY KEY, emb vector(2));
INSERT INTO l1_points VALUES (1, '[0,0]'), (2, '[1,2]'), (3, '[3,1]'), (4, '[-2,5]'), (5, NULL), (6, '[10,-1]');
CREATE INDEX l1_points_emb ON l1_points USING hnsw (emb vector_l1_ops);
INSERT INTO l1_points VALUES (7, '[2,2.5]'), (8, '[-4,-4]'), (9, NULL);

EXPLAIN (COSTS OFF) SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]' LIMIT 3;
SELECT id, emb, round((emb <+> '[2,2.1]')::numeric, 5) AS distance FROM l1_points ORDER BY emb <+> '[2,2.1]' LIMIT 4;
SELECT id FROM l1_points ORDER BY emb <+> '[-1.4,-3.25]';
SELECT id FROM l1_points WHERE id % 2 = 0 ORDER BY emb <+> '[-1.4,-3.25]' LIMIT 2;
SELECT id FROM l1_points ORDER BY emb <+> (SELECT emb FROM l1_points WHERE id = 3) LIMIT 3;
SELECT count(*) FROM (SELECT id FROM l1_points ORDER BY emb <+> (SELECT NULL::vector) LIMIT 3) n;
SELECT id FROM l1_points ORDER BY emb <+> '[1,2,3]' LIMIT 3;

-- Another operator is not this index's.
SELECT pg_temp.plan($$SELECT id FROM l1_points ORDER BY emb <-> '[2,2.1]' LIMIT 3$$);

SET hnsw.iterative_scan = strict_order;
SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]';
SET hnsw.iterative_scan = relaxed_order;
SELECT id FROM l1_points WHERE id % 3 <> 1 ORDER BY emb <+> '[2,2.1]';
RESET hnsw.iterative_scan;

UPDATE l1_points SET emb = '[2,2.25]' WHERE id = 8;
DELETE FROM l1_points WHERE id IN (2, 7);
SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]' LIMIT 2;
VACUUM l1_points;
SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]';
SELECT heap_tids, unreachable FROM insitu.verify_index('l1_points_emb');
REINDEX INDEX l1_points_emb;
SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]' LIMIT 2;
SELECT vertices, heap_tids, free_slots, unreachable FROM insitu.verify_index('l1_points_emb');
SELECT count(*) FROM l1_points;
TRUNCATE l1_points;
SELECT id FROM l1_points ORDER BY emb <+> '[2,2.1]';
SELECT vertices, heap_tids, free_slots, unreachable FROM insitu.verify_index('l1_points_emb');
DROP TABLE l1_points;
RESET enable_seqscan;
