"""An application written for pgvector, with SQLAlchemy's ORM and pgvector's types for it, unchanged."""

import numpy as np
import pytest
import sqlalchemy as sa
from pgvector import SparseVector
from pgvector.sqlalchemy import BIT, HALFVEC, SPARSEVEC, VECTOR, Vector, avg
from pgvector.sqlalchemy import sum as vector_sum
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship

from checks import METRICS, assert_index_scan, clustered

ROWS, DIMS, QUERIES, AUTHORS = 2000, 48, 20, 4

COMPARATORS = {"l2": "l2_distance", "ip": "max_inner_product", "cosine": "cosine_distance", "l1": "l1_distance"}
TYPES = {"embedding": "vector", "half": "halfvec", "sparse": "sparsevec"}


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    documents: Mapped[list["Document"]] = relationship(back_populates="author")


class Document(Base):
    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(sa.ForeignKey("authors.id"))
    author: Mapped[Author | None] = relationship(back_populates="documents")
    embedding = mapped_column(VECTOR(DIMS))
    half = mapped_column(HALFVEC(DIMS))
    sparse = mapped_column(SPARSEVEC(DIMS))
    bits = mapped_column(BIT(DIMS))

    __table_args__ = (
        sa.Index("documents_embedding_cosine", "embedding", postgresql_using="hnsw",
                 postgresql_with={"m": 12, "ef_construction": 80},
                 postgresql_ops={"embedding": "vector_cosine_ops"}),
    )


def document(id, vector, **more):
    return Document(id=id, embedding=vector, half=vector, sparse=SparseVector(vector), bits=bits(vector), **more)


def bits(vector):
    return "".join("1" if value > 0 else "0" for value in vector)


@pytest.fixture(scope="module")
def data():
    """Values that half precision keeps, so that one brute force serves all types."""
    return np.round(clustered(ROWS + QUERIES, DIMS, seed=3) * 64) / 64


@pytest.fixture(scope="module")
def engine(database):
    words = conninfo_to_dict(database.dsn())
    url = sa.URL.create("postgresql+psycopg", words["user"], database=words["dbname"],
                        query={"host": words["host"], "port": words["port"],
                               "options": "-c enable_seqscan=off -c hnsw.ef_search=100"})
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def documents(engine, data):
    """The tables, half of the documents written by the unit of work, half by a bulk insert."""
    Base.metadata.create_all(engine)
    half = ROWS // 2
    with Session(engine) as session, session.begin():
        authors = [Author(id=id, name=f"author {id}") for id in range(AUTHORS)]
        session.add_all(authors)
        session.add_all(document(id, data[id], author=authors[id % AUTHORS]) for id in range(half))
        session.flush()
        session.execute(sa.insert(Document), [
            {"id": id, "author_id": id % AUTHORS, "embedding": data[id].tolist(), "half": data[id].tolist(),
             "sparse": SparseVector(data[id]), "bits": bits(data[id])} for id in range(half, ROWS)])
        session.execute(sa.text("ANALYZE documents"))


@pytest.fixture
def session(engine, documents):
    """A session whose changes are taken back."""
    with Session(engine) as session:
        yield session


@pytest.fixture
def new_index(session):
    """Makes hnsw indexes of expressions, in the session's transaction."""
    made = []

    def make(name, expression, opclass):
        made.append(sa.Index(name, expression, postgresql_using="hnsw", postgresql_ops={expression.key: opclass}))
        made[-1].create(session.connection())

    yield make
    Document.__table__.indexes.difference_update(made)


def ask(session, statement, index):
    """The statement's rows; fails unless the statement, as SQLAlchemy sends it, reads the index in order."""
    sent = []

    def note(conn, cursor, sql, parameters, context, executemany):
        sent.append((sql, parameters))

    connection = session.connection()
    sa.event.listen(connection, "before_cursor_execute", note)
    rows = session.execute(statement).all()
    sa.event.remove(connection, "before_cursor_execute", note)
    (sql, parameters), = sent
    assert_index_scan(connection.connection.driver_connection, sql, parameters, index)
    return rows


