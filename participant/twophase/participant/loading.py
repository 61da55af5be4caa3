"""Finding the participant that `module:attribute` names.

Lives here: the import, and what is told if it does not lead to a participant. Must not live here: options, servers.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from twophase.contract.text import shorten
from twophase.participant.errors import DeclarationError, NotReady
from twophase.participant.operations import Participant

_SHOWN: Final = 8
_OWN: Final = str(Path(__file__).parent)


def load(target: str) -> Participant:
    """The participant that `target`, `module:attribute`, names; the current directory is on the import path.

    Raises `NotReady` with what was found instead. What else the module raises while it is imported passes through.
    """
    name, colon, attribute = target.partition(":")
    if not name or not attribute:
        message = f"'{shorten(target)}' is not MODULE:ATTRIBUTE"
        if name and not colon:
            found = _participants(_import(name))
            raise NotReady(f"{message}; {_there(name, found)}", *_commands(name, found))
        raise NotReady(message, "twophase participant shop:payment  # `payment` in shop.py")
    module = _import(name)
    value: object = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            found = _participants(module)
            raise NotReady(
                f"module '{name}' has no '{shorten(attribute)}'; {_there(name, found)}", *_commands(name, found)
            )
        value = getattr(value, part)
    if not isinstance(value, Participant):
        found = _participants(module)
        raise NotReady(
            f"'{target}' is a {type(value).__qualname__}, not a Participant; {_there(name, found)}",
            *_commands(name, found),
        )
    return value


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise NotReady(
                f"module '{name}' needs '{error.name}', which is not installed", f"pip install {error.name}"
            ) from error
        modules = sorted(path.stem for path in Path(here).glob("*.py"))[:_SHOWN]
        offered = f"there are {', '.join(modules)}" if modules else "there are no modules"
        raise NotReady(f"there is no module '{shorten(error.name)}'; in {here} {offered}") from error
    except DeclarationError as error:
        raise NotReady(f"{_where(error)}: {error}") from error
    except (TypeError, ValueError) as error:
        if name.startswith(".") or ".." in name:
            raise NotReady(f"'{shorten(name)}' is no name of a module", "the module's full name, with dots") from error
        raise


def _participants(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Participant)]


def _there(module: str, found: list[str]) -> str:
    if not found:
        return f"there is no Participant in '{module}'"
    return f"in '{module}' there {'is' if len(found) == 1 else 'are'} {', '.join(found)}"


def _commands(module: str, found: list[str]) -> list[str]:
    return [f"twophase participant {module}:{name}" for name in found[:_SHOWN]]


def _where(error: DeclarationError) -> str:
    """The line of the service that the declaration stands in."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OWN)]
    frame = frames[-1]
    return f"{frame.filename}:{frame.lineno}"
