"""The account that Postgres runs as, and the directories it can reach."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from twophase.sandbox.errors import PostgresMissing
from twophase.sandbox.users import Account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")


@as_root
def test_root_gets_an_unprivileged_account() -> None:
    account = Account.for_postgres()
    assert account.is_other
    assert account.uid != 0
    assert account.switch() == {"user": account.uid, "group": account.gid, "extra_groups": []}


def test_an_ordinary_user_stays_who_he_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    account = Account.for_postgres()
    assert (account.uid, account.is_other, account.switch()) == (1234, False, {})
    account.own(tmp_path)
    assert tmp_path.stat().st_uid == os.getuid()


def test_a_machine_without_unprivileged_users_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", nobody)
    with pytest.raises(PostgresMissing, match=r"no user named nobody or postgres or daemon\. Add one"):
        Account.for_postgres()


@as_root
def test_a_temporary_directory_that_the_account_cannot_enter_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    (closed / "tmp").mkdir(parents=True)
    closed.chmod(0o700)
    account = Account.for_postgres()
    assert not account.can_reach(closed / "tmp")
    assert not account.can_reach(tmp_path / "missing")
    monkeypatch.setattr(tempfile, "tempdir", str(closed / "tmp"))
    assert account.temporary_base() == Path("/tmp")  # noqa: S108
    monkeypatch.setattr(Account, "can_reach", lambda *_: False)
    with pytest.raises(PostgresMissing, match=r"cannot enter .*closed/tmp \(TMPDIR\) or /tmp. Set TMPDIR"):
        account.temporary_base()
