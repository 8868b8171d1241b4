"""An application written for pgvector, with asyncpg, unchanged."""

import asyncio

import asyncpg
import numpy as np
import pytest
from pgvector import HalfVector, SparseVector, Vector
from pgvector.asyncpg import register_vector
from psycopg.conninfo import conninfo_to_dict

from checks import METRICS, clustered

ROWS, DIMS, QUERIES = 2000, 48, 20
SETTINGS = {"enable_seqscan": "off", "hnsw.ef_search": "100"}


@pytest.fixture(scope="module")
def data():
    """Values that half precision keeps, so that one brute force serves all types."""
    return np.round(clustered(ROWS + QUERIES, DIMS, seed=2) * 64) / 64


@pytest.fixture(scope="module")
def address(database):
    """What asyncpg.connect takes."""
    words = conninfo_to_dict(database.dsn())
    return {"host": words["host"], "port": int(words["port"]), "user": words["user"], "database": words["dbname"],
            "server_settings": SETTINGS}


def bits(vector):
    return asyncpg.BitString("".join("1" if value > 0 else "0" for value in vector))


def answer(address, question):
    """What a coroutine function says that gets a connection which knows the types."""
    async def ask():
        conn = await asyncpg.connect(**address)
        try:
            await register_vector(conn)
            return await question(conn)
        finally:
            await conn.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def documents(address, data):
    """The table documents, half of it written by executemany, half by binary COPY, and its indexes by cosine."""
    rows = [(id, vector, HalfVector(vector), SparseVector(vector), bits(vector))
            for id, vector in enumerate(data[:ROWS])]

    async def fill(conn):
        await conn.execute(f"CREATE TABLE documents (id bigint PRIMARY KEY, v vector({DIMS}), h halfvec({DIMS}),"
                           f" s sparsevec({DIMS}), b bit({DIMS}))")
        await conn.executemany("INSERT INTO documents VALUES ($1, $2, $3, $4, $5)", rows[::2])
        assert await conn.copy_records_to_table("documents", records=rows[1::2]) == f"COPY {ROWS // 2}"
        for column, type in {"v": "vector", "h": "halfvec", "s": "sparsevec"}.items():
            await conn.execute(f"CREATE INDEX documents_{column} ON documents USING hnsw ({column} {type}_cosine_ops)")
        await conn.execute("CREATE INDEX documents_b ON documents USING hnsw (b bit_hamming_ops)")
        await conn.execute("ANALYZE documents")

    answer(address, fill)


def assert_index_scan(plan, index):
    limit, scan = plan[0]["Plan"], plan[0]["Plan"]["Plans"][0]
    assert (limit["Node Type"], scan["Node Type"], scan.get("Index Name")) == ("Limit", "Index Scan", index)


def hits(distances, rows):
    """How many rows (id, distance) are among the ten nearest; each must say its true distance."""
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids) == 10
    assert [row["distance"] for row in rows] == pytest.approx(distances[ids], abs=1e-4)
    assert (np.diff(distances[ids]) >= -1e-4).all()
    return (distances[ids] <= np.sort(distances)[9] + 1e-4).sum()


def test_values_come_back_as_they_went(address, documents, data):
    rows = answer(address, lambda conn: conn.fetch("SELECT * FROM documents ORDER BY id"))
    assert [row["id"] for row in rows] == list(range(ROWS))
    for column, kind in {"v": Vector, "h": HalfVector, "s": SparseVector}.items():
        assert {type(row[column]) for row in rows} == {kind}
        assert (np.array([row[column].to_numpy() for row in rows]) == data[:ROWS]).all()
    assert [row["b"] for row in rows] == [bits(vector) for vector in data[:ROWS]]


def test_the_server_reads_what_the_client_meant(address, documents, data):
    sql = "SELECT v::text, h::text, s::text, b::text FROM documents WHERE id = 1"
    row = answer(address, lambda conn: conn.fetchrow(sql))
    assert row["v"] == row["h"] == "[" + ",".join(f"{value:.9g}" for value in data[1]) + "]"
    assert SparseVector.from_text(row["s"]) == SparseVector(data[1])
    assert row["b"] == bits(data[1]).as_string().replace(" ", "")


