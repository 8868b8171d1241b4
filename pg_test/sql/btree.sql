-- Comparisons: value by value, then the shorter one first.
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, vector_cmp(a, b) AS cmp
FROM (VALUES ('[1,2]'::vector, '[1,2]'::vector), ('[1,2]', '[1,3]'), ('[2]', '[1,9]'), ('[1]', '[1,0]'), ('[0]', '[-0]'), (NULL, '[1]')) t (a, b);

CREATE TABLE ordered (emb vector);
INSERT INTO ordered VALUES ('[2]'), ('[1,2]'), (NULL), ('[1]'), ('[1,-5]'), ('[-1,7,7]'), ('[1]');
SELECT emb FROM ordered ORDER BY emb;
SELECT emb FROM ordered ORDER BY emb DESC NULLS LAST;
SELECT DISTINCT emb FROM ordered ORDER BY 1;
SELECT emb, count(*) FROM ordered GROUP BY emb ORDER BY emb;
SELECT count(*) FROM ordered a JOIN ordered b USING (emb);

CREATE INDEX ordered_emb ON ordered (emb);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT emb FROM ordered WHERE emb = '[1]';
SELECT emb FROM ordered WHERE emb = '[1]';
SELECT emb FROM ordered WHERE emb >= '[1]' AND emb < '[2]' ORDER BY emb;
SELECT emb FROM ordered WHERE emb IS NULL;
SELECT emb FROM ordered ORDER BY emb DESC LIMIT 2;
RESET enable_seqscan;

ALTER TABLE ordered ADD UNIQUE (emb);
DELETE FROM ordered WHERE emb = '[1]';
ALTER TABLE ordered ADD UNIQUE (emb);
INSERT INTO ordered VALUES ('[1,2]');
INSERT INTO ordered VALUES ('[1,2]') ON CONFLICT DO NOTHING;
SELECT max(emb::text) FROM ordered;
DROP TABLE ordered;

SELECT opcname, opcdefault, amname FROM pg_opclass JOIN pg_am a ON a.oid = opcmethod
WHERE opcintype = 'vector'::regtype AND amname IN ('btree', 'hnsw') ORDER BY 1;
