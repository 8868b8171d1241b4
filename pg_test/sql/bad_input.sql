-- Texts that are no vectors.
SELECT ''::vector;
SELECT '   '::vector;
SELECT '['::vector;
SELECT '[]'::vector;
SELECT '[ ]'::vector;
SELECT ']'::vector;
SELECT '1,2'::vector;
SELECT '{1,2}'::vector;
SELECT '[1'::vector;
SELECT '[1,'::vector;
SELECT '[1,]'::vector;
SELECT '[,1]'::vector;
SELECT '[1,,2]'::vector;
SELECT '[1 2]'::vector;
SELECT '[[1]]'::vector;
SELECT '[1]]'::vector;
SELECT '[1]2'::vector;
SELECT '[1] x'::vector;
SELECT 'x[1]'::vector;
SELECT '[x]'::vector;
SELECT '[1x]'::vector;
SELECT '[1e]'::vector;
SELECT '[--1]'::vector;
SELECT '[1.2.3]'::vector;
SELECT '[null]'::vector;
SELECT '[１]'::vector;

-- Values that no vector may have.
SELECT '[NaN]'::vector;
SELECT '[1,nan]'::vector;
SELECT '[Infinity]'::vector;
SELECT '[-inf]'::vector;
SELECT '[1e39]'::vector;
SELECT '[-1e400]'::vector;
SELECT ARRAY['NaN']::real[]::vector;
SELECT ARRAY['Infinity']::double precision[]::vector;
SELECT ARRAY[1e300]::double precision[]::vector;
SELECT ARRAY['NaN']::numeric[]::vector;
SELECT ARRAY[1e39]::numeric[]::vector;

-- Vectors that don't fit together.
SELECT '[1,2]'::vector <-> '[1]';
SELECT '[1,2]'::vector <#> '[1,2,3]';
SELECT '[1,2]'::vector <=> '[1,2,3]';
SELECT '[1,2]'::vector <+> '[1,2,3]';
SELECT '[1,2]'::vector + '[1]';
SELECT '[1,2]'::vector - '[1]';
SELECT '[1,2]'::vector * '[1]';

-- Results that no vector can hold.
SELECT '[3e38]'::vector + '[3e38]';
SELECT '[-3e38]'::vector - '[3e38]';
SELECT '[1e37]'::vector * '[1e37]';
SELECT '[1e-37]'::vector * '[1e-37]';
SELECT (SELECT array_agg(1)::vector FROM generate_series(1, 16000)) || '[1]';

-- The aggregates' inner functions, called with what no aggregate would hand them.
SELECT vector_accum('{}', '[1]');
SELECT vector_accum('{NULL}', '[1]');
SELECT vector_accum('{{1,2}}', '[1]');
SELECT vector_accum('{1,2}', '[1,2]');
SELECT vector_accum('[0:1]={1,2}', '[1]');
SELECT vector_accum('{1,1.7e308}', '[1]');
SELECT vector_avg('{}');
SELECT vector_avg('{NULL,1}');
SELECT vector_avg('{0}');
SELECT vector_avg('{1}');
SELECT vector_avg('{0,1}');
SELECT vector_avg('{-1,1}');
SELECT vector_avg('{NaN,1}');
SELECT vector_avg('{1,NaN}');
SELECT vector_avg('{1,1e300}');
SELECT vector_avg(array_agg(n::float8)) FROM generate_series(1, 20000) n;
SELECT vector_combine('{}', '{1,2}');
SELECT vector_combine('{1,2}', '{1,2,3}');
SELECT vector_combine('{1,2}', '{2,4}');
SELECT vector_combine('{0}', '{2,4}');
SELECT vector_combine('{2,4}', '{0}');
SELECT vector_combine('{0}', '{0}');
