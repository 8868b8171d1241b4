"""An application written for pgvector with Django, whose first migration creates the extension `vector`."""

import os

import django
import numpy as np
import pytest
from django.conf import settings
from django.db import connections, migrations, models
from django.db.migrations.state import ProjectState
from psycopg.conninfo import conninfo_to_dict

from checks import Database, clustered, pretend_pgvector, stands_for_insitu

ROWS, DIMS = 400, 8

if not settings.configured:
    # Django asks whether it runs where there are threads of asyncio, as in a test that has used asyncpg.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    settings.configure(INSTALLED_APPS=["django.contrib.postgres"], DATABASES={"default": {}}, USE_TZ=True)
    django.setup()

from pgvector import SparseVector  # noqa: E402
from pgvector.django import (BitField, CosineDistance, HalfVectorField, HammingDistance, HnswIndex, IvfflatIndex,  # noqa: E402
                             L2Distance, SparseVectorField, VectorExtension, VectorField)

INDEXES = [HnswIndex(name="by_cosine", fields=["embedding"], m=16, ef_construction=64, opclasses=["vector_cosine_ops"]),
           IvfflatIndex(name="by_lists", fields=["embedding"], lists=4, opclasses=["vector_l2_ops"]),
           HnswIndex(name="by_half", fields=["half"], opclasses=["halfvec_l2_ops"]),
           HnswIndex(name="by_bits", fields=["bits"], opclasses=["bit_hamming_ops"])]
MIGRATION = migrations.Migration("0001_initial", "documents")
MIGRATION.operations = [
    VectorExtension(),
    migrations.CreateModel("Document", [
        ("id", models.BigAutoField(primary_key=True)), ("embedding", VectorField(dimensions=DIMS)),
        ("half", HalfVectorField(dimensions=DIMS)), ("sparse", SparseVectorField(dimensions=DIMS)), ("bits", BitField(length=DIMS))],
        options={"indexes": INDEXES})]


@pytest.fixture(params=["empty", "with insitu", "in pgvector's place"])
def server(request, cluster, empty_database):
    """A database as Django finds it."""
    if request.param == "empty" and not stands_for_insitu(cluster):
        pytest.skip("pgvector is installed in this server")
    database = empty_database("of_django")
    with cluster.connect(dbname=database.name) as conn:
        if request.param != "empty":
            conn.execute("CREATE EXTENSION insitu")
        if request.param == "in pgvector's place":
            pretend_pgvector(conn)
    if request.param == "in pgvector's place":
        with cluster.connect(dbname=database.name) as conn:
            conn.execute("SET insitu.replace_pgvector = on; CREATE EXTENSION insitu")
    return database


@pytest.fixture
def connection(server: Database):
    """Django's own connection to it."""
    words = conninfo_to_dict(server.dsn())
    connections.settings["default"] |= {"ENGINE": "django.db.backends.postgresql", "NAME": server.name, "HOST": words["host"],
                                        "PORT": words["port"], "USER": words["user"], "OPTIONS": {}}
    yield connections["default"]
    connections["default"].close()
    del connections["default"]


def test_a_migration_creates_the_extension_and_queries_find_the_nearest(cluster, connection):
    vectors = np.round(clustered(ROWS + 5, DIMS, seed=12) * 64) / 64
    # Undone, the migration has dropped the extension; where the server has the files of pgvector, these would come next.
    for _ in range(2 if stands_for_insitu(cluster) else 1):
        with connection.schema_editor() as editor:
            state = MIGRATION.apply(ProjectState(), editor)
        Document = state.apps.get_model("documents", "Document")
        assert Document.objects.count() == 0
        Document.objects.bulk_create(Document(
            id=id, embedding=vector, half=vector, sparse=SparseVector(vector),
            bits="".join("1" if value > 0 else "0" for value in vector)) for id, vector in enumerate(vectors[:ROWS]))
        with connection.cursor() as cursor:
            cursor.execute("SET enable_seqscan = off; SET ivfflat.probes = 4; SET hnsw.ef_search = 200")
            cursor.execute("SELECT extname FROM pg_extension ORDER BY 1")
            assert [name for name, in cursor.fetchall()] == ["insitu", "plpgsql", "vector"]
        for query in vectors[ROWS:]:
            of_l2 = np.linalg.norm(vectors[:ROWS] - query, axis=1)
            of_cosine = 1 - vectors[:ROWS] @ query / np.linalg.norm(vectors[:ROWS], axis=1) / np.linalg.norm(query)
            text = "".join("1" if value > 0 else "0" for value in query)
            for distance, index, exact in [
                    (CosineDistance("embedding", query), "by_cosine", of_cosine), (L2Distance("embedding", query), "by_lists", of_l2),
                    (L2Distance("half", query), "by_half", of_l2),
                    (HammingDistance("bits", text), "by_bits", ((vectors[:ROWS] > 0) != (query > 0)).sum(axis=1))]:
                rows = Document.objects.annotate(distance=distance).order_by("distance")[:10]
                assert index in rows.explain()
                assert [row.distance for row in rows] == pytest.approx(np.sort(exact)[:10], abs=1e-4)
        average = Document.objects.aggregate(mean=models.Avg("embedding"))["mean"]
        assert np.asarray(getattr(average, "to_numpy", lambda: average)()) == pytest.approx(vectors[:ROWS].mean(axis=0), abs=1e-5)
        with connection.schema_editor() as editor:
            MIGRATION.unapply(ProjectState(), editor)
