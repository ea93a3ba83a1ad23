"""The parameters of a run: described before there are any, made or read where they are to live, handed from stage to
stage."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import nnx
from rich.console import Console

from rxt_jax.model.fresh_parameters import abstract_model, fresh_parameters
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.recipe import Recipe
from rxt_jax.run_folder import read_parameters
from rxt_jax.sharding import describe_indivisible, find_indivisible, parameter_shardings

__all__ = ["Beginning", "by_path", "describe_parameters", "first_parameters"]


class Beginning:
    """The parameters that a stage begins with. They are made when they are asked for and can be made again, so that
    nobody has to keep them beside the state of the stage."""

    def __init__(self, make: Callable[[], nnx.State], made: nnx.State | None = None):
        self._make, self._made = make, made

    def read(self) -> nnx.State:
        """Return them; they stay until they are given up."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def give_up(self) -> None:
        """Let go of them."""
        self._made = None


def describe_parameters(recipe: Recipe, mesh: jax.sharding.Mesh, console: Console) -> tuple[nnx.GraphDef, nnx.State]:
    """Describe the model: structure, and shapes and shardings of its parameters. List what the mesh cannot split."""
    graphdef, abstract = abstract_model(recipe.model)
    variables = flat_parameters(abstract)
    shardings = parameter_shardings(variables, mesh, recipe.mesh.replicate_indivisible)
    whole = find_indivisible(variables, mesh)
    if whole:
        console.print(f"whole on every device, as mesh.replicate_indivisible says:\n{describe_indivisible(whole)}")
    placed = {
        path: jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=shardings[path])
        for path, variable in variables.items()
    }
    return graphdef, with_parameters(abstract, placed)


def first_parameters(recipe: Recipe, params: nnx.State, console: Console) -> nnx.State:
    """Make the parameters that a run begins with, each where it is to live: those of `start_from` that fit, the others
    fresh; say which ones did not fit or were to start fresh."""
    wanted, found = by_path(params), {}
    if recipe.start_from is not None:
        to_start_fresh = {path for part in recipe.start_fresh for path in _within(part, wanted)}
        to_read = {path: leaf for path, leaf in wanted.items() if path not in to_start_fresh}
        found = read_parameters(recipe.start_from, to_read)
        console.print(f"begins with {len(found)} of {len(wanted)} parameter arrays of {recipe.start_from}")
    fresh = {path: leaf.sharding for path, leaf in wanted.items() if path not in found}
    if fresh and found:
        console.print(f"these start fresh: {', '.join(sorted(fresh))}")
    made = fresh_parameters(recipe.model, recipe.seed, fresh) if fresh else {}
    return with_parameters(params, found | made)


def _within(part: str, paths: Iterable[str]) -> list[str]:
    """List the paths that belong to a part of the model; a part that has none is refused."""
    found = [path for path in paths if path == part or path.startswith(f"{part}/")]
    if not found:
        parts = sorted({path.split("/")[0] for path in paths})
        raise ValueError(f"start_fresh: the model has no parameters in {part!r}; its parts are {', '.join(parts)}.")
    return found


def by_path(params: nnx.State) -> dict[str, Any]:
    """List the values of parameters by path."""
    return {path: variable.get_value() for path, variable in flat_parameters(params).items()}
