"""`make` on a machine that lacks something: one plain message, and nothing half made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def a_python(checkout: Path, script: str) -> str:
    path = checkout / "some-python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return f"PYTHON={path}"


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without the flags of the `make test` that may be running this.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(checkout)}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@needs_make
@pytest.mark.parametrize("target", ["demo", "test"])
def test_an_old_python_is_told_from_a_new_one(checkout: Path, target: str) -> None:
    ran = make(checkout, target, a_python(checkout, 'case "$1" in --version) echo Python 3.10.13;; *) exit 1;; esac'))
    assert ran.returncode != 0
    assert "needs Python 3.11 or newer" in ran.stderr
    assert "Python 3.10.13" in ran.stderr
    assert f"make {target} PYTHON=" in ran.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_a_python_that_is_not_there_is_named(checkout: Path) -> None:
    ran = make(checkout, "setup", "PYTHON=no-such-python")
    assert ran.returncode != 0
    assert "'no-such-python'" in ran.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_a_python_without_venv_is_told_what_to_install(checkout: Path) -> None:
    ran = make(checkout, "setup", a_python(checkout, 'case "$*" in *ensurepip*) exit 1;; *) exit 0;; esac'))
    assert ran.returncode != 0
    assert "apt install python3-venv" in ran.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_clean_needs_no_environment_and_leaves_the_sources(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    ran = make(checkout, "clean")
    assert ran.returncode == 0
    assert not (checkout / ".venv").exists()
    assert (checkout / "pyproject.toml").exists()
