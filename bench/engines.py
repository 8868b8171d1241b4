"""The engines that the benchmark compares: what each needs to exist, and how it is told what to do."""

import dataclasses
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from cluster import pg_config

M = 16
EF_CONSTRUCTION = 64


@dataclasses.dataclass(frozen=True)
class Engine:
    name: str
    extension: str
    index: str  # what follows CREATE INDEX ON docs; {lists} is the root of the number of rows
    knob: str  # the setting that trades speed for recall
    preload: str | None = None

    @property
    def database(self):
        return f"bench_{self.name}"


@dataclasses.dataclass(frozen=True)
class Family:
    """Indexes of one kind, which are compared with each other."""

    knob: str  # what their settings have in common
    values: list  # of the knob, along a curve
    default: int  # for everything that is not measured along a curve
    parameters: str
    engines: list


_HNSW = f"USING hnsw (emb vector_cosine_ops) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
FAMILIES = {
    # 40 is the default of pgvector and insitu.
    "hnsw": Family("ef_search", [10, 14, 20, 28, 40, 56, 80, 120, 200, 400, 800], 40,
                   f"m = {M}, ef_construction = {EF_CONSTRUCTION}", [
        Engine("insitu", "insitu", _HNSW, "hnsw.ef_search"),
        Engine("pgvector", "vector", _HNSW, "hnsw.ef_search"),
        # VectorChord's m counts all neighbours of a vertex at level 0, pgvector's those of the upper levels.
        Engine("vectorchord", "vchord", "USING vchordg (emb vector_cosine_ops) WITH (options = $$\n"
               f"m = {2 * M}\nef_construction = {EF_CONSTRUCTION}\n$$)", "vchordg.ef_search", preload="vchord"),
    ]),
    "ivf": Family("probes", [2, 3, 4, 5, 10, 20, 40, 60, 100, 150, 200], 60, "lists = the root of the rows", [
        Engine("insitu", "insitu", "USING ivf (emb vector_cosine_ops) WITH (lists = {lists})", "ivf.probes"),
        Engine("pgvector", "vector", "USING ivfflat (emb vector_cosine_ops) WITH (lists = {lists})", "ivfflat.probes"),
        Engine("vectorchord", "vchord", "USING vchordrq (emb vector_cosine_ops) WITH (options = $$\n"
               "residual_quantization = true\nbuild.internal.lists = [{lists}]\n$$)", "vchordrq.probes",
               preload="vchord"),
    ]),
}


def installed(engine):
    """Whether this PostgreSQL has the engine's extension."""
    control = pathlib.Path(pg_config("--sharedir")) / "extension" / f"{engine.extension}.control"
    if not control.exists():
        return False
    if engine.extension == "vector":
        # insitu's compatibility extension has this name too, but no library of its own.
        return re.search(r"module_pathname\s*=\s*'\$libdir/vector", control.read_text()) is not None
    return True
