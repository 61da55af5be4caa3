"""The ledger's tables: how they are made, brought up to date, and granted.

Lives here: the DDL, its version, and the two ways to run it (`migration_sql` for psql, `migrate`). Must not live here:
what reads and writes the tables (`ledger`), what checks them at start (`preflight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import sql

from twophase.contract.names import check_participant_name
from twophase.participant.database import check_dsn, without_password
from twophase.participant.errors import NotReady

VERSION: Final = 2

# What the runtime role needs; `preflight` checks the same list. The ledger's rows are never changed, only pruned.
GRANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "meta": ("SELECT",),
    "ledger": ("SELECT", "INSERT", "DELETE"),
    "journal": ("SELECT", "INSERT", "UPDATE"),
    "horizon": ("SELECT", "INSERT", "UPDATE"),
}

ROUTINES: Final = (
    "twophase.applied(text, text, bytea[], bytea, bigint, text, bigint)",
    "twophase.clean(boolean)",
)

# Any number will do, as long as it never changes: two migrations at once wait for each other on it.
_LOCK: Final = 7_305_418_220_119

_GUARD: Final = """\
-- One migration at a time, and never over the ledger of somebody else or of a newer release.
SELECT pg_advisory_xact_lock({lock});
DO $guard$
DECLARE
  found record;
BEGIN
  IF to_regclass('twophase.meta') IS NOT NULL THEN
    SELECT participant, schema_version INTO found FROM twophase.meta;
    IF found.participant <> {participant} THEN
      RAISE EXCEPTION 'this database holds the ledger of the participant %, not of %', found.participant, {participant}
        USING HINT = 'a participant is its database: connect to its own, or use the other name';
    ELSIF found.schema_version > {version} THEN
      RAISE EXCEPTION 'the ledger has version %, this release knows %', found.schema_version, {version}
        USING HINT = 'use a newer release of twophase';
    END IF;
  END IF;
END
$guard$;
"""

# Every step can be repeated without harm, and without waiting for a branch: what is prepared holds its lock on the
# ledger over restarts. Append new ones; never change one that was released.
_STEPS: Final[tuple[str, ...]] = (
    """\
-- Version 1
CREATE SCHEMA IF NOT EXISTS twophase;

CREATE TABLE IF NOT EXISTS twophase.meta (
  one            boolean PRIMARY KEY DEFAULT true CHECK (one),
  participant    text NOT NULL,
  schema_version integer NOT NULL
);
COMMENT ON TABLE twophase.meta IS 'Whose ledger this is; one row.';

-- "C" orders the fixed-width names as the numbers in them, so that one transaction or epoch is one range of the key.
CREATE TABLE IF NOT EXISTS twophase.ledger (
  gid              text COLLATE "C" NOT NULL,
  kind             text NOT NULL CHECK (kind IN ('work', 'compensation')),
  outcome          text NOT NULL CHECK (outcome IN ('applied', 'refused', 'tombstone')),
  decision         text CHECK (decision IN ('commit', 'abort', 'delegated')),
  results          bytea[] NOT NULL DEFAULT '{}',
  refusal          bytea,
  fingerprint      bytea NOT NULL DEFAULT '',
  journal_position bigint NOT NULL,
  recorded_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (gid, kind),
  CHECK ((outcome = 'refused') = (refusal IS NOT NULL)),
  CHECK ((outcome = 'tombstone') = (decision IS NOT NULL))
);
COMMENT ON TABLE twophase.ledger IS
  'One row for each branch and deed that was applied, refused for good, or barred. Pruned below the horizon.';

-- The highest position of one journal, at every handshake.
-- Not CREATE INDEX IF NOT EXISTS: that locks the table before it looks, and would wait for every prepared branch,
-- among them those that only the participant which migrates at its start can finish.
DO $index$
BEGIN
  IF to_regclass('twophase.ledger_position') IS NULL THEN
    CREATE INDEX ledger_position ON twophase.ledger (substr(gid, 4, 16), journal_position);
  END IF;
END
$index$;

