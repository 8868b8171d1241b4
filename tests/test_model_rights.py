"""Rights on models end with the roles that had them, whoever has their numbers later, and wherever they are taken away."""

import subprocess

import psycopg
import psycopg.sql
import pytest

import tiny_models
from checks import Database, install, refused, wait_for
from cluster import pg_config

EMBED = "SELECT insitu.embed('tiny', 'river')"


@pytest.fixture
def directory(minilm, server_dir):
    return tiny_models.write_lookup(minilm, server_dir / "lookup", tiny_models.lookup_table(minilm))


@pytest.fixture
def admin(database, directory):
    """A superuser's connection, and the model 'tiny'. Roles of the tests go with it."""
    with database.connect() as conn:
        before = {row[0] for row in conn.execute("SELECT rolname FROM pg_roles")}
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
        yield conn
        conn.execute("SELECT insitu.drop_model(name) FROM insitu.models")
        for name, in conn.execute("SELECT rolname FROM pg_roles").fetchall():
            if name not in before:
                conn.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(name)))


def grants(conn):
    return sorted(row[0] for row in conn.execute("SELECT grantee::text FROM insitu.model_grants"))


def dump(database, *options, user=None):
    command = [f"{pg_config('--bindir')}/pg_dump", "-d", database.dsn(), *options]
    done = subprocess.run(command + (["-U", user] if user else []), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def restore(database, data, *options):
    """Restores a dump without an error; returns what was said."""
    done = subprocess.run([f"{pg_config('--bindir')}/pg_restore", "--exit-on-error", "-d", database.dsn(), *options],
                          input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


def create_role(conn, name, number):
    """A role that has a number which the server would give to another one."""
    conn.execute("SET allow_system_table_mods = on")
    conn.execute("INSERT INTO pg_authid SELECT %s, %s, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,"
                 " rolreplication, rolbypassrls, rolconnlimit, NULL, NULL FROM pg_authid WHERE rolname = 'model_for_others'",
                 [number, name])
    conn.execute("RESET allow_system_table_mods")


def test_a_grant_to_a_dropped_role_is_revoked_by_its_number(admin, directory):
    admin.execute("CREATE ROLE leaver; SELECT insitu.grant_model('tiny', 'leaver'); SELECT insitu.grant_model('tiny', 'public')")
    number, = admin.execute("SELECT 'leaver'::regrole::oid::text").fetchone()
    assert grants(admin) == ["-", "leaver"]
    admin.execute("DROP ROLE leaver")
    assert grants(admin) == ["-", number]
    refused(admin, "42704", "SELECT insitu.revoke_model('tiny', 'leaver')", match='role "leaver" does not exist')
    refused(admin, "42704", "SELECT insitu.revoke_model('tiny', '4294967295')", match='role "4294967295" does not exist')
    admin.execute("SELECT insitu.revoke_model('tiny', %s)", [number])
    assert grants(admin) == ["-"]


def test_a_role_that_is_called_like_a_number_is_that_role(admin):
    admin.execute("CREATE ROLE leaver; SELECT insitu.grant_model('tiny', 'leaver')")
    number, = admin.execute("SELECT 'leaver'::regrole::oid::text").fetchone()
    admin.execute(f'CREATE ROLE "{number}"; SELECT insitu.grant_model(\'tiny\', \'{number}\')')
    admin.execute("SELECT insitu.revoke_model('tiny', %s)", [number])
    assert grants(admin) == ["leaver"]


def test_grants_to_dropped_roles_go_with_the_next_change(admin, directory):
    admin.execute("SELECT insitu.load_model('other', %s)", [str(directory)])
    for change in ("SELECT insitu.grant_model('other', 'stayer')", "SELECT insitu.revoke_model('other', 'stayer')",
                   "SELECT insitu.drop_model('other')"):
        admin.execute("CREATE ROLE leaver; DROP ROLE IF EXISTS stayer; CREATE ROLE stayer")
        admin.execute("SELECT insitu.grant_model('tiny', 'leaver')")
        admin.execute("DROP ROLE leaver")
        admin.execute(change)
        assert not any(name.isdigit() for name in grants(admin))


def test_a_new_role_of_an_old_name_has_nothing(admin, database):
    admin.execute("CREATE ROLE leaver LOGIN; SELECT insitu.grant_model('tiny', 'leaver'); DROP ROLE leaver; CREATE ROLE leaver LOGIN")
    with database.connect(user="leaver") as leaver:
        refused(leaver, "42501", EMBED)


def test_what_an_owner_leaves_belongs_to_superusers(admin, database, directory):
    admin.execute("CREATE ROLE leaver LOGIN; CREATE ROLE heir LOGIN; GRANT EXECUTE ON FUNCTION insitu.drop_model(text) TO heir")
    admin.execute("SELECT insitu.load_model('left', %s); UPDATE insitu.model SET owner = 'leaver' WHERE name = 'left'"
                  .replace("%s", f"'{directory}'"))
    assert admin.execute("SELECT owner::text FROM insitu.models WHERE name = 'left'").fetchone() == ("leaver",)
    # What a role has is not reassigned, as it is no object of the server's.
    admin.execute("REASSIGN OWNED BY leaver TO heir; DROP OWNED BY leaver; DROP ROLE leaver")
    with database.connect(user="heir") as heir:
        refused(heir, "42501", "SELECT insitu.embed('left', 'river')")
        refused(heir, "42501", "SELECT insitu.drop_model('left')")
        refused(heir, "42501", "SELECT insitu.grant_model('left', 'heir')")
        admin.execute("UPDATE insitu.model SET owner = 'heir' WHERE name = 'left'")
        heir.execute("SELECT insitu.embed('left', 'river'), insitu.drop_model('left')")
    admin.execute("REVOKE EXECUTE ON FUNCTION insitu.drop_model(text) FROM heir")


@pytest.mark.parametrize("name", ["leaver", "Mixed Case", 'quo"ted"', "-", "(16384)", "16384", '"', "ünïcode", "select"])
def test_a_role_is_written_so_that_it_is_read_again(admin, name):
    quoted = '"' + name.replace('"', '""') + '"'
    admin.execute(f"CREATE ROLE {quoted}")
    text, = admin.execute("SELECT %s::regrole::oid::bigint::insitu.role::text", [quoted]).fetchone()
    assert admin.execute("SELECT %s::insitu.role::regrole = %s::regrole", [text, quoted]).fetchone() == (True,)
    assert text not in ("-", "(16384)", "16384") and not text.isdigit() or text == name == "16384"


def test_numbers_are_never_roles(admin):
    admin.execute("CREATE ROLE stayer")
    number, = admin.execute("SELECT 'stayer'::regrole::oid::text").fetchone()
    notices = []
    admin.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary)))
    assert admin.execute("SELECT %s::insitu.role::regrole", [number]).fetchone() == (None,)
    assert notices == [("WARNING", f'role "{number}" does not exist')]
    # As a role is written that is gone.
    assert admin.execute("SELECT %s::insitu.role::regrole", [f"({number})"]).fetchone() == (None,)
    assert admin.execute("SELECT 4294967295::insitu.role::text").fetchone() == ("(4294967295)",)
    assert len(notices) == 1


