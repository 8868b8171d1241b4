SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]']) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, NULL, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL::vector]) v;
SELECT avg(v), sum(v) FROM unnest('{}'::vector[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[7]'::vector]) v;

-- The average of large values does not overflow on the way; their sum does.
SELECT avg(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;
SELECT sum(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;

-- Different widths don't add up.
SELECT avg(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v;

-- In groups, in windows, distinct, filtered, and in parallel.
CREATE TABLE grouped AS SELECT n % 3 AS g, format('[%s,%s]', n, -n)::vector AS v FROM generate_series(1, 3000) n;
SELECT g, avg(v), sum(v), count(v) FROM grouped GROUP BY g ORDER BY g;
SELECT avg(DISTINCT v), avg(v) FILTER (WHERE g = 1) FROM grouped;
SELECT avg(v) OVER (ORDER BY v ROWS 1 PRECEDING) FROM grouped ORDER BY v LIMIT 3;
ANALYZE grouped;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT avg(v), sum(v) FROM grouped;
SELECT avg(v), sum(v) FROM grouped;
SELECT avg(v), sum(v) FROM grouped WHERE g > 10;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
DROP TABLE grouped;
-- The functions of a state, called by hand.
SELECT vector_accum('{0,0}', '[1,2,3]');
SELECT halfvec_accum('{0,0,0,0}', '[1,2,3]');
SELECT vector_combine('{0}', (SELECT array_agg(i) FROM generate_series(1, 16002) AS i));
SELECT halfvec_combine('{1,2}', '{0}'), halfvec_combine('{1,2}', '{2,3}');
