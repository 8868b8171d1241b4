"""Applications written for pgvector, with psycopg2, pg8000 and peewee, unchanged."""

import io

import numpy as np
import peewee
import pg8000.exceptions
import pg8000.native
import pgvector.pg8000
import pgvector.psycopg2
import psycopg2.errors
import pytest
from pgvector import HalfVector, SparseVector, Vector
from pgvector.peewee import FixedBitField, HalfVectorField, SparseVectorField, VectorField
from psycopg.conninfo import conninfo_to_dict

from checks import METRICS, clustered

ROWS, DIMS, QUERIES = 1000, 32, 10
SETTINGS = "SET enable_seqscan = off; SET hnsw.ef_search = 100"

KINDS = {"vector": Vector, "halfvec": HalfVector, "sparsevec": SparseVector}


def bits(vector):
    return "".join("1" if value > 0 else "0" for value in vector)


@pytest.fixture(scope="module")
def data():
    """Values that half precision keeps, so that one brute force serves all types."""
    return np.round(clustered(ROWS + QUERIES, DIMS, seed=4) * 64) / 64


class Psycopg2:
    name, DatabaseError = "psycopg2", psycopg2.DatabaseError

    def __init__(self, dsn):
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        pgvector.psycopg2.register_vector(self.connection)

    def run(self, sql, *values):
        with self.connection.cursor() as cur:
            cur.execute(sql, values)
            return cur.fetchall() if cur.description else None

    def copy(self, sql, text):
        with self.connection.cursor() as cur:
            cur.copy_expert(sql, io.StringIO(text))


class Pg8000:
    name, DatabaseError = "pg8000", pg8000.exceptions.DatabaseError

    def __init__(self, dsn):
        words = conninfo_to_dict(dsn)
        self.connection = pg8000.native.Connection(words["user"], database=words["dbname"],
                                                   unix_sock=f"{words['host']}/.s.PGSQL.{words['port']}")
        pgvector.pg8000.register_vector(self.connection)

    def run(self, sql, *values):
        """Parameters are written as psycopg2 wants them: here they need names."""
        names = [f"v{place}" for place in range(len(values))]
        sql %= tuple(f":{name}" for name in names)
        return [tuple(row) for row in self.connection.run(sql, **dict(zip(names, values, strict=True))) or ()]

    def copy(self, sql, text):
        self.connection.run(sql, stream=io.StringIO(text))


@pytest.fixture(scope="module", params=[Psycopg2, Pg8000], ids=lambda kind: kind.name)
def client(request, database, data):
    """A client that has written the table documents_NAME, half by INSERT, half by COPY, and indexed it."""
    client = request.param(database.dsn())
    client.run(SETTINGS)
    client.table = f"documents_{client.name}"
    client.run(f"CREATE TABLE {client.table} (id int PRIMARY KEY, vector vector({DIMS}), halfvec halfvec({DIMS}),"
               f" sparsevec sparsevec({DIMS}), bit bit({DIMS}))")
    half = ROWS // 2
    for id, vector in enumerate(data[:half]):
        client.run(f"INSERT INTO {client.table} VALUES (%s, %s, %s, %s, %s)",
                   id, vector, HalfVector(vector), SparseVector(vector), bits(vector))
    client.copy(f"COPY {client.table} FROM STDIN", "".join(
        f"{id}\t{Vector(data[id]).to_text()}\t{HalfVector(data[id]).to_text()}\t{SparseVector(data[id]).to_text()}"
        f"\t{bits(data[id])}\n" for id in range(half, ROWS)))
    opclasses = [f"{type} {type}_{metric}_ops" for type in KINDS for metric in METRICS]
    for column in [*opclasses, "bit bit_hamming_ops", "bit bit_jaccard_ops"]:
        client.run(f"CREATE INDEX ON {client.table} USING hnsw ({column})")
    client.run(f"ANALYZE {client.table}")
    yield client
    client.connection.close()


