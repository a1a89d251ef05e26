"""What can be removed from the library: derived from the code, so that nothing new is forgotten.

Names are ``Limits.max_headers`` for a field, ``Manager.serve(host)`` for an optional parameter,
``Registrar.on_connect`` for something that programs register, and ``trio-rooms --port`` for an option of the command.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import FunctionType
from typing import TypeGuard

import attrs

import trio_rooms
from trio_rooms import Config, Limits, Manager, PresenceOptions, RoomOptions
from trio_rooms.cli import make_parser
from trio_rooms.client import ClientConfig

SETTINGS = (Config, Limits, RoomOptions, PresenceOptions, ClientConfig)

#: The class whose public methods register what the program brings: hooks, handlers, middleware and the like.
REGISTRAR = next(base for base in Manager.__mro__ if base.__name__ == "Registrar")


def removable() -> list[str]:
    """The names of all that can be removed, each once."""
    return [*fields(), *parameters(), *registrations(), *arguments()]


def fields() -> Iterator[str]:
    """Each setting and each limit."""
    for cls in SETTINGS:
        for field in attrs.fields(cls):
            yield f"{cls.__name__}.{field.name}"


def registrations() -> Iterator[str]:
    """Each hook, and whatever else is registered."""
    for name, value in vars(REGISTRAR).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield f"{REGISTRAR.__name__}.{name}"


def parameters() -> Iterator[str]:
    """Each parameter of a public function that has a default. Fields of values are what they are, and no options."""
    for owner, function in functions().items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty:
                yield f"{owner}({parameter.name})"


def arguments() -> Iterator[str]:
    """Each option of the command but ``--help``, which is argparse's."""
    yield from (f"trio-rooms {name}" for name in actions())


def actions() -> dict[str, argparse.Action]:
    """The options of the command and of its subcommands, by their longest name."""
    parsers, found = [make_parser()], {}
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
            elif action.option_strings and action.dest != "help":
                found[action.option_strings[-1]] = action
    return found


def functions() -> dict[str, FunctionType]:
    """The public functions, methods and constructors that are written out in the package, by their full name there."""
    found = {}
    for module in public_modules():
        for name, value in vars(importlib.import_module(module)).items():
            if not name.startswith("_"):
                for function in members(value) if inspect.isclass(value) else [value]:
                    if is_ours(function):
                        found[function.__qualname__] = function
    return found


def public_modules() -> list[str]:
    """The package and its public folders, without the demo, which is a program."""
    folders = [info.name for info in pkgutil.iter_modules(trio_rooms.__path__) if info.ispkg]
    public = [name for name in folders if not name.startswith("_") and name != "demo"]
    return ["trio_rooms", *(f"trio_rooms.{name}" for name in public)]


def members(cls: type) -> Iterator[object]:
    """The public methods of a class and its constructor, inherited ones, too."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if name == "__init__" or not name.startswith("_"):
                yield getattr(value, "__func__", value)


def is_ours(value: object) -> TypeGuard[FunctionType]:
    """Whether this is a function that stands in the package's source; attrs makes others."""
    return inspect.isfunction(value) and inspect.unwrap(value).__code__.co_filename.startswith(trio_rooms.__path__[0])
