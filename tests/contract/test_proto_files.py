"""The .proto files: well formed, unbroken, and one with the code that was generated from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = Path("protos/twophase/v1")
BASELINE: Final = ROOT / "tests/contract/baseline.binpb"
BUF: Final = Path(sys.executable).parent / "buf"


def buf(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contract alone, to be damaged."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / PACKAGE).mkdir(parents=True)
    for source in (ROOT / PACKAGE).glob("*.proto"):
        shutil.copy(source, tmp_path / PACKAGE)
    return tmp_path


def replace(copy: Path, name: str, old: str, new: str) -> None:
    path = copy / PACKAGE / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}: name another place to damage"
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_contract_keeps_the_rules_of_buf() -> None:
    linted = buf("lint")
    assert linted.returncode == 0, linted.stdout


def test_the_contract_is_formatted() -> None:
    formatted = buf("format", "--diff", "--exit-code")
    assert formatted.returncode == 0, f"make protos formats it\n{formatted.stdout}"


def test_the_contract_breaks_nothing_that_was_released() -> None:
    # The baseline is a compiled image of the contract, so that this needs neither history nor a network. It is renewed
    # with a release (`make baseline`), never to make this test pass.
    broken = buf("breaking", "--against", str(BASELINE))
    assert broken.returncode == 0, broken.stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "rule"),
    [
        pytest.param(
            "coordinator.proto",
            "rpc Rollback(RollbackRequest) returns (RollbackResponse);",
            "rpc Rollback(GetRequest) returns (RollbackResponse);",
            "Rollback",
            id="a request shared by two calls",
        ),
        pytest.param(
            "participant.proto",
            "  // Work or compensation.\n",
            "",
            "should have a non-empty comment",
            id="a field without a comment",
        ),
        pytest.param(
            "types.proto",
            "  // The work itself.\n",
            "",
            "should have a non-empty comment",
            id="an enum's value without a comment",
        ),
    ],
)
def test_the_lint_is_awake(copy: Path, name: str, old: str, new: str, rule: str) -> None:
    replace(copy, name, old, new)
    linted = buf("lint", cwd=copy)
    assert linted.returncode != 0
    assert rule in linted.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("  uint64 sequence = 2;", "  uint64 sequence = 3;", id="another number"),
        pytest.param("  bool has_compensation = 4;", "  string has_compensation = 4;", id="another type"),
        pytest.param("  rpc Inspect(InspectRequest) returns (InspectResponse);", "", id="a call taken away"),
    ],
)
def test_the_breaking_check_is_awake(copy: Path, old: str, new: str) -> None:
    replace(copy, "participant.proto", old, new)
    broken = buf("breaking", "--against", str(BASELINE), cwd=copy)
    assert broken.returncode != 0
    assert "participant.proto" in broken.stdout


def test_the_generated_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    if not (ROOT / ".venv-protos/.ready").exists():
        pytest.skip("the compiler of the contract is not installed; make it with: make protos-tools")
    ran = subprocess.run(
        [sys.executable, "tests/tools/generate_protos.py", "--into", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    again = {path.name: path.read_bytes() for path in (tmp_path / "twophase/v1").iterdir()}
    here = {path.name: path.read_bytes() for path in (ROOT / PACKAGE).glob("*_pb2*.py*")}
    assert again.keys() == here.keys()
    stale = sorted(name for name in again if again[name] != here[name])
    assert not stale, f"not what the .proto files say any more; write them again with: make protos\n{stale}"
