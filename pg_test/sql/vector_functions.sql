-- Distances, as operators and as functions.
SELECT '[0,0]'::vector <-> '[3,4]', l2_distance('[0,0]'::vector, '[3,4]');
SELECT '[1,2]'::vector <#> '[3,4]', inner_product('[1,2]'::vector, '[3,4]');
SELECT '[1,2]'::vector <=> '[2,4]', cosine_distance('[1,2]'::vector, '[2,4]');
SELECT '[1,2]'::vector <+> '[3,-4]', l1_distance('[1,2]'::vector, '[3,-4]');
SELECT '[1,0]'::vector <=> '[0,2]', '[1,1]'::vector <=> '[-1,-1]', '[1,2,3]'::vector <=> '[1,2,3]';

-- Each width takes another path through vectorized code; here are lengths around its blocks.
SELECT n, v <-> w AS l2, v <#> w AS ip, v <+> w AS l1, round((v <=> w)::numeric, 6) AS cosine
FROM (SELECT n, (SELECT array_agg(i % 5)::vector FROM generate_series(1, n) i) v,
             (SELECT array_agg((i * 3) % 7)::vector FROM generate_series(1, n) i) w
      FROM unnest(ARRAY[1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100]) n) s;

-- Where a distance has no good value.
SELECT '[0,0]'::vector <=> '[1,1]', '[0,0]'::vector <=> '[0,0]';
SELECT '[3e38]'::vector <-> '[-3e38]', '[3e38]'::vector <#> '[-3e38]', '[3e38]'::vector <+> '[-3e38]';
SELECT '[1e-30]'::vector <-> '[0]', '[3e38,3e38]'::vector <=> '[3e38,3e38]', '[1e-30]'::vector <=> '[1e-30]';
SELECT NULL::vector <-> '[1]', '[1]'::vector <=> NULL;
SELECT l2_distance('[1,2]'::vector, '[1]');
SELECT inner_product('[1,2]'::vector, '[1]');
SELECT cosine_distance('[1,2]'::vector, '[1]');
SELECT l1_distance('[1,2]'::vector, '[1]');

-- Size and direction.
SELECT vector_dims('[1,2,3]'::vector), vector_norm('[3,4]'), vector_norm('[0]'), vector_norm('[3e38,3e38]') > 4e38;
SELECT l2_normalize('[3,4]'::vector), l2_normalize('[0,0]'::vector), l2_normalize('[3e38]'::vector);
SELECT vector_dims(NULL::vector), vector_norm(NULL), l2_normalize(NULL::vector);

-- Arithmetic, element by element.
SELECT '[1,2,3]'::vector + '[4,5,6]', '[1,2,3]'::vector - '[4,5,6]', '[1,2,3]'::vector * '[4,5,6]';
SELECT '[1,2]'::vector || '[3]', '[0,-1]'::vector * '[5,0]', '[1]'::vector || NULL;

-- Parts of a vector, counted from 1, clipped as substring() does.
SELECT subvector('[1,2,3,4,5]'::vector, 1, 3), subvector('[1,2,3,4,5]'::vector, 4, 10), subvector('[1,2,3,4,5]'::vector, -1, 4);
SELECT subvector('[1,2,3,4,5]'::vector, 1, 0);
SELECT subvector('[1,2,3,4,5]'::vector, 1, -1);
SELECT subvector('[1,2,3,4,5]'::vector, 6, 1);
SELECT subvector('[1,2,3,4,5]'::vector, -5, 3);
SELECT subvector('[1,2,3,4,5]'::vector, 5, 2147483647), subvector('[1,2,3,4,5]'::vector, 1, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, 2147483647, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, -2147483648, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, -2147483648, 1);

-- Signs.
SELECT binary_quantize('[1,0,-1]'::vector), binary_quantize('[0,0.1,-0.2,-0.3,0.4,0.5,0.6,-0.7,0.8,-0.9,1]'::vector);
SELECT length(binary_quantize((SELECT array_agg(1)::vector FROM generate_series(1, 16000))));

-- What a function scan or an index may call them by.
SELECT proname, provolatile, proisstrict, proparallel FROM pg_proc
WHERE proname IN ('l2_distance', 'inner_product', 'cosine_distance', 'l1_distance', 'vector_dims', 'vector_norm', 'l2_normalize',
                  'subvector', 'binary_quantize') AND proargtypes[0] = 'vector'::regtype
ORDER BY proname;
