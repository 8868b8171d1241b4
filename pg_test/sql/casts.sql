-- From arrays, and back to real[].
SELECT ARRAY[1,2,3]::vector, ARRAY[1.5,2.5]::real[]::vector, ARRAY[1.5,2.5]::double precision[]::vector, ARRAY[1.5,2.25]::numeric[]::vector;
SELECT '{1,2,3}'::integer[]::vector(3), '{2147483647,-2147483648}'::integer[]::vector;
SELECT '{0.1,1e-50}'::double precision[]::vector, '{0.1,123456789.123456789}'::numeric[]::vector;
SELECT '[1,2.5]'::vector::real[], ('[1,2]'::vector)::real[] || 3::real;
SELECT array_to_vector(ARRAY[1,2,3], 3, false), vector_to_float4('[1,2]', 2, false), vector('[1,2]'::vector, 2, true);
SELECT NULL::real[]::vector, NULL::vector::real[];

-- An array with odd bounds is its elements in order.
SELECT '[5:7]={1,2,3}'::integer[]::vector;

-- Arrays that are no vectors.
SELECT '{}'::real[]::vector;
SELECT '{{1,2},{3,4}}'::real[]::vector;
SELECT '{1,NULL}'::real[]::vector;
SELECT '{NULL}'::integer[]::vector;
SELECT '{1,2}'::integer[]::vector(3);
SELECT '{1,2}'::numeric[]::vector(1);
SELECT '{a}'::text[]::vector;
SELECT '{1}'::bigint[]::vector;
SELECT array_agg(0)::real[]::vector FROM generate_series(1, 16001);
SELECT array_to_vector(ARRAY[1,2,3], 4, false);
SELECT vector('[1,2]'::vector, 3, true);

-- An array is assigned without a cast, and a vector stands where real[] is asked for.
CREATE TABLE assigned (emb vector(2));
INSERT INTO assigned VALUES (ARRAY[1,2]), (ARRAY[1.5,2.5]::real[]), (ARRAY[3.5,4.5]::double precision[]), (ARRAY[5.5,6.5]);
INSERT INTO assigned VALUES (ARRAY[1,2,3]);
CREATE FUNCTION first_of(real[]) RETURNS real IMMUTABLE LANGUAGE sql AS 'SELECT $1[1]';
SELECT emb, first_of(emb) FROM assigned;
DROP FUNCTION first_of;
DROP TABLE assigned;

SELECT castsource::regtype, casttarget::regtype, castcontext FROM pg_cast
WHERE 'vector'::regtype IN (castsource, casttarget) ORDER BY castsource::regtype::text, casttarget::regtype::text;
