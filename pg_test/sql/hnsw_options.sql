-- Options of the index.
CREATE TABLE options (emb vector(3), any_width vector, note text);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (m = 1);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (m = 101);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (ef_construction = 3);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (ef_construction = 1001);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (m = 16, ef_construction = 31);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (m = 33);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (m = 'many');
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (lists = 100);
CREATE INDEX options_least ON options USING hnsw (emb vector_l2_ops) WITH (m = 2, ef_construction = 4);
CREATE INDEX options_most ON options USING hnsw (emb vector_l2_ops) WITH (m = 100, ef_construction = 1000);
CREATE INDEX options_some ON options USING hnsw (emb vector_cosine_ops) WITH (m = 8);
SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'options\_%' ORDER BY relname;

-- What vertices hold.
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) WITH (storage = compressed);
CREATE INDEX ON options USING hnsw (emb vector_l1_ops) WITH (storage = fused);
CREATE INDEX options_l1 ON options USING hnsw (emb vector_l1_ops) WITH (storage = auto);
CREATE INDEX options_plain ON options USING hnsw (emb vector_l2_ops) WITH (storage = plain);
CREATE INDEX options_fused ON options USING hnsw (emb vector_ip_ops) WITH (storage = fused);
SELECT relname, reloptions FROM pg_class WHERE relname IN ('options_l1', 'options_plain', 'options_fused') ORDER BY 1;
-- An option that an index cannot have is told when it is rebuilt; until then it answers.
ALTER INDEX options_l1 SET (storage = fused);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT note FROM options ORDER BY emb <+> '[1,2,3]' LIMIT 1;
RESET enable_seqscan;
REINDEX INDEX options_l1;
DROP INDEX options_l1, options_plain, options_fused;

ALTER INDEX options_some SET (m = 1);
ALTER INDEX options_some SET (m = 12, ef_construction = 200);
ALTER INDEX options_some RESET (m, ef_construction);

-- What an index can't be built on.
CREATE INDEX ON options USING hnsw (emb);
CREATE INDEX ON options USING hnsw (any_width vector_l2_ops);
CREATE INDEX ON options USING hnsw (note vector_l2_ops);
CREATE INDEX ON options USING hnsw (emb vector_ops);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops, any_width vector_l2_ops);
CREATE UNIQUE INDEX ON options USING hnsw (emb vector_l2_ops);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops) INCLUDE (note);
CREATE INDEX ON options USING hnsw (emb vector_l2_ops DESC);
CREATE TABLE bits (b bit(3), EXCLUDE USING hnsw (b bit_hamming_ops WITH =));
CLUSTER options USING options_least;
CREATE INDEX ON options USING hnsw ((any_width::vector(3)) vector_l2_ops);
DROP TABLE options;

-- Both storages give the exact order, of rows too that a short code can't tell apart.
CREATE TABLE near (id int, emb vector(3));
INSERT INTO near SELECT i, ARRAY[1, 0, i / 1e6::float8] FROM generate_series(1, 30) i;
CREATE INDEX near_plain ON near USING hnsw (emb vector_l2_ops) WITH (storage = plain);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM near ORDER BY emb <-> '[1,0,0.0000052]' LIMIT 6;
SELECT id FROM near ORDER BY emb <-> '[1,0,0.0000052]' LIMIT 6;
DROP INDEX near_plain;
CREATE INDEX near_fused ON near USING hnsw (emb vector_l2_ops) WITH (storage = fused);
EXPLAIN (COSTS OFF) SELECT id FROM near ORDER BY emb <-> '[1,0,0.0000052]' LIMIT 6;
SELECT id FROM near ORDER BY emb <-> '[1,0,0.0000052]' LIMIT 6;
RESET enable_seqscan;
DROP TABLE near;

-- Settings of a scan.
SHOW hnsw.ef_search;
SET hnsw.ef_search = 0;
SET hnsw.ef_search = 1001;
SET hnsw.ef_search = 1000;
RESET hnsw.ef_search;
SHOW hnsw.iterative_scan;
SET hnsw.iterative_scan = on;
SET hnsw.iterative_scan = relaxed_order;
SET hnsw.iterative_scan = strict_order;
SET hnsw.iterative_scan = off;
SHOW hnsw.max_scan_tuples;
SET hnsw.max_scan_tuples = 0;
SET hnsw.max_scan_tuples = 1;
RESET hnsw.max_scan_tuples;
SHOW hnsw.scan_mem_multiplier;
SET hnsw.scan_mem_multiplier = 0.5;
SET hnsw.scan_mem_multiplier = 1001;
SET hnsw.scan_mem_multiplier = 2.5;
RESET hnsw.scan_mem_multiplier;
SET hnsw.no_such_setting = 1;

-- What the access method says of itself.
SELECT amname, pg_indexam_has_property(oid, 'can_order') AS can_order, pg_indexam_has_property(oid, 'can_unique') AS can_unique,
       pg_indexam_has_property(oid, 'can_multi_col') AS can_multi_col, pg_indexam_has_property(oid, 'can_include') AS can_include
FROM pg_am WHERE amname = 'hnsw';
SELECT amvalidate(oid) FROM pg_opclass WHERE opcmethod = (SELECT oid FROM pg_am WHERE amname = 'hnsw') ORDER BY opcname;