def assert_index_scan(plan):
    limit, scan = plan[0]["Plan"], plan[0]["Plan"]["Plans"][0]
    assert (limit["Node Type"], scan["Node Type"]) == ("Limit", "Index Scan")


def hits(rows, distances):
    """How many rows (id, distance) are among the ten nearest; each must say its true distance."""
    ids = [id for id, _ in rows]
    assert len(set(ids)) == len(ids) == 10
    assert [distance for _, distance in rows] == pytest.approx(distances[ids], rel=1e-5, abs=1e-4)
    assert (np.diff(distances[ids]) >= -1e-4).all()
    return (distances[ids] <= np.sort(distances)[9] + 1e-4).sum()


def bit_distances(query, matrix):
    query, matrix = query > 0, matrix > 0
    return {"<~>": (matrix != query).sum(axis=1),
            "<%%>": 1 - (matrix & query).sum(axis=1) / (matrix | query).sum(axis=1)}


def test_values_come_back_as_they_went(client, data):
    rows = client.run(f"SELECT id, vector, halfvec, sparsevec, bit FROM {client.table} ORDER BY id")
    assert [row[0] for row in rows] == list(range(ROWS))
    for place, kind in enumerate(KINDS.values(), 1):
        assert {type(row[place]) for row in rows} == {kind}
        assert (np.array([row[place].to_numpy() for row in rows]) == data[:ROWS]).all()
    assert [row[4] for row in rows] == [bits(vector) for vector in data[:ROWS]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("type", KINDS)
def test_nearest_rows_equal_brute_force(client, data, type, metric):
    operator = METRICS[metric].operator
    sql = f"SELECT id, {type} {operator} %s AS distance FROM {client.table} ORDER BY {type} {operator} %s LIMIT 10"
    found = 0
    for query in data[ROWS:]:
        values = [KINDS[type](query)] * 2
        (plan,), = client.run(f"EXPLAIN (FORMAT json) {sql}", *values)
        assert_index_scan(plan)
        found += hits(client.run(sql, *values), METRICS[metric].distances(query, data[:ROWS]))
    assert found >= 0.95 * 10 * QUERIES


@pytest.mark.parametrize("operator", ["<~>", "<%%>"])
def test_nearest_bit_strings_equal_brute_force(client, data, operator):
    sql = f"SELECT id, bit {operator} %s FROM {client.table} ORDER BY bit {operator} %s LIMIT 10"
    found = 0
    for query in data[ROWS:]:
        values = [bits(query)] * 2
        (plan,), = client.run(f"EXPLAIN (FORMAT json) {sql}", *values)
        assert_index_scan(plan)
        found += hits(client.run(sql, *values), bit_distances(query, data[:ROWS])[operator])
    assert found >= 0.95 * 10 * QUERIES


def test_nulls_and_averages(client, data):
    row, = client.run(f"SELECT NULL::vector, avg(vector), sum(halfvec) FROM {client.table} WHERE id < 4")
    assert row == (None, Vector(data[:4].mean(axis=0)), HalfVector(data[:4].sum(axis=0)))


def test_errors_leave_the_connection_usable(client):
    for type, kind in KINDS.items():
        with pytest.raises(client.DatabaseError, match=f"expected {DIMS} dimensions, not 3"):
            client.run(f"UPDATE {client.table} SET {type} = %s", kind([1, 2, 3]))
    assert client.run(f"SELECT count(*) FROM {client.table}") == [(ROWS,)]


def test_arrays_of_vectors_in_psycopg2(database):
    connection = psycopg2.connect(database.dsn())
    pgvector.psycopg2.register_vector(connection, arrays=True)
    with connection, connection.cursor() as cur:
        values = [[Vector([1, 2]), None], [HalfVector([1.5])], [SparseVector({1: 2}, 3)]]
        cur.execute("SELECT %s::vector[], %s::halfvec[], %s::sparsevec[]", values)
        assert list(cur.fetchone()) == values
    connection.close()


@pytest.fixture(scope="module")
def documents(database, data):
    """A model of peewee, its table written by a bulk insert and by one row alone, some indexes made later."""
    words = conninfo_to_dict(database.dsn())
    server = peewee.PostgresqlDatabase(words["dbname"], host=words["host"], port=words["port"], user=words["user"])

    class Document(peewee.Model):
        id = peewee.IntegerField(primary_key=True)
        embedding = VectorField(dimensions=DIMS)
        half = HalfVectorField(dimensions=DIMS)
        sparse = SparseVectorField(dimensions=DIMS, null=True)
        bits = FixedBitField(max_length=DIMS)

        class Meta:
            database = server
            table_name = "documents_peewee"

    Document.add_index("embedding vector_l2_ops", using="hnsw", name="embedding_l2")
    server.execute_sql(SETTINGS)
    server.create_tables([Document])
    Document.insert_many([{"id": id, "embedding": data[id], "half": data[id].tolist(), "bits": bits(data[id]),
                           "sparse": SparseVector(data[id])} for id in range(1, ROWS)]).execute()
    Document.create(id=0, embedding=data[0], half=data[0], bits=bits(data[0]))
    for field, type in {"embedding": "vector", "half": "halfvec", "sparse": "sparsevec"}.items():
        for metric in METRICS:
            Document.add_index(f"{field} {type}_{metric}_ops", using="hnsw", name=f"{field}_{metric}")
    for metric in ("hamming", "jaccard"):
        Document.add_index(f"bits bit_{metric}_ops", using="hnsw", name=f"bits_{metric}")
    server.create_tables([Document])
    yield Document
    server.drop_tables([Document])
    assert not server.table_exists("documents_peewee")
    server.close()


def nearest_by_peewee(documents, distance):
    """The ten nearest rows; fails unless the query that asks for them reads an index in order."""
    query = documents.select(documents.id, distance.alias("distance")).order_by(distance).limit(10)
    sql, parameters = query.sql()
    (plan,), = documents._meta.database.execute_sql(f"EXPLAIN (FORMAT json) {sql}", parameters).fetchall()
    assert_index_scan(plan)
    return list(query.tuples())


@pytest.mark.parametrize("metric, method", [("l2", "l2_distance"), ("ip", "max_inner_product"),
                                            ("cosine", "cosine_distance"), ("l1", "l1_distance")])
@pytest.mark.parametrize("field", ["embedding", "half", "sparse"])
def test_nearest_rows_in_peewee_equal_brute_force(documents, data, field, metric, method):
    found = 0
    for query in data[ROWS:]:
        value = SparseVector(query) if field == "sparse" else query
        distances = METRICS[metric].distances(query, data[:ROWS])
        if field == "sparse":
            distances[0] = np.inf
        found += hits(nearest_by_peewee(documents, getattr(getattr(documents, field), method)(value)), distances)
    assert found >= 0.95 * 10 * QUERIES


@pytest.mark.parametrize("operator, method", [("<~>", "hamming_distance"), ("<%%>", "jaccard_distance")])
def test_nearest_bit_strings_in_peewee_equal_brute_force(documents, data, operator, method):
    found = sum(hits(nearest_by_peewee(documents, getattr(documents.bits, method)(bits(query))),
                     bit_distances(query, data[:ROWS])[operator]) for query in data[ROWS:])
    assert found >= 0.95 * 10 * QUERIES


def test_values_in_peewee_come_back_as_they_went(documents, data):
    rows = list(documents.select().order_by(documents.id))
    assert [row.id for row in rows] == list(range(ROWS))
    for field in ("embedding", "half"):
        assert (np.array([getattr(row, field) for row in rows]) == data[:ROWS]).all()
    assert [row.sparse for row in rows] == [None, *(SparseVector(vector) for vector in data[1:ROWS])]
    assert [row.bits for row in rows] == [bits(vector) for vector in data[:ROWS]]
    average = documents.select(peewee.fn.avg(documents.embedding).coerce(True)).scalar()
    assert average == pytest.approx(data[:ROWS].mean(axis=0, dtype=np.float64), rel=1e-5, abs=1e-6)
