-- Distances of bit strings.
SELECT hamming_distance(B'111', B'100'), B'111' <~> B'111' AS same, B'1' <~> B'0' AS one, B'' <~> B'' AS empty;
SELECT jaccard_distance(B'1111', B'1100'), B'1100' <%> B'1010' AS third, B'00' <%> B'11' AS nothing_common, B'00' <%> B'00' AS none;
SELECT B'111' <~> B'11';
SELECT B'111' <%> B'1';
-- Longer than any register, with a rest.
SELECT repeat('10', 515)::varbit::bit(1030) <~> repeat('01', 515)::varbit::bit(1030) AS all_differ,
       repeat('10', 515)::varbit::bit(1030) <%> repeat('11', 515)::varbit::bit(1030) AS half_common;
-- The nearest by signs, put into order by the vectors.
CREATE TABLE signs (id int PRIMARY KEY, v vector(64));
INSERT INTO signs SELECT i, (SELECT array_agg(sin(i * j))::real[]::vector FROM generate_series(1, 64) AS j)
FROM generate_series(1, 200) AS i;
SELECT id FROM (
    SELECT id, v FROM signs
    ORDER BY binary_quantize(v)::bit(64) <~> binary_quantize((SELECT v FROM signs WHERE id = 3))::bit(64) LIMIT 20
) AS candidates ORDER BY v <-> (SELECT v FROM signs WHERE id = 3) LIMIT 1;
DROP TABLE signs;
