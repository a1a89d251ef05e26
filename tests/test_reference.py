"""What is made by scripts in docs/ is what they make: the reference, with every public name, and the tree of tasks."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from xml.etree import ElementTree

import attrs
import pytest

import make_reference
import make_task_tree
from public_names import MODULES, Name, attributes, members, methods, module, public

NAMES = [name for exporter in MODULES for name in module(exporter).exports]
CLASSES = [name for name in NAMES if isinstance(public(name).node, ast.ClassDef)]


def test_the_page_is_up_to_date() -> None:
    """The page in the repository is what the script makes now: run ``python docs/make_reference.py``."""
    assert make_reference.PAGE.read_text(encoding="utf-8") == make_reference.Reference().text()


def test_the_picture_is_up_to_date() -> None:
    """The picture in the repository is what its script draws, and is well-formed: ``python docs/make_task_tree.py``."""
    picture = make_task_tree.PICTURE.read_text(encoding="utf-8")
    assert picture == make_task_tree.text()
    assert ElementTree.fromstring(picture).tag.endswith("svg")


@pytest.mark.parametrize("exporter", MODULES)
def test_what_the_source_exports_is_what_is_imported(exporter: str) -> None:
    """Reading the source finds the public names that Python finds, and no others."""
    found = {name for name in vars(importlib.import_module(exporter)) if not name.startswith("_")}
    found = {name for name in found if not inspect.ismodule(getattr(importlib.import_module(exporter), name))}
    assert set(module(exporter).exports) == found


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_source_has_is_what_the_class_has(name: str) -> None:
    """Reading the source finds the public methods, properties and fields that a class of ours really has."""
    exporter = next(one for one in MODULES if name in module(one).exports)
    cls = getattr(importlib.import_module(exporter), name)
    ours = [base for base in cls.__mro__ if base.__module__.startswith("trio_rooms")]
    real = {member for base in ours for member in vars(base) if not member.startswith("_")}
    real |= {field.name for field in attrs.fields(cls) if not field.name.startswith("_")} if attrs.has(cls) else set()
    assert real <= members(public(name))


def test_everything_is_in_the_page() -> None:
    """Each name is a heading, each method too, and each attribute is listed."""
    page = make_reference.PAGE.read_text(encoding="utf-8")
    for name in map(public, NAMES):
        assert f"\n### {name.name}\n" in page
        for method, _ in methods(name) if isinstance(name.node, ast.ClassDef) else ():
            assert f"\n#### {name.name}.{method.name}\n" in page


def undocumented(name: Name) -> list[str]:
    """The attributes without a text; those of errors and frames are explained by the class."""
    said = " ".join(name.doc.split())
    return [one.name for one in attributes(name) if not one.doc and not re.search(rf"\b{one.name}\b", said)]


@pytest.mark.parametrize("name", CLASSES)
def test_each_attribute_is_explained(name: str) -> None:
    """An attribute has a docstring, or the docstring of its class speaks of it; members of an enumeration need none."""
    found = public(name)
    assert make_reference.is_enumeration(found) or not undocumented(found)


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("As :meth:`serve`, see :exc:`NotServing`.", "As [`serve`](#managerserve), see [`NotServing`](#notserving)."),
        ("``a * b`` is 2 * 3, `nobody` knows.", "`a * b` is 2 \\* 3, `nobody` knows."),
        ("Two::\n\n    x\n      y\n\nThree.", "Two:\n\n```\nx\n  y\n```\n\nThree."),
        ("Args:\n  one, two: Of\n    them.\n  three: It.", "Arguments:\n\n- `one`, `two`: Of them.\n- `three`: It."),
        ("Raises:\n  Closed: never.", "Raises:\n\n- [`Closed`](#closed): never."),
    ],
)
def test_docstrings_become_markdown(docstring: str, shown: str) -> None:
    """Roles become links, literals code, literal blocks fences, and sections lists."""
    assert make_reference.Reference()._prose(docstring, public("Manager")) == shown