@pytest.mark.parametrize("type, kind", [("vector", Vector), ("halfvec", HalfVector), ("sparsevec", SparseVector)])
def test_nearest_rows_equal_brute_force(address, documents, data, type, kind):
    column = type[0]


    async def ask(conn):
        sql = f"SELECT id, {column} <=> $1 AS distance FROM documents ORDER BY {column} <=> $1 LIMIT 10"
        statement = await conn.prepare(sql)
        assert [parameter.name for parameter in statement.get_parameters()] == [type]
        assert_index_scan(await statement.explain(kind(data[ROWS])), f"documents_{column}")
        return [await statement.fetch(kind(query)) for query in data[ROWS:]]

    answers = answer(address, ask)
    found = sum(hits(METRICS["cosine"].distances(query, data[:ROWS]), rows)
                for query, rows in zip(data[ROWS:], answers, strict=True))
    assert found >= 0.95 * 10 * QUERIES


def test_nearest_bit_strings_equal_brute_force(address, documents, data):
    async def ask(conn):
        statement = await conn.prepare("SELECT id, b <~> $1 AS distance FROM documents ORDER BY b <~> $1 LIMIT 10")
        assert_index_scan(await statement.explain(bits(data[ROWS])), "documents_b")
        return [await statement.fetch(bits(query)) for query in data[ROWS:]]

    answers = answer(address, ask)
    found = sum(hits(((data[:ROWS] > 0) != (query > 0)).sum(axis=1), rows)
                for query, rows in zip(data[ROWS:], answers, strict=True))
    assert found >= 0.95 * 10 * QUERIES


def test_a_pool_asks_from_many_tasks(address, documents, data):
    async def ask():
        async with asyncpg.create_pool(min_size=3, max_size=3, init=register_vector, **address) as pool:
            sql = "SELECT id FROM documents ORDER BY v <=> $1 LIMIT 1"
            return await asyncio.gather(*(pool.fetchval(sql, vector) for vector in data[:60]))

    assert asyncio.run(ask()) == list(range(60))


def test_a_cursor_reads_as_far_as_it_is_asked(address, documents, data):
    sql = "SELECT id FROM documents ORDER BY v <=> $1 LIMIT 20"

    async def ask(conn):
        async with conn.transaction():
            by_portal = [row async for row in conn.cursor(sql, data[ROWS], prefetch=3)]
        return by_portal, await conn.fetch(sql, data[ROWS])

    by_portal, direct = answer(address, ask)
    assert by_portal == direct and len(direct) == 20


def test_binary_copy_goes_both_ways(address, documents, tmp_path):
    async def copy(conn):
        await conn.execute("CREATE TABLE copied (LIKE documents)")
        await conn.copy_from_table("documents", output=tmp_path / "rows", format="binary")
        await conn.copy_to_table("copied", source=tmp_path / "rows", format="binary")
        return await conn.fetch("SELECT * FROM documents EXCEPT SELECT * FROM copied"), \
            await conn.fetchval("SELECT count(*) FROM copied")

    assert answer(address, copy) == ([], ROWS)


def test_nulls_arrays_and_lists(address):
    async def ask(conn):
        return await conn.fetchrow("SELECT $1::vector AS missing, $2::vector[] AS vectors, $3::halfvec AS list,"
                                   " avg(u) AS average FROM unnest($2::vector[]) u",
                                   None, [Vector([1, 2]), None, Vector([4, 5])], [1.5, -2])

    row = answer(address, ask)
    assert row["missing"] is None
    assert row["vectors"] == [Vector([1, 2]), None, Vector([4, 5])]
    assert row["list"] == HalfVector([1.5, -2])
    assert row["average"] == Vector([2.5, 3.5])


def test_errors_leave_the_connection_usable(address, documents):
    async def ask(conn):
        with pytest.raises(asyncpg.DataError, match=f"^expected {DIMS} dimensions, not 3$"):
            await conn.execute("UPDATE documents SET v = $1", [1, 2, 3])
        with pytest.raises(asyncpg.DataError, match=f"^different vector dimensions 2 and {DIMS}$"):
            await conn.fetch("SELECT id FROM documents ORDER BY v <=> $1 LIMIT 1", [1, 2])
        with pytest.raises(asyncpg.DataError, match="^NaN not allowed in vector$"):
            await conn.fetch("SELECT $1::vector", [1, float("nan")])
        return await conn.fetchval("SELECT count(*) FROM documents")

    assert answer(address, ask) == ROWS
