"""Generates the Python code of the contract and its typed stubs, from `protos/twophase/v1/*.proto`.

    python tests/tools/generate_protos.py            writes beside the .proto files; `make protos` does this
    python tests/tools/generate_protos.py --into DIR writes there instead, for a comparison

The compiler lives in an environment of its own, `.venv-protos`: it is the oldest one whose output runs on every gRPC
and protobuf the project allows, and its own requirements would hold those of the project back. Standard library only,
so that any Python runs it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROTOS: Final = ROOT / "protos"
TOOLS: Final = ROOT / ".venv-protos" / "bin"


class GenerationFailed(Exception):
    """The code could not be generated. The message says what to do."""


def generate(into: Path) -> list[Path]:
    """Writes the code of every .proto file below `into` and returns the files written. Raises `GenerationFailed`."""
    python = TOOLS / "python"
    if not python.exists():
        raise GenerationFailed(f"the compiler's environment {TOOLS.parent} is missing; make it with: make protos-tools")
    sources = sorted(path.relative_to(PROTOS) for path in (PROTOS / "twophase").rglob("*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = [f"--plugin={TOOLS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [str(python), "-m", "grpc_tools.protoc", "-I.", *outputs, *plugins, *map(str, sources)]
    ran = subprocess.run(command, cwd=PROTOS, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise GenerationFailed(f"protoc failed with exit code {ran.returncode}:\n{ran.stderr.strip()}")
    written: list[Path] = []
    for source in sources:
        stem = into / source.with_suffix("")
        code = [stem.with_name(f"{stem.name}_pb2{suffix}") for suffix in (".py", ".pyi")]
        grpc_code = [stem.with_name(f"{stem.name}_pb2_grpc{suffix}") for suffix in (".py", ".pyi")]
        if "\nservice " in (PROTOS / source).read_text(encoding="utf-8"):
            code += grpc_code
        else:  # protoc writes these for messages too, with nothing in them
            for path in grpc_code:
                path.unlink()
        written += code
    return written


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Generates the Python code of the contract.")
    parser.add_argument("--into", type=Path, default=PROTOS, help="where to write; beside the .proto files by default")
    options = parser.parse_args(arguments)
    into: Path = options.into.resolve()
    try:
        written = generate(into)
    except GenerationFailed as problem:
        sys.stderr.write(f"generate_protos: {problem}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