CREATE TABLE IF NOT EXISTS twophase.journal (
  journal         text COLLATE "C" PRIMARY KEY,
  epoch           bigint NOT NULL,
  nonce           text NOT NULL,
  pruned_position bigint NOT NULL DEFAULT 0,
  seen_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE twophase.journal IS
  'The highest epoch seen of each journal, and the highest position of its rows that are pruned.';

CREATE TABLE IF NOT EXISTS twophase.horizon (
  epoch    text COLLATE "C" PRIMARY KEY,
  sequence bigint NOT NULL
);
COMMENT ON TABLE twophase.horizon IS
  'Where the memory of each epoch, <journal>-<epoch>-<nonce>, begins; every branch below is refused.';
""",
    """\
-- Version 2: what every branch does, with plans that a session keeps. Names and operators are qualified, so that the
-- search_path of business code changes nothing.
CREATE OR REPLACE PROCEDURE twophase.applied(
  branch text, deed text, answered bytea[], print bytea, at_position bigint, of_epoch text, at_sequence bigint)
LANGUAGE plpgsql AS $applied$
DECLARE
  bottom bigint;
BEGIN
  SELECT sequence INTO bottom FROM twophase.horizon WHERE epoch OPERATOR(pg_catalog.=) of_epoch;
  INSERT INTO twophase.ledger (gid, kind, outcome, results, fingerprint, journal_position)
  VALUES (
    CASE WHEN pg_catalog.current_setting('twophase.branch', true)
              OPERATOR(pg_catalog.=) (branch OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) current_user)
         THEN branch END,
    deed,
    CASE WHEN bottom IS NULL OR bottom OPERATOR(pg_catalog.<=) at_sequence THEN 'applied' END,
    answered, print, at_position);
  -- What carries a row is never committed more weakly than this (the manual, 20.5.1).
  IF pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.<>) ALL ('{on,remote_apply}') THEN
    PERFORM pg_catalog.set_config('synchronous_commit', 'on', true);
  END IF;
END
$applied$;
COMMENT ON PROCEDURE twophase.applied IS 'Writes the row of a branch inside its own transaction, and nowhere else.';

CREATE OR REPLACE PROCEDURE twophase.clean(INOUT left_behind boolean)
LANGUAGE plpgsql AS $clean$
BEGIN
  SET SESSION AUTHORIZATION DEFAULT;
  RESET ALL;
  DISCARD SEQUENCES;
  PERFORM pg_catalog.pg_advisory_unlock_all();
  left_behind := EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql);
END
$clean$;
COMMENT ON PROCEDURE twophase.clean IS
  'Rids a session of what outlives its transactions; true if statements named with PREPARE are left.';
""",
)

_END: Final = """\
INSERT INTO twophase.meta (participant, schema_version) VALUES ({participant}, {version})
  ON CONFLICT (one) DO UPDATE SET schema_version = excluded.schema_version;
"""

_GRANT: Final = """\
-- What the service's own role needs, and no more.
GRANT USAGE ON SCHEMA twophase TO {role};
"""


def migration_sql(*, participant: str, role: str | None = None) -> str:
    """The SQL that makes the ledger, or brings it up to date: for psql, run by the owner of the database.

    May be run any number of times. `role` gets the rights that the service needs at run time (no DDL among them); None
    if the service connects as the role that runs this. Raises `InvalidName`.
    """
    check_participant_name(participant)
    words = {"lock": str(_LOCK), "participant": f"'{participant}'", "version": str(VERSION)}
    # READ COMMITTED: who waited for another migration must see what it did.
    parts = [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;",
        _GUARD.format_map(words),
        *_STEPS,
        _END.format_map(words),
    ]
    if role is not None:
        quoted = sql.Identifier(role).as_string(None)
        parts.append(_GRANT.format(role=quoted))
        parts.extend(f"GRANT {', '.join(rights)} ON twophase.{table} TO {quoted};" for table, rights in GRANTS.items())
        parts.extend(f"GRANT EXECUTE ON PROCEDURE {routine} TO {quoted};" for routine in ROUTINES)
    return "\n".join([*parts, "COMMIT;\n"])


def migrate(dsn: str, participant: str, *, role: str | None = None) -> None:
    """Runs `migration_sql` in the database. Raises `NotReady`, with what Postgres said, and `InvalidName`."""
    text = migration_sql(participant=participant, role=role)
    check_dsn(dsn)
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(text.encode(), prepare=False)
    except psycopg.Error as error:
        said = error.diag.message_primary or next(iter(str(error).strip().splitlines()), "no reason given")
        hints = [error.diag.message_hint] if error.diag.message_hint else []
        raise NotReady(f"the ledger was not made: {without_password(said, dsn=dsn)}", *hints) from None
