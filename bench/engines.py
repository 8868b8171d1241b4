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
EF_SEARCH = [10, 20, 40, 80, 120, 200, 400, 800]


@dataclasses.dataclass(frozen=True)
class Engine:
    name: str
    extension: str
    index: str  # what follows CREATE INDEX ON docs
    knob: str  # the setting that trades speed for recall
    preload: str | None = None

    @property
    def database(self):
        return f"bench_{self.name}"


ENGINES = [
    Engine("insitu", "insitu", f"USING hnsw (emb vector_cosine_ops) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})",
           "hnsw.ef_search"),
    Engine("pgvector", "vector", f"USING hnsw (emb vector_cosine_ops) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})",
           "hnsw.ef_search"),
    # VectorChord's m counts all neighbours of a vertex at level 0, pgvector's those of the upper levels.
    Engine("vectorchord", "vchord", "USING vchordg (emb vector_cosine_ops) WITH (options = $$\n"
           f"m = {2 * M}\nef_construction = {EF_CONSTRUCTION}\n$$)", "vchordg.ef_search", preload="vchord"),
]


def installed(engine):
    """Whether this PostgreSQL has the engine's extension."""
    control = pathlib.Path(pg_config("--sharedir")) / "extension" / f"{engine.extension}.control"
    if not control.exists():
        return False
    if engine.extension == "vector":
        # insitu's compatibility extension has this name too, but no library of its own.
        return re.search(r"module_pathname\s*=\s*'\$libdir/vector", control.read_text()) is not None
    return True
