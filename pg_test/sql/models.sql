-- What can be said about models without having one. Codes, as the texts may name files of the machine.
\set VERBOSITY sqlstate
SELECT insitu.load_model('absent', '/no/such/directory');
SELECT insitu.load_model('absent', '');
SELECT insitu.load_model('', '/no/such/directory');
SELECT insitu.load_model('absent', '{}'::text[], '{}'::bytea[]);
SELECT insitu.load_model('absent', '{config.json}'::text[], '{}'::bytea[]);
SELECT insitu.load_model('absent', '{config.json}'::text[], ARRAY['not json'::bytea]);
SELECT insitu.load_model('absent', '{config.json,NULL}'::text[], ARRAY['{}'::bytea, '{}'::bytea]);
SELECT insitu.load_model('absent', '{../config.json}'::text[], ARRAY['{}'::bytea]);
\set VERBOSITY default

SELECT insitu.embed('absent', 'text');
SELECT insitu.embed('absent', ARRAY['text']);
SELECT insitu.embed('', 'text');
SELECT insitu.embed('Robert''); DROP TABLE students;--', 'text');
SELECT insitu.embed_query('absent', 'text');
SELECT * FROM insitu.chunk('absent', 'text', 10);
SELECT insitu.quantize_model('absent', 'new', 'int8');
SELECT * FROM insitu.evaluate_model('absent', 'absent', 'SELECT ''text'' FROM generate_series(1, 3)', 1);
SELECT insitu.drop_model('absent');
SELECT insitu.grant_model('absent', 'public');
SELECT insitu.revoke_model('absent', 'public');

-- NULL in, NULL out; there is no model to ask.
SELECT insitu.embed('absent', NULL::text) IS NULL, insitu.embed(NULL, 'text') IS NULL, insitu.embed('absent', NULL::text[]) IS NULL;

SELECT * FROM insitu.models;
SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'insitu' AND table_name = 'models' ORDER BY ordinal_position;

-- What PUBLIC may do, and what the planner is told.
SELECT p.oid::regprocedure, provolatile, proisstrict, proparallel, has_function_privilege('public', p.oid, 'EXECUTE') AS public_may, procost > 100 AS dear
FROM pg_proc p WHERE pronamespace = 'insitu'::regnamespace
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- The checker knows its own indexes only.
CREATE TABLE checked (id int PRIMARY KEY);
SELECT * FROM insitu.verify_index('checked');
SELECT * FROM insitu.verify_index('checked_pkey');
SELECT * FROM insitu.verify_index(NULL);
DROP TABLE checked;

-- Settings.
SET insitu.threads = -1;
SET insitu.no_such_setting = 1;

-- A role is its name, and never a number.
SELECT '-'::insitu.role, '-'::insitu.role::regrole, '"-"'::insitu.role::regrole, 10::bigint::insitu.role::regrole = current_user::regrole AS superuser;
SELECT '4294967295'::insitu.role::regrole IS NULL, '(10)'::insitu.role::regrole IS NULL, 4294967295::insitu.role, (-1)::bigint::insitu.role;
SELECT * FROM insitu.model_grants;
