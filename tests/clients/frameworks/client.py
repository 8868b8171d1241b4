"""What frameworks do with a database in which nothing has been set up: they create the extension `vector`, a table and an
index, fill it, and ask for the row whose vector is given. Run as `client.py FRAMEWORK HOST PORT DATABASE`; needs no network.
"""

import os
import random
import sys
import uuid

DIMS, ROWS, WANTED = 16, 30, 7
VECTORS = [[random.Random(17 * row + place).uniform(-1, 1) for place in range(DIMS)] for row in range(ROWS)]


def langchain(url):
    from langchain_core.documents import Document
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGEngine, PGVector, PGVectorStore
    from langchain_postgres.v2.indexes import HNSWIndex, IVFFlatIndex

    embedding = DeterministicFakeEmbedding(size=DIMS)
    texts, ids = [f"text {row}" for row in range(ROWS)], [str(uuid.UUID(int=row)) for row in range(ROWS)]
    store = PGVector(embeddings=embedding, collection_name="texts", connection=url("postgresql+psycopg"), use_jsonb=True)
    store.add_documents([Document(text, metadata={"row": row}) for row, text in enumerate(texts)], ids=ids)
    assert [found.page_content for found in store.similarity_search(texts[WANTED], k=1)] == [texts[WANTED]]
    (found, distance), = store.similarity_search_with_score(texts[WANTED], k=1, filter={"row": {"$gt": WANTED - 1}})
    assert found.page_content == texts[WANTED] and abs(distance) < 1e-5

    engine = PGEngine.from_connection_string(url=url("postgresql+psycopg"))
    engine.init_vectorstore_table(table_name="rows", vector_size=DIMS)
    store = PGVectorStore.create_sync(engine=engine, table_name="rows", embedding_service=embedding)
    store.add_texts(texts, ids=ids)
    for index in (HNSWIndex(name="by_graph"), IVFFlatIndex(name="by_lists", lists=1)):
        store.apply_vector_index(index)
        assert store.is_valid_index(index.name)
        assert [found.page_content for found in store.similarity_search(texts[WANTED], k=1)] == [texts[WANTED]]
        store.reindex(index.name)
        store.drop_vector_index(index.name)


def llama_index(url):
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.vector_stores.postgres import PGVectorStore

    for type in ("vector", "halfvec"):
        store = PGVectorStore(
            connection_string=url("postgresql+psycopg2"), async_connection_string=url("postgresql+asyncpg"), table_name=type,
            embed_dim=DIMS, use_halfvec=type == "halfvec", hybrid_search=type == "halfvec",
            hnsw_kwargs={"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_ef_search": 40, "hnsw_dist_method": f"{type}_cosine_ops"})
        store.add([TextNode(text=f"text {row}", id_=str(row), embedding=vector) for row, vector in enumerate(VECTORS)])
        assert store.query(VectorStoreQuery(query_embedding=VECTORS[WANTED], similarity_top_k=1)).ids == [str(WANTED)]
        store.delete_nodes([str(WANTED)])
        assert store.query(VectorStoreQuery(query_embedding=VECTORS[WANTED], similarity_top_k=1)).ids != [str(WANTED)]


def haystack(url):
    os.environ |= {"PG_CONN_STR": url("postgresql"), "HAYSTACK_TELEMETRY_ENABLED": "False"}
    from haystack import Document
    from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    for type in ("vector", "halfvec"):
        for strategy in ("exact_nearest_neighbor", "hnsw"):
            name = f"{type}_{strategy}"
            store = PgvectorDocumentStore(
                table_name=name, vector_type=type, embedding_dimension=DIMS, search_strategy=strategy, hnsw_ef_search=40,
                hnsw_index_name=f"{name}_hnsw", keyword_index_name=f"{name}_words", recreate_table=True)
            assert store.write_documents([Document(content=f"text {row}", embedding=vector)
                                          for row, vector in enumerate(VECTORS)]) == ROWS
            found = PgvectorEmbeddingRetriever(document_store=store, top_k=1).run(query_embedding=VECTORS[WANTED])
            assert [document.content for document in found["documents"]] == [f"text {WANTED}"]


def mem0(url):
    os.environ |= {"MEM0_TELEMETRY": "False"}
    from mem0.vector_stores.pgvector import PGVector

    ids = [str(uuid.UUID(int=row)) for row in range(ROWS)]
    for hnsw in (True, False):
        store = PGVector(dbname=None, user=None, password=None, host=None, port=None, connection_string=url("postgresql"),
                         collection_name=f"with_{hnsw}".lower(), embedding_model_dims=DIMS, diskann=False, hnsw=hnsw)
        store.insert(vectors=VECTORS, payloads=[{"data": f"text {row}"} for row in range(ROWS)], ids=ids)
        assert [str(found.id) for found in store.search(query="", vectors=VECTORS[WANTED], top_k=1)] == [ids[WANTED]]
        store.delete(ids[WANTED])
        assert store.col_info()["count"] == ROWS - 1


if __name__ == "__main__":
    framework, host, port, database = sys.argv[1:]
    {"langchain": langchain, "llama-index": llama_index, "haystack": haystack, "mem0": mem0}[framework](
        lambda scheme: f"{scheme}://postgres@/{database}?host={host}&port={port}")
