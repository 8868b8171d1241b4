"""Functions, operators, types and relations that somebody without privileges puts where the extension might find them.

What is planted follows from what the extension's SQL names: its script, the bodies of its functions, and the statements
that its library runs. Of each function of the server that is named there, and of each operator, everything is planted
that a call could resolve to instead: with the server's own argument types (found first where pg_catalog is last on the path), and with
every type that is implicitly cast to one of them, which fits a call with that type better.
"""

import itertools
import pathlib
import re

from cluster import pg_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOST_ARGUMENTS = 6

# What a planted object does when it is used: it can't be undone by an error, and tells its name.
SETUP = """
CREATE SCHEMA planted;
GRANT USAGE ON SCHEMA planted TO PUBLIC;
CREATE SEQUENCE planted.uses;
GRANT ALL ON SEQUENCE planted.uses TO PUBLIC;
CREATE FUNCTION planted.use(what pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM nextval('planted.uses');
    RAISE WARNING 'used: %', what;
    BEGIN
        EXECUTE format('ALTER ROLE %I SUPERUSER', (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'planted'));
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    RETURN true;
END
$$;
"""


def sources(conn):
    """All SQL of the extension. The connection's database has it."""
    extension = pathlib.Path(pg_config("--sharedir")) / "extension"
    texts = [path.read_text() for path in [*extension.glob("insitu--*.sql"), *(ROOT / "compat").glob("*.sql")]]
    texts += [row[0] for row in conn.execute(
        "SELECT p.prosrc FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid"
        " JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
        " WHERE e.extname = 'insitu' AND p.probin IS NULL")]
    for path in (ROOT / "src").rglob("*.rs"):
        texts += [literal for literal in re.findall(r'"(?:[^"\\]|\\.)*"', path.read_text())
                  if re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER)\b", literal)]
    return "\n".join(texts)


class Catalog:
    """What the server has of functions, operators and types."""

    def __init__(self, conn):
        rows = conn.execute("SELECT oid, typname, typtype FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
                            " AND typtype IN ('b', 'p') AND typisdefined").fetchall()
        self.types = {oid: name for oid, name, _ in rows}
        self.pseudo = {oid for oid, _, kind in rows if kind == "p"}
        self.casts = {}
        for source, target in conn.execute("SELECT castsource, casttarget FROM pg_cast WHERE castcontext = 'i'"):
            self.casts.setdefault(target, set()).add(source)
        self.relations = [row[0] for row in conn.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v')"
            " AND relnamespace IN ('pg_catalog'::regnamespace, 'insitu'::regnamespace)")]
        self.functions = conn.execute("SELECT proname, proargtypes::oid[], provariadic, prorettype FROM pg_proc"
                                      " WHERE pronamespace = 'pg_catalog'::regnamespace").fetchall()
        self.operators = conn.execute("SELECT oprname, oprleft, oprright, oprresult FROM pg_operator"
                                      " WHERE oprnamespace = 'pg_catalog'::regnamespace").fetchall()

    def fitting(self, type, any_types):
        """The types of arguments that may be given where the server's function takes this one."""
        if type in self.pseudo:
            return any_types if self.types[type].startswith("any") else []
        return [oid for oid in {type} | self.casts.get(type, set()) if oid in self.types and oid not in self.pseudo]

    def quoted(self, types):
        return ", ".join(f'pg_catalog."{self.types[oid]}"' for oid in types)


def _named(text, words):
    found = set(re.findall(r"\w+", text.lower()))
    return [word for word in words if word in found]


def statements(conn, schema):
    """The statements that plant everything in a schema."""
    text, catalog = sources(conn), Catalog(conn)
    called = set(re.findall(r"(\w+)\s*\(", text.lower()))
    names = {name: oid for oid, name in catalog.types.items() if oid not in catalog.pseudo}
    named_types = [names[name] for name in _named(text, names)]
    texts = [names[name] for name in ("text", "name", "regclass")]

    functions, operators = {}, {}
    for name, types, variadic, result in catalog.functions:
        if name not in called:
            continue
        fixed = types[:-1] if variadic else types
        result = names["text"] if result in catalog.pseudo or result not in catalog.types else result
        lengths = range(len(fixed), MOST_ARGUMENTS + 1) if variadic else [len(fixed)]
        for length in lengths:
            if length > MOST_ARGUMENTS:
                continue
            # Of many arguments of any type, the three that SQL is made of.
            any_types = named_types if length <= 2 else texts
            positions = [catalog.fitting(type, any_types) for type in fixed] + [any_types] * (length - len(fixed))
            for combination in itertools.product(*positions):
                functions[name, combination] = result
    # Of operators all: IN, LIKE, BETWEEN and others don't write them.
    for symbol, left, right, result in catalog.operators:
        if left == 0:
            continue
        result = names["bool"] if result in catalog.pseudo or result not in catalog.types else result
        lefts, rights = catalog.fitting(left, named_types), catalog.fitting(right, named_types)
        # A literal beside an argument is first taken for one of the same type.
        for pair in [*itertools.product(lefts, rights), *((type, type) for type in {*lefts, *rights})]:
            operators[symbol, pair] = result

    made = [SETUP, "SET check_function_bodies = off"]
    for (name, types), result in functions.items():
        made.append(_function(catalog, f'{schema}."{name}"', name, types, result))
    for number, ((symbol, types), result) in enumerate(operators.items()):
        made.append(_function(catalog, f"planted.o{number}", symbol, types, result))
        left, right = (catalog.quoted([type]) for type in types)
        made.append(f"CREATE OPERATOR {schema}.{symbol} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = planted.o{number})")
    made += _types_and_relations(schema, text, catalog)
    return made


def temporary_statements(conn):
    """Types and relations are looked up among temporary objects first, where the path does not say otherwise."""
    return _types_and_relations("pg_temp", sources(conn), Catalog(conn)) + [
        f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.text CHECK (planted.use('type {name}'))"
        for name in ("vector", "halfvec", "sparsevec")]


def _types_and_relations(schema, text, catalog):
    relations, types = _named(text, catalog.relations), _named(text, catalog.types.values())
    made = [f"CREATE VIEW {schema}.\"{name}\" AS SELECT planted.use('relation {name}')" for name in relations]
    for oid, name in catalog.types.items():
        if oid not in catalog.pseudo and name in types and name not in relations:
            made.append(f"CREATE DOMAIN {schema}.\"{name}\" AS pg_catalog.\"{name}\" CHECK (planted.use('type {name}'))")
    return made


def _function(catalog, quoted, name, types, result):
    what = f"{name}({', '.join(catalog.types[oid] for oid in types)})"
    return (f"CREATE FUNCTION {quoted}({catalog.quoted(types)}) RETURNS {catalog.quoted([result])} LANGUAGE plpgsql AS"
            f" $$BEGIN PERFORM planted.use('{what}'); RETURN NULL; END$$")
