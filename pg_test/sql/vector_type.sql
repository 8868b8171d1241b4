-- What the type takes and what it prints.
SELECT '[1,2,3]'::vector;
SELECT '[-1.5, +2.25, 3e2]'::vector;
SELECT '[.5,5.,-.5,-0,1e-3]'::vector;
SELECT E' \t[\n1 ,\r2\f,\x0B3 ] '::vector;
SELECT '[1e-45,1e-46,-1e-46]'::vector;
SELECT '[3.4028235e38,-3.4028235e38]'::vector;
SELECT '[16777216,16777217,0.1,0.333333333333]'::vector;
SELECT vector '[1,2]';
SELECT NULL::vector;

-- The type modifier is the number of dimensions.
SELECT '[1,2,3]'::vector(3);
SELECT '[1,2,3]'::vector(2);
SELECT '[1,2,3]'::vector::vector(4);
SELECT '[1]'::vector(0);
SELECT '[1]'::vector(-1);
SELECT '[1]'::vector(16000);
SELECT '[1]'::vector(16001);
SELECT '[1]'::vector(1, 1);
SELECT '[1]'::vector('one');
SELECT format_type('vector'::regtype, 7), format_type('vector'::regtype, -1);

CREATE TABLE typed (emb vector(2), any_width vector);
INSERT INTO typed VALUES ('[1,2]', '[1]'), ('[3,4]', '[1,2,3]'), (NULL, NULL);
INSERT INTO typed VALUES ('[1,2,3]', NULL);
INSERT INTO typed (emb) SELECT any_width FROM typed WHERE any_width IS NOT NULL;
UPDATE typed SET emb = '[5]';
SELECT * FROM typed;
\d typed
ALTER TABLE typed ALTER any_width TYPE vector(3);
DROP TABLE typed;

-- The widest vector, stored and read.
CREATE TABLE widest (emb vector(16000));
INSERT INTO widest SELECT array_agg(n)::vector FROM generate_series(1, 16000) n;
SELECT vector_dims(emb), md5(emb::text) = md5('[' || (SELECT string_agg(n::text, ',' ORDER BY n) FROM generate_series(1, 16000) n) || ']')
FROM widest;
SELECT array_agg(n)::vector FROM generate_series(1, 16001) n;
SELECT ('[' || repeat('1,', 16000) || '1]')::vector;
DROP TABLE widest;

-- The type's place in the catalog.
SELECT typlen, typalign, typstorage, typcategory, typdelim FROM pg_type WHERE typname = 'vector';

-- Numbers in every form that C reads, as pgvector has it.
SELECT '[0x10,-0X1.8p1,+1,.5,5.,1E+2,1e-50]'::vector, '[0x10,0x1p-20]'::halfvec, '{1:0x10,2:0x1p-3}/2'::sparsevec;
SELECT '[0x]'::vector;
SELECT '[0x1g]'::vector;
SELECT '[1 2]'::vector;
SELECT '[0x1p999]'::vector;
SELECT '[0x1p16]'::halfvec;
SELECT '[nan(1)]'::vector;
SELECT '{1:0x1p-200}/2'::sparsevec;
