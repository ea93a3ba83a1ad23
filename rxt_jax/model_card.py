"""The model card of an exported model: what its run knows about itself, for people to add to."""

from collections.abc import Mapping
from typing import Any

from rxt_jax.evaluation.markdown import markdown_table
from rxt_jax.recipe import Recipe

__all__ = ["model_card"]


def model_card(recipe: Recipe, parameters: int, dtype: str, measured: Mapping[str, Any]) -> str:
    """Write the card as Markdown. `measured` is an evaluation's summary, split → results."""
    config = recipe.model
    lines = [
        f"# {recipe.name}",
        "",
        f"{parameters:,} parameters ({dtype}), width {config.embed_dim}, vocabulary {config.vocab_size}; made by "
        "`rxt export`. The recipe with every setting is in `recipe.json`.",
        "",
        "```python",
        "import rxt_jax",
        "",
        'run = rxt_jax.load("this folder")  # run.model, run.tokenizer, run.recipe',
        "```",
        "",
        "## Training",
        "",
        "| stage | updates | batch |",
        "|---|---|---|",
        *(f"| `{name}` | {run.updates} | {run.batch_size} |" for name, run in recipe.stages.items()),
    ]
    if measured:
        lines += ["", "## Recall of what was said, in per cent", "", markdown_table(measured)]
    return "\n".join(lines) + "\n"
