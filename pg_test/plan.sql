\set ECHO none
-- plan(query): how a query is executed, in the words of PostgreSQL 15. From 17 on a subquery's value has another
-- name, and from 18 on a step is marked that a setting such as enable_seqscan = off would rather avoid.
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    step text;
BEGIN
    FOR step IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF step !~ '^ *Disabled: true$' THEN
            RETURN NEXT regexp_replace(replace(step, '(InitPlan 1).col1', '$0'), '(InitPlan 1)$', '\1 (returns $0)');
        END IF;
    END LOOP;
END $$;
\set ECHO all
