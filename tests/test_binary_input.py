"""Hostile bytes through the binary protocol: each is refused with an error, and the session goes on."""

import random
import struct

import psycopg
import pytest

ONE = struct.pack(">f", 1.0)

REFUSED = {
    "no bytes": (b"", "08P01"),
    "half a header": (b"\0\1", "08P01"),
    "no dimensions": (struct.pack(">HH", 0, 0), "22000"),
    "negative dimensions": (struct.pack(">hH", -1, 0) + ONE, "22000"),
    "one dimension too many": (struct.pack(">HH", 16001, 0) + 16001 * ONE, "54000"),
    "reserved field in use": (struct.pack(">HH", 1, 1) + ONE, "22000"),
    "fewer values than announced": (struct.pack(">HH", 3, 0) + 2 * ONE, "08P01"),
    "most dimensions, one value": (struct.pack(">HH", 16000, 0) + ONE, "08P01"),
    "half a value": (struct.pack(">HH", 2, 0) + ONE + b"\0\0", "08P01"),
    "more values than announced": (struct.pack(">HH", 1, 0) + 2 * ONE, "22P03"),
    "not a number": (struct.pack(">HHf", 1, 0, float("nan")), "22000"),
    "infinity": (struct.pack(">HHf", 1, 0, float("inf")), "22000"),
    "minus infinity": (struct.pack(">HHf", 1, 0, float("-inf")), "22000"),
}


def copy_in(conn, data):
    """Sends bytes as the one field of the one row of a binary COPY."""
    header = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    with conn.cursor().copy("COPY received FROM STDIN (FORMAT binary)") as copy:
        copy.write(header + struct.pack(">hi", 1, len(data)) + data + struct.pack(">h", -1))


@pytest.fixture
def receiver(conn):
    conn.execute("CREATE TEMP TABLE received (emb vector)")
    return conn


@pytest.mark.parametrize("case", REFUSED)
def test_refused(receiver, case):
    data, sqlstate = REFUSED[case]
    with pytest.raises(psycopg.Error) as error:
        copy_in(receiver, data)
    assert error.value.sqlstate == sqlstate
    assert receiver.execute("SELECT count(*) FROM received").fetchone() == (0,)


def test_type_modifier_is_checked(receiver):
    receiver.execute("ALTER TABLE received ALTER emb TYPE vector(2)")
    with pytest.raises(psycopg.Error, match="expected 2 dimensions, not 1"):
        copy_in(receiver, struct.pack(">HH", 1, 0) + ONE)


def test_random_bytes_are_a_vector_or_an_error(receiver):
    rng = random.Random(3)
    accepted = 0
    for _ in range(400):
        dims = rng.choice([0, 1, 2, 3, 16000, 16001, 65535])
        data = struct.pack(">HH", dims, rng.choice([0, 0, 0, 1])) + rng.randbytes(4 * rng.randrange(4))
        try:
            copy_in(receiver, data)
            accepted += 1
        except psycopg.Error as error:
            assert error.sqlstate in ("08P01", "22000", "22P03", "54000")
    assert receiver.execute("SELECT count(*) FROM received").fetchone() == (accepted,)
    receiver.execute("SELECT emb::text::vector = emb FROM received")


def test_the_widest_vector_goes_both_ways(receiver):
    data = struct.pack(">HH", 16000, 0) + b"".join(struct.pack(">f", i / 7) for i in range(16000))
    copy_in(receiver, data)
    with receiver.cursor().copy("COPY received TO STDOUT (FORMAT binary)") as copy:
        assert data in b"".join(copy)
