-- Empty: insitu has the types, operators and access methods. The version is that of the pgvector whose SQL they speak,
-- because clients read it to learn what they may use.
--
-- As pgvector, it may be created by whoever may create something in the database; then the server runs this as a superuser,
-- with a path on which others may have put functions and operators: everything is named with its schema. No block of
-- PL/pgSQL, which would add lines of its own to what a client is told.
CREATE FUNCTION @extschema@.create_insitu() RETURNS void LANGUAGE c AS '$libdir/insitu', 'create_insitu_wrapper';
SELECT @extschema@.create_insitu();
DROP FUNCTION @extschema@.create_insitu();
SELECT insitu.tie_vector();