def nearest(distance):
    return sa.select(Document.id, distance.label("distance")).order_by(distance).limit(10)


def hits(rows, distances):
    """How many rows (id, distance) are among the ten nearest; each must say its true distance."""
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids) == 10
    assert [row.distance for row in rows] == pytest.approx(distances[ids], rel=1e-5, abs=1e-4)
    assert (np.diff(distances[ids]) >= -1e-4).all()
    return (distances[ids] <= np.sort(distances)[9] + 1e-4).sum()


def test_create_all_makes_the_index_as_it_is_declared(session):
    kind, options, definition = session.execute(sa.text(
        "SELECT amname, reloptions, pg_get_indexdef(c.oid) FROM pg_class c JOIN pg_am a ON a.oid = relam"
        " WHERE relname = 'documents_embedding_cosine'")).one()
    assert (kind, options) == ("hnsw", ["m=12", "ef_construction=80"])
    assert definition == ("CREATE INDEX documents_embedding_cosine ON public.documents"
                          " USING hnsw (embedding vector_cosine_ops) WITH (m='12', ef_construction='80')")


def test_drop_all_leaves_nothing(engine):
    metadata = sa.MetaData()
    sa.Table("passing", metadata, sa.Column("embedding", Vector(3)), sa.Column("any_length", VECTOR),
             sa.Index("passing_l1", "embedding", postgresql_using="hnsw",
                      postgresql_ops={"embedding": "vector_l1_ops"}))
    metadata.create_all(engine)
    metadata.create_all(engine)
    assert {"passing"} <= set(sa.inspect(engine).get_table_names())
    metadata.drop_all(engine)
    assert not sa.inspect(engine).has_table("passing")


def test_values_come_back_as_they_went(session, data):
    rows = session.scalars(sa.select(Document).order_by(Document.id)).all()
    assert [row.id for row in rows] == list(range(ROWS))
    for column in ("embedding", "half"):
        assert (np.array([getattr(row, column) for row in rows]) == data[:ROWS]).all()
    assert [row.sparse for row in rows] == [SparseVector(vector) for vector in data[:ROWS]]
    assert [row.bits for row in rows] == [bits(vector) for vector in data[:ROWS]]


@pytest.mark.parametrize("metric", COMPARATORS)
@pytest.mark.parametrize("column", TYPES)
def test_nearest_rows_equal_brute_force(session, new_index, data, column, metric):
    attribute = getattr(Document, column)
    if (column, metric) != ("embedding", "cosine"):
        new_index(f"documents_{column}_{metric}", Document.__table__.c[column], f"{TYPES[column]}_{metric}_ops")
    found = 0
    for query in data[ROWS:]:
        distance = getattr(attribute, COMPARATORS[metric])(SparseVector(query) if column == "sparse" else query)
        rows = ask(session, nearest(distance), f"documents_{column}_{metric}")
        found += hits(rows, METRICS[metric].distances(query, data[:ROWS]))
    assert found >= 0.95 * 10 * QUERIES


@pytest.mark.parametrize("metric", ["hamming", "jaccard"])
def test_nearest_bit_strings_equal_brute_force(session, new_index, data, metric):
    new_index("documents_bits", Document.__table__.c.bits, f"bit_{metric}_ops")
    found = 0
    for query in data[ROWS:] > 0:
        distance = getattr(Document.bits, f"{metric}_distance")(bits(query))
        written = data[:ROWS] > 0
        distances = {"hamming": (written != query).sum(axis=1),
                     "jaccard": 1 - (written & query).sum(axis=1) / (written | query).sum(axis=1)}[metric]
        found += hits(ask(session, nearest(distance), "documents_bits"), distances)
    assert found >= 0.95 * 10 * QUERIES


