# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     gpuType: V5E1
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own conversations
#
# Upload a file with one conversation per line, check it, go on training the model that comes with the package, and talk to the result. Chat messages
# (`role`, `content`) work as well, and so do data sets of the Hub (`hub:NAME`); docs/data.md has all formats.

# %%
# First, before anything imports jax.
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "colab").is_dir()) / "colab"))
from install import install

_ = install()

# %%
import os
from dataclasses import replace

import jax
import rxt_jax

SIZE = os.environ.get("RXT_NOTEBOOK_SIZE", "full")  # "small" shows every step in a minute or two, "full" learns
DTYPE = "bfloat16" if jax.default_backend() == "tpu" else "float32"
FOLDER = Path(os.environ.get("RXT_NOTEBOOK_FOLDER", "runs"))  # on Colab a folder of your Drive outlives the session

# %% [markdown]
# ## Your file
#
# Name it here. Without one, two hundred conversations are made, in the format that your file should have.

# %%
import json

from rxt_jax.data.dialogues import Dialogues, small

DATA = None  # "my_conversations.jsonl" or "hub:NAME"
if DATA is None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    DATA = str(FOLDER / "example.jsonl")
    made = [Dialogues(small()).episode(number) for number in range(200)]
    Path(DATA).write_text("".join(json.dumps(episode) + "\n" for episode in made))
    print(json.dumps(made[0]["interactions"][:2], indent=1))

# %% [markdown]
# ## Check it
#
# Counts, lengths, rows that are cut. A bad record is named by line and field.

# %%
from rxt_jax.cli.main import main as rxt

if not DATA.startswith("hub:"):
    rxt(["data", "inspect", DATA])

# %% [markdown]
# ## Train on it
#
# The recipe of the companion with its last stage alone, beginning with its parameters and tokenizer. A tenth of the file is held out.

# %%
from rxt_jax.data.config import FileData, PartData
from rxt_jax.recipe import shortened
from rxt_jax.run import run_recipe

companion = rxt_jax.load("companion").recipe
source = FileData(path=DATA)
recipe = replace(
    companion,
    name="mine",
    folder=str(FOLDER / "notebook_mine"),
    start_from="companion",
    model=replace(companion.model, dtype=DTYPE),
    data=replace(companion.data, source=PartData(source=source, rest=True), evaluation_source=PartData(source=source)),
    stages={"memory_aware": replace(companion.stages["memory_aware_values"], updates=300, batch_size=16, data=None)},
)
if SIZE == "small":
    recipe = shortened(recipe, 0.01, episodes=4)
_ = run_recipe(recipe)

# %% [markdown]
# ## Measure and talk
#
# Recall needs `recall` annotations (docs/data.md). Without them look at perplexity: memory is worth what separates `memory` from `zeroed`.

# %%
import rich

for table in rxt_jax.evaluate_run(recipe.run_folder).tables():
    rich.print(table)

# %%
session = rxt_jax.open_session(recipe.run_folder)
for query in ("My cat is called Tom.", "What is my cat's name?"):
    print("you   ", query)
    print("model ", session.answer(query))