def test_a_restore_gives_nothing_to_the_next_role_with_the_number(new_cluster, directory):
    original = install(new_cluster())
    with original.connect() as conn:
        conn.execute("CREATE ROLE owner; CREATE ROLE reader")
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
        conn.execute("UPDATE insitu.model SET owner = 'owner'; SELECT insitu.grant_model('tiny', 'reader')")
        numbers = [row[0] for row in conn.execute("SELECT 'owner'::regrole::oid UNION ALL SELECT 'reader'::regrole::oid")]
        conn.execute("DROP ROLE owner, reader")
        by_hand = conn.execute("SELECT owner::text, (SELECT grantee::text FROM insitu.model_grant) FROM insitu.model").fetchone()
        assert by_hand == tuple(f"({number})" for number in numbers)
    copy = Database(new_cluster())
    with copy.cluster.connect() as conn:
        conn.execute("CREATE ROLE model_for_others LOGIN")
        for number in numbers:
            # The server may have given the number to the role above.
            if conn.execute("SELECT FROM pg_roles WHERE oid = %s", [number]).fetchone() is None:
                create_role(conn, f"intruder_{number}", number)
    restore(copy, dump(original, "--format=custom"))
    with copy.connect() as conn:
        assert conn.execute("SELECT owner FROM insitu.models").fetchone() == (None,)
        assert grants(conn) == []
        conn.execute("SELECT insitu.embed('tiny', 'river')")
        for number in numbers:
            name, = conn.execute("SELECT rolname FROM pg_roles WHERE oid = %s", [number]).fetchone()
            conn.execute(f"SET ROLE {name}")
            refused(conn, "42501", EMBED)
            conn.execute("RESET ROLE")