def test_rows_within_a_distance_of_an_author(session, data):
    query, name = data[ROWS], "author 1"
    distances = METRICS["l2"].distances(query, data[:ROWS])
    radius = float(np.sort(distances)[199:201].mean())
    distance = Document.embedding.l2_distance(query)
    statement = (sa.select(Document).join(Document.author).where(Author.name == name, distance < radius)
                 .order_by(distance))
    rows = session.scalars(statement).all()
    ids = [row.id for row in rows]
    assert sorted(ids) == [id for id in range(ROWS) if distances[id] < radius and id % AUTHORS == 1]
    assert len(ids) > 20 and (np.diff(distances[ids]) >= -1e-4).all()
    assert {row.author.name for row in rows} == {name}


def test_nearest_rows_of_an_author_through_the_index(session, data):
    session.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
    found = 0
    for query in data[ROWS:]:
        distance = Document.embedding.cosine_distance(query)
        statement = (sa.select(Document.id, Author.name).join(Document.author).where(Author.name == "author 2")
                     .order_by(distance).limit(10))
        rows = ask(session, statement, "documents_embedding_cosine")
        assert {row.name for row in rows} == {"author 2"}
        distances = METRICS["cosine"].distances(query, data[:ROWS])
        distances[np.arange(ROWS) % AUTHORS != 2] = np.inf
        found += len({row.id for row in rows} & set(np.argsort(distances)[:10].tolist()))
    assert found >= 0.95 * 10 * QUERIES


def test_nearest_neighbours_of_each_row_of_a_query(session, data):
    """A lateral join, which scans the index again for each row."""
    other = aliased(Document)
    distance = other.embedding.cosine_distance(Document.embedding)
    near = sa.select(other.id, distance.label("distance")).order_by(distance).limit(10).lateral()
    statement = (sa.select(Document.id.label("of"), near.c.id, near.c.distance).join(near, sa.true())
                 .where(Document.id < QUERIES))
    rows = sorted(ask(session, statement, "documents_embedding_cosine"), key=lambda row: row.of)
    assert [row.of for row in rows] == [id for id in range(QUERIES) for _ in range(10)]
    found = sum(hits(rows[10 * id:10 * id + 10], METRICS["cosine"].distances(data[id], data[:ROWS]))
                for id in range(QUERIES))
    assert found >= 0.95 * 10 * QUERIES


def test_averages_and_sums(session, data):
    statement = sa.select(Document.author_id, avg(Document.embedding), avg(Document.half),
                          vector_sum(Document.embedding), vector_sum(Document.half))
    few = 5 * AUTHORS
    rows = session.execute(statement.where(Document.id < few).group_by(Document.author_id)).all()
    assert sorted(row[0] for row in rows) == list(range(AUTHORS))
    for author, average, half_average, total, half_total in rows:
        written = data[author:few:AUTHORS].astype(np.float64)
        # So few rows have sums that half precision keeps.
        assert total == half_total == written.sum(axis=0).tolist()
        assert average == pytest.approx(written.mean(axis=0), rel=1e-6)
        assert half_average == pytest.approx(written.mean(axis=0), rel=1e-3)
    assert session.scalar(sa.select(avg(Document.embedding))) == \
        pytest.approx(data[:ROWS].mean(axis=0, dtype=np.float64), rel=1e-5, abs=1e-6)


def test_an_index_in_half_precision(session, new_index, data):
    half = sa.cast(Document.embedding, HALFVEC(DIMS))
    new_index("documents_as_half", half.label("as_half"), "halfvec_l2_ops")
    found = 0
    for query in data[ROWS:]:
        rows = ask(session, nearest(half.l2_distance(query)), "documents_as_half")
        found += hits(rows, METRICS["l2"].distances(query, data[:ROWS]))
    assert found >= 0.95 * 10 * QUERIES


