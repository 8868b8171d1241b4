-- Out and in, as text and CSV.
CREATE TABLE source (id int, emb vector(3));
INSERT INTO source VALUES (1, '[1,2,3]'), (2, '[-0.1,1e-20,3e38]'), (3, NULL), (4, '[0,-0,0.333333333]');
COPY source TO STDOUT;
COPY source TO STDOUT (FORMAT csv);

CREATE TABLE target (LIKE source);
COPY target FROM STDIN;
1	[1,2,3]
2	[ 4 , 5 , 6 ]
3	\N
\.
COPY target FROM STDIN (FORMAT csv);
4,"[7,8,9]"
5,
\.
SELECT * FROM target;

-- One bad line refuses all lines.
COPY target FROM STDIN;
6	[1,1,1]
7	[1,1]
\.
COPY target FROM STDIN;
6	[1,1,1]
7	[1,1,nope]
\.
SELECT count(*) FROM target;

-- Binary, checked byte by byte: dimensions, a zero, the values in network order.
SELECT id, encode(vector_send(emb), 'hex') FROM source ORDER BY id;
DROP TABLE source, target;