def test_a_restore_does_without_roles_that_are_not_there(new_cluster, directory):
    """Where every role but one is missing, everything else is restored, and a WARNING tells of each."""
    original = install(new_cluster())
    roles = ["owner", "Reader One", "reader_2", "stayer"]
    with original.connect() as conn:
        for name in ("tiny", "own"):
            conn.execute("SELECT insitu.load_model(%s, %s)", [name, str(directory)])
        for role in roles:
            conn.execute(f'CREATE ROLE "{role}"; SELECT insitu.grant_model(\'tiny\', \'{role}\')')
        conn.execute("SELECT insitu.grant_model('own', 'public'); UPDATE insitu.model SET owner = 'owner' WHERE name = 'own'")
    copy = Database(new_cluster())
    with copy.cluster.connect() as conn:
        conn.execute("CREATE ROLE stayer LOGIN")
    said = restore(copy, dump(original, "--format=custom"), "--verbose")
    for role in roles[:3]:
        assert f'role "{role}" does not exist' in said
    assert '"stayer"' not in said
    with copy.connect() as conn:
        rows = conn.execute("SELECT model, grantee::text FROM insitu.model_grants ORDER BY 1").fetchall()
        assert rows == [("own", "-"), ("tiny", "stayer")]
        assert conn.execute("SELECT name, owner::text FROM insitu.models ORDER BY 1").fetchall() == [("own", None), ("tiny", "postgres")]
        # A role that comes later is another one.
        conn.execute("CREATE ROLE reader_2; SET ROLE reader_2")
        refused(conn, "42501", EMBED)
        conn.execute("RESET ROLE; SELECT insitu.grant_model('tiny', 'reader_2')")
        # What stood for roles that are missing is gone by now.
        assert conn.execute("SELECT count(*) FROM insitu.model_grant").fetchone() == (3,)
    with copy.connect(user="stayer") as stayer:
        stayer.execute(EMBED)


TAKE_AWAY = {
    "revoke": "SELECT insitu.revoke_model('tiny', 'reader')",
    "delete": "DELETE FROM insitu.model_grant",
    "update": "UPDATE insitu.model_grant SET grantee = 'other'",
    "truncate": "TRUNCATE insitu.model_grant",
    "truncate of models": "TRUNCATE insitu.model",
    "drop": "SELECT insitu.drop_model('tiny')",
    "delete of the model": "DELETE FROM insitu.model",
    "rename": "UPDATE insitu.model SET name = 'renamed'",
}


@pytest.mark.parametrize("how", TAKE_AWAY)
@pytest.mark.parametrize("role", ["origin", "local", "replica"])
def test_a_warm_session_sees_what_is_taken_away_under_every_role_of_replication(admin, database, how, role):
    admin.execute("CREATE ROLE reader LOGIN; CREATE ROLE other; SELECT insitu.grant_model('tiny', 'reader')")
    with database.connect(user="reader") as reader, database.connect() as replica:
        reader.execute(EMBED)
        replica.execute(f"SET session_replication_role = {role}")
        replica.execute(TAKE_AWAY[how])
        error = refused(reader, "42704" if how.startswith(("drop", "rename", "truncate of", "delete of")) else "42501", EMBED)
        assert "tiny" in str(error)
        if how == "rename":
            reader.execute("SELECT insitu.embed('renamed', 'river')")
    # What triggers would have removed is not left behind by the models' own functions.
    if how == "drop":
        assert admin.execute("SELECT (SELECT count(*) FROM insitu.model_grant), (SELECT count(*) FROM insitu.model_part)"
                             ).fetchone() == (0, 0)
    admin.execute("TRUNCATE insitu.model_grant")