def test_an_index_of_signs_whose_rows_are_ranked_again(session, new_index, data):
    signs = sa.cast(sa.func.binary_quantize(Document.embedding), BIT(DIMS))
    new_index("documents_signs", signs.label("signs"), "bit_hamming_ops")
    found = 0
    for query in data[ROWS:]:
        quantized = sa.func.binary_quantize(sa.cast(query, VECTOR(DIMS)))
        candidates = sa.select(Document).order_by(signs.hamming_distance(quantized)).limit(80)
        assert len(ask(session, candidates, "documents_signs")) == 80
        candidates = candidates.subquery()
        distance = candidates.c.embedding.cosine_distance(query)
        statement = sa.select(candidates.c.id, distance.label("distance")).order_by(distance).limit(10)
        found += hits(session.execute(statement).all(), METRICS["cosine"].distances(query, data[:ROWS]))
    assert found >= 0.9 * 10 * QUERIES


def test_changed_rows_are_found_where_they_went(session, data):
    index, far = "documents_embedding_cosine", -4 * data[ROWS]
    session.get(Document, 17).embedding = far
    session.add(document(ROWS, 2 * far))
    session.delete(session.get(Document, 18))
    session.flush()
    session.expire_all()
    assert session.get(Document, 17).embedding == far.tolist()
    rows = ask(session, nearest(Document.embedding.cosine_distance(far)), index)
    assert {row.id for row in rows[:2]} == {17, ROWS}
    for moved in (17, 18):
        rows = ask(session, nearest(Document.embedding.cosine_distance(data[moved])), index)
        assert len(rows) == 10 and moved not in {row.id for row in rows}
    session.rollback()
    for moved in (17, 18):
        assert session.get(Document, moved).embedding == data[moved].tolist()
        assert ask(session, nearest(Document.embedding.cosine_distance(data[moved])), index)[0].id == moved


def test_values_written_as_literals(session, data):
    for distance in [Document.embedding.l2_distance(data[3]), Document.half.l2_distance(data[3]),
                     Document.sparse.l2_distance(SparseVector(data[3]))]:
        statement = sa.select(Document.id).where(distance == 0)
        sql = str(statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
        assert session.connection().exec_driver_sql(sql).all() == [(3,)]


def test_nulls_and_equality(session, data):
    session.add(Document(id=ROWS, author_id=0))
    session.flush()
    session.expire_all()
    empty = session.get(Document, ROWS)
    assert (empty.embedding, empty.half, empty.sparse, empty.bits) == (None, None, None, None)
    assert session.scalars(sa.select(Document.id).where(Document.embedding.is_(None))).all() == [ROWS]
    for column, value in [("embedding", data[5]), ("half", data[5]), ("sparse", SparseVector(data[5]))]:
        assert session.scalars(sa.select(Document.id).where(getattr(Document, column) == value)).all() == [5]


def test_wrong_dimensions_are_a_data_error(session):
    for column, value in [("embedding", [1, 2, 3]), ("half", [1, 2, 3]), ("sparse", SparseVector([1, 2, 3]))]:
        with pytest.raises(sa.exc.DataError, match=f"expected {DIMS} dimensions, not 3"), session.begin_nested():
            session.add(Document(id=ROWS, **{column: value}))
            session.flush()
    assert session.scalar(sa.select(sa.func.count()).select_from(Document)) == ROWS


def test_a_reflected_table_is_the_declared_one(engine, documents, data):
    metadata = sa.MetaData()
    metadata.reflect(engine, only=["documents"])
    reflected = metadata.tables["documents"]

    def types(table):
        return {column.name: column.type.compile(engine.dialect) for column in table.columns}

    assert types(reflected) == types(Document.__table__)
    for column, kind in {"embedding": VECTOR, "half": HALFVEC, "sparse": SPARSEVEC}.items():
        assert isinstance(reflected.c[column].type, kind)
    index, = reflected.indexes
    assert (index.name, [column.name for column in index.columns]) == ("documents_embedding_cosine", ["embedding"])
    assert index.dialect_options["postgresql"]["using"] == "hnsw"
    assert index.dialect_options["postgresql"]["with"] == {"m": "12", "ef_construction": "80"}
    with engine.connect() as conn:
        statement = sa.select(reflected.c.id).order_by(reflected.c.embedding.cosine_distance(data[9])).limit(1)
        assert conn.scalar(statement) == 9
