-- Distances of vectors of any size: sums of f32 have no room for squares above 3e38 or below 1e-38.
SET extra_float_digits = 0;

SELECT '[1e20,1e20]'::vector <=> '[1e20,1e20]' AS same, '[1e-22,0]'::vector <=> '[2e-22,0]' AS parallel,
       '[1e30,0]'::vector <=> '[0,1e-30]' AS orthogonal, '[1e38,1e38]'::vector <=> '[-1e-40,-1e-40]' AS opposite,
       round(('[3e38,3e38]'::vector <=> '[1e-44,0]')::numeric, 6) AS half_right_angle, '[0,0]'::vector <=> '[1,1]' AS zero;
SELECT '[1e20,1e20]'::vector <-> '[1e20,-1e20]' AS l2, '[1e-30]'::vector <-> '[-1e-30]' AS l2_small,
       '[3e38]'::vector <-> '[-3e38]' AS l2_large, '[1e20]'::vector <#> '[-1e20]' AS ip, '[1e-30]'::vector <#> '[1e-30]' AS ip_small,
       '[1e20,1e20]'::vector <#> '[1e20,-1e20]' AS ip_cancelled, '[3e38,3e38]'::vector <+> '[-3e38,-3e38]' AS l1;
SELECT l2_distance('[1e20]'::vector, '[0]'), vector_l2_squared_distance('[1e20]', '[0]'), inner_product('[1e20]'::vector, '[1e20]'),
       vector_norm('[1e20]'), vector_norm('[3e-40]'), l2_normalize('[3e20,4e20]'::vector), l2_normalize('[3e-40,0]'::vector),
       vector_spherical_distance('[1e20]', '[1e20]');
SELECT '{1:1e20,3:1e20}/3'::sparsevec <=> '{1:1e20,3:1e20}/3' AS same, '{1:1e-22}/2'::sparsevec <=> '{1:2e-22}/2' AS parallel,
       '{1:1e-22}/2'::sparsevec <=> '{2:2e-22}/2' AS orthogonal, '{1:1e20}/2'::sparsevec <-> '{2:1e20}/2' AS l2,
       '{1:1e20}/2'::sparsevec <#> '{1:1e20}/2' AS ip, '{1:1e-30}/2'::sparsevec <#> '{1:1e-30}/2' AS ip_small,
       '{1:1}/2'::sparsevec <#> '{2:1}/2' AS nothing, '{1:3e38}/2'::sparsevec <+> '{2:3e38}/2' AS l1,
       l2_norm('{1:1e20}/2'::sparsevec), l2_normalize('{1:3e20,2:4e20}/2'::sparsevec);
SELECT '[65504,65504]'::halfvec <=> '[65504,65504]' AS same, '[6e-8,0]'::halfvec <=> '[1.2e-7,0]' AS parallel,
       '[65504,65504]'::halfvec <-> '[-65504,-65504]' AS l2, '[6e-8]'::halfvec <-> '[0]' AS l2_small,
       l2_norm('[65504,65504]'::halfvec), l2_normalize('[6e-8,0]'::halfvec);
SELECT avg(v), sum(v) FROM (VALUES ('[1e38]'::vector), ('[2e38]')) t (v);
SELECT sum(v) FROM (VALUES ('[2e38]'::vector), ('[2e38]')) t (v);
SELECT avg(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]')) t (v);

-- Under cosine, rows of any size find themselves in every index.
CREATE TABLE sizes (id int PRIMARY KEY, v vector(64), s sparsevec(64));
INSERT INTO sizes
    SELECT i, array_agg(x)::vector(64), (array_agg(x)::vector(64))::sparsevec(64)
      FROM (SELECT i, (hashint4(i * 64 + j) / 2147483648.0::float8 * (ARRAY[1e20, 1e-22, 1, 3e37, 1e-35])[1 + i % 5])::real AS x
              FROM generate_series(1, 500) i, generate_series(1, 64) j ORDER BY i, j) t
     GROUP BY i;
SELECT count(*) FROM sizes;
CREATE FUNCTION not_found(col text, operator text) RETURNS TABLE (missing bigint, indexed boolean) LANGUAGE plpgsql AS $$
DECLARE
    line text;
    row sizes;
    found int;
BEGIN
    missing := 0;
    indexed := true;
    FOR row IN SELECT * FROM sizes LOOP
        FOR line IN EXECUTE format('EXPLAIN SELECT id FROM sizes ORDER BY %1$I %2$s (SELECT %1$I FROM sizes WHERE id = %3$s) LIMIT 1',
                                   col, operator, row.id) LOOP
            IF line LIKE '%Seq Scan%' THEN indexed := false; END IF;
        END LOOP;
        EXECUTE format('SELECT id FROM sizes ORDER BY %1$I %2$s (SELECT %1$I FROM sizes WHERE id = %3$s) LIMIT 1',
                       col, operator, row.id) INTO found;
        missing := missing + (found <> row.id)::int;
    END LOOP;
    RETURN NEXT;
END
$$;
SET enable_seqscan = off;
SET ivfflat.probes = 20;
CREATE INDEX sizes_idx ON sizes USING ivfflat (v vector_cosine_ops) WITH (lists = 20);
SELECT * FROM not_found('v', '<=>');
DROP INDEX sizes_idx;
CREATE INDEX sizes_idx ON sizes USING hnsw (v vector_cosine_ops) WITH (storage = fused);
SELECT * FROM not_found('v', '<=>');
DROP INDEX sizes_idx;
CREATE INDEX sizes_idx ON sizes USING hnsw (v vector_cosine_ops) WITH (storage = plain);
SELECT * FROM not_found('v', '<=>');
DROP INDEX sizes_idx;
CREATE INDEX sizes_idx ON sizes USING hnsw (s sparsevec_cosine_ops);
SELECT * FROM not_found('s', '<=>');
SELECT vertices, heap_tids, unreachable FROM insitu.verify_index('sizes_idx');
DROP TABLE sizes;
DROP FUNCTION not_found;
