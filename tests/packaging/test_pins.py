"""What is installed is what was pinned: ranges for users, exact versions for developers, and no traces of a machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parents[2]
PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PUBLIC: Final = {"pypi.org", "files.pythonhosted.org"}


def requirements() -> Iterator[Requirement]:
    project = PYPROJECT["project"]
    lines = [*PYPROJECT["build-system"]["requires"], *project["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return (required for line in lines if (required := Requirement(line)).name != "twophase")


def pins(path: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        pinned = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line)
        assert pinned is not None, f"{path}: {line!r} is not of the form name==version"
        found[canonicalize_name(pinned[1])] = Version(pinned[2])
    return found


def tracked_files() -> Iterator[Path]:
    """Every file of the project. Walks instead of asking git, which need not be here."""
    ignored = {"__pycache__", "dist"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0].startswith(".") and parts[0] not in {".ci", ".dockerignore", ".gitignore"}
        if path.is_file() and not hidden and not ignored & set(parts) and path.suffix != ".pyc":
            yield path


@pytest.mark.parametrize("required", list(requirements()), ids=str)
def test_every_dependency_is_pinned_within_its_range(required: Requirement) -> None:
    pinned = pins("constraints.txt").get(canonicalize_name(required.name))
    assert pinned is not None, f"{required.name} has no line in constraints.txt"
    assert required.specifier.contains(pinned), f"constraints.txt has {pinned}, pyproject.toml wants {required}"


def closure() -> set[str]:
    """Everything that the dependencies need, on this machine, the dependencies of dependencies included."""
    found: set[str] = set()
    todo = [(required.name, required.extras) for required in requirements()]
    while todo:
        name, extras = todo.pop()
        found.add(canonicalize_name(name))
        for line in metadata.requires(name) or []:
            further = Requirement(line)
            wanted = [{"extra": ""}, *({"extra": extra} for extra in extras)]
            applies = further.marker is None or any(further.marker.evaluate(dict(extra)) for extra in wanted)
            if applies and canonicalize_name(further.name) not in found:
                todo.append((further.name, further.extras))
    return found - {"twophase"}


def test_the_pins_are_complete_and_none_is_left_over() -> None:
    assert closure() == set(pins("constraints.txt"))


def test_what_is_installed_is_what_is_pinned() -> None:
    stale = {
        name: metadata.version(name)
        for name, pinned in pins("constraints.txt").items()
        if Version(metadata.version(name)) != pinned
    }
    assert not stale, f"the environment is not the pinned one; renew it with: make setup\n{stale}"


def test_the_generated_code_needs_nothing_newer_than_the_lowest_that_is_allowed() -> None:
    compiler = pins("tests/tools/protos-constraints.txt")
    lowest = {
        required.name: min(Version(part.version) for part in required.specifier if part.operator == ">=")
        for required in requirements()
        if required.name in {"grpcio", "protobuf"}
    }
    assert compiler["grpcio-tools"].release[:2] == lowest["grpcio"].release[:2]
    # Code of one protobuf runs on the next major version, and on no older version than its own.
    code = (ROOT / "protos/twophase/v1/types_pb2.py").read_text(encoding="utf-8")
    stamped = re.search(r"# Protobuf Python Version: (\S+)", code)
    assert stamped is not None
    assert Version(stamped[1]) <= lowest["protobuf"]


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    unexplained = sorted({required.name for required in requirements() if f"`{required.name}`" not in reasons})
    assert not unexplained, f"docs/dependencies.md does not say why: {', '.join(unexplained)}"


def index_hosts() -> set[str]:
    """The package index hosts that this machine was told to use."""
    ran = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    urls = re.findall(r"\w+://[^\s'\"]+", ran.stdout)
    npm = Path.home() / ".npmrc"
    if npm.exists():
        urls += re.findall(r"\w+://[^\s'\"]+", npm.read_text(encoding="utf-8"))
    return {host for url in urls if (host := urlsplit(url).hostname) and "." in host} - PUBLIC


def test_no_file_names_a_machine() -> None:
    # A temporary directory or the container's own paths are fine; somebody's home or checkout is not.
    machine = re.compile(rf"{re.escape(str(ROOT))}/|(?<![\w./])/(?:home|Users|root)/\w")
    hosts = index_hosts()
    options = re.compile(r"--(?:index-url|extra-index-url|find-links|trusted-host)")
    this = Path(__file__)
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        if path != this:
            assert not options.search(text), f"{path} chooses a package index; that is its user's to choose"
            assert not machine.search(text), f"{path} names a path of one machine: {machine.search(text)}"
        assert not [host for host in hosts if host in text], f"{path} names a package index host"


def test_the_editor_and_the_build_agree_on_where_the_code_is() -> None:
    build = PYPROJECT["tool"]["hatch"]["build"]
    packages = [Path(package) for package in build["targets"]["wheel"]["packages"]]
    assert [str(package.parent) for package in packages] == build["dev-mode-dirs"]
    assert all((ROOT / package).is_dir() for package in packages)
    namespace = [package / "__init__.py" for package in packages if (ROOT / package / "__init__.py").exists()]
    assert not namespace, f"twophase is a namespace shared by all of them; {namespace[0]} would hide the others"
