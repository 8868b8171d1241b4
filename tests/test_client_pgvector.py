"""An application written for pgvector, with pgvector's own Python client, unchanged."""

import asyncio

import numpy as np
import psycopg
import pytest
from pgvector import Bit, HalfVector, SparseVector, Vector
from pgvector.psycopg import register_vector, register_vector_async

from checks import assert_index_scan, clustered

ROWS, DIMS = 4000, 96


@pytest.fixture(scope="module")
def data():
    return clustered(ROWS + 20, DIMS, seed=1)


@pytest.fixture(scope="module")
def documents(database, data):
    """The table documents, half of it written by executemany, half by binary COPY, with an index."""
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        conn.execute(f"CREATE TABLE documents (id bigint PRIMARY KEY, title text, embedding vector({DIMS}))")
        half = ROWS // 2
        with conn.cursor() as cur:
            cur.executemany("INSERT INTO documents VALUES (%s, %s, %s)",
                            [(id, f"document {id}", data[id]) for id in range(half)])
            with cur.copy("COPY documents (id, title, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "text", "vector"])
                for id in range(half, ROWS):
                    copy.write_row([id, f"document {id}", data[id]])
        conn.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")
        conn.execute("ANALYZE documents")


@pytest.mark.parametrize("binary", [False, True])
def test_arrays_come_back_as_they_went(database, documents, data, binary):
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        rows = conn.cursor(binary=binary).execute("SELECT id, embedding FROM documents ORDER BY id").fetchall()
    assert [row[0] for row in rows] == list(range(ROWS))
    stored = np.array([row[1].to_numpy() for row in rows])
    assert stored.tobytes() == data[:ROWS].tobytes()


@pytest.mark.parametrize("binary", [False, True])
def test_nearest_rows_equal_brute_force(database, documents, data, binary):
    unit = data / np.linalg.norm(data, axis=1, keepdims=True)
    hits = 0
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        conn.execute("SET hnsw.ef_search = 100")
        sql = "SELECT id, title, embedding <=> %s AS distance FROM documents ORDER BY embedding <=> %s LIMIT 10"
        assert_index_scan(conn, sql, [data[ROWS], data[ROWS]], "documents_embedding_idx")
        for query in range(ROWS, ROWS + 20):
            rows = conn.cursor(binary=binary).execute(sql, [data[query], data[query]]).fetchall()
            distances = 1 - unit[:ROWS] @ unit[query]
            nearest = set(np.argsort(distances)[:10].tolist())
            hits += len(nearest & {row[0] for row in rows})
            for id, title, distance in rows:
                assert title == f"document {id}"
                assert distance == pytest.approx(distances[id], abs=1e-5)
    assert hits >= 0.95 * 200


def test_lists_vectors_and_nulls(database):
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        conn.execute("CREATE TEMP TABLE small (id int, embedding vector(3))")
        conn.execute("INSERT INTO small VALUES (1, %s), (2, %s), (3, %s)",
                     [Vector([1, 2, 3]), np.array([4, 5, 6], dtype=np.float64), None])
        rows = conn.execute("SELECT embedding FROM small ORDER BY id").fetchall()
        assert [row[0] and row[0].to_list() for row in rows] == [[1, 2, 3], [4, 5, 6], None]
        average, = conn.execute("SELECT avg(embedding) FROM small").fetchone()
        assert average.to_list() == [2.5, 3.5, 4.5]
        floats, = conn.execute("SELECT embedding::real[] FROM small WHERE id = 1").fetchone()
        assert floats == [1, 2, 3]
        row = conn.execute("SELECT id FROM small WHERE embedding = %s::real[]::vector", [[4.0, 5.0, 6.0]]).fetchone()
        assert row == (2,)


@pytest.mark.parametrize("binary", [False, True])
def test_halves_sparse_vectors_and_bits(database, binary):
    values = [HalfVector([1, 2.5, -3]), SparseVector({0: 1.5, 4: -2}, 5), Bit([True, False, True])]
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        conn.execute("CREATE TEMP TABLE others (h halfvec(3), s sparsevec(5), b bit(3))")
        with conn.cursor() as cur, cur.copy("COPY others FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["halfvec", "sparsevec", "bit"])
            copy.write_row(values)
        conn.execute("INSERT INTO others VALUES (%s, %s, %s)", values)
        rows = conn.cursor(binary=binary).execute("SELECT h, s FROM others").fetchall()
        assert [(h.to_list(), s.indices(), s.values()) for h, s in rows] == [([1, 2.5, -3], [0, 4], [1.5, -2])] * 2
        nearest = conn.execute("SELECT h <-> %s, s <#> %s, b <~> %s FROM others LIMIT 1",
                               [HalfVector([1, 2.5, 1]), SparseVector({4: 2}, 5), Bit([True, True, True])])
        assert nearest.fetchone() == (4, 4, 1)


def test_asynchronous_connection(database, documents, data):
    async def ask():
        async with await psycopg.AsyncConnection.connect(database.dsn()) as conn:
            await register_vector_async(conn)
            cur = await conn.execute("SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 1", [data[7]])
            return await cur.fetchone()

    assert asyncio.run(ask()) == (7,)


def test_server_side_cursor_and_prepared_statement(database, documents, data):
    with psycopg.connect(database.dsn()) as conn:
        register_vector(conn)
        sql = "SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 20"
        direct = conn.execute(sql, [data[ROWS]]).fetchall()
        with conn.cursor(name="by_portal") as cur:
            cur.itersize = 3
            assert list(cur.execute(sql, [data[ROWS]])) == direct
        for _ in range(8):
            assert conn.execute(sql, [data[ROWS]], prepare=True).fetchall() == direct


def test_wrong_dimensions_are_an_error_and_nothing_more(database, documents, data):
    with psycopg.connect(database.dsn(), autocommit=True) as conn:
        register_vector(conn)
        with pytest.raises(psycopg.errors.DataException, match=f"expected {DIMS} dimensions, not 3"):
            conn.execute("INSERT INTO documents VALUES (-1, 'short', %s)", [np.ones(3, dtype=np.float32)])
        with pytest.raises(psycopg.errors.DataException, match="different vector dimensions"):
            conn.execute("SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 1", [np.ones(3)]).fetchall()
        assert conn.execute("SELECT count(*) FROM documents").fetchone() == (ROWS,)