def test_a_name_does_not_inherit_grants(admin, database, directory):
    """Grants can be left behind by a model that was removed by hand."""
    admin.execute("CREATE ROLE reader LOGIN; SELECT insitu.grant_model('tiny', 'reader')")
    admin.execute("DELETE FROM insitu.model")
    assert admin.execute("SELECT count(*) FROM insitu.model_grant").fetchone() == (1,)
    admin.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
    with database.connect(user="reader") as reader:
        refused(reader, "42501", EMBED)


def test_a_revoke_after_a_restore_that_had_disabled_triggers(admin, database):
    """ENABLE TRIGGER, which ends such a restore, forgets that a trigger is always on."""
    admin.execute("CREATE ROLE reader LOGIN; SELECT insitu.grant_model('tiny', 'reader')")
    for change in ("DISABLE", "ENABLE"):
        admin.execute(f"ALTER TABLE insitu.model {change} TRIGGER ALL; ALTER TABLE insitu.model_grant {change} TRIGGER ALL")
    try:
        with database.connect(user="reader") as reader:
            reader.execute(EMBED)
            admin.execute("SET session_replication_role = replica; SELECT insitu.revoke_model('tiny', 'reader')")
            refused(reader, "42501", EMBED)
    finally:
        admin.execute("RESET session_replication_role")
        for table in ("model", "model_grant"):
            for trigger in ("model_changed", "models_gone"):
                admin.execute(f"ALTER TABLE insitu.{table} ENABLE ALWAYS TRIGGER {trigger}")


def test_a_subscription_brings_models_and_takes_rights_away(new_cluster, directory):
    publisher = install(new_cluster({"wal_level": "logical"}))
    subscriber = Database(publisher.cluster, "subscriber")
    with publisher.connect() as conn:
        conn.execute("CREATE DATABASE subscriber")
        conn.execute("CREATE ROLE reader LOGIN")
        conn.execute("SELECT insitu.load_model('tiny', %s)", [str(directory)])
        conn.execute("SELECT insitu.grant_model('tiny', 'reader')")
        conn.execute("CREATE PUBLICATION models FOR TABLE insitu.model_part, insitu.model, insitu.model_grant")
        conn.execute("SELECT pg_create_logical_replication_slot('models', 'pgoutput')")
        with subscriber.cluster.connect(dbname="subscriber") as there:
            there.execute("CREATE EXTENSION insitu")
            there.execute(f"CREATE SUBSCRIPTION models CONNECTION '{publisher.dsn()}' PUBLICATION models"
                          " WITH (create_slot = false, slot_name = 'models')")
            wait_for(lambda: there.execute("SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel"
                                           ).fetchone() == (True,), "first copy of the tables")
            with subscriber.connect(user="reader") as reader:
                reader.execute(EMBED)
                conn.execute("SELECT insitu.revoke_model('tiny', 'reader')")
                wait_for(lambda: there.execute("SELECT count(*) FROM insitu.model_grant").fetchone() == (0,), "revoke")
                refused(reader, "42501", EMBED)
                conn.execute("SELECT insitu.grant_model('tiny', 'reader')")
                wait_for(lambda: there.execute("SELECT count(*) FROM insitu.model_grant").fetchone() == (1,), "grant")
                reader.execute(EMBED)
                conn.execute("SELECT insitu.drop_model('tiny')")
                wait_for(lambda: there.execute("SELECT count(*) FROM insitu.model").fetchone() == (0,), "drop")
                refused(reader, "42704", EMBED)
            there.execute("DROP SUBSCRIPTION models")
