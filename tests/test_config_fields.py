"""Every field of every config says what it is: users meet them in recipes, in `--help` and in editors."""

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields

import pytest

from rxt_jax.recipe import Recipe, _config_classes

CONFIGS = sorted(set(_config_classes(Recipe, set())), key=lambda cls: cls.__qualname__)


def documented(cls):
    """Name the fields of a class and of its bases that have a docstring below them."""
    found = set()
    for base in cls.__mro__:
        if base.__module__ not in ("builtins", "abc"):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for field, below in zip(body.body, body.body[1:], strict=False):
                text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and text:
                    found.add(field.target.id)
    return found


@pytest.mark.parametrize("cls", [cls for cls in CONFIGS if cls.__module__.startswith("rxt_jax.")])
def test_every_field_of_a_config_is_described(cls):
    assert {field.name for field in fields(cls)} <= documented(cls)


@dataclass
class Half:
    described: int = 1
    """A number."""
    silent: int = 2


def test_a_field_without_a_line_is_found():
    assert documented(Half) == {"described"}
