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
# # Train a model with memory, from nothing
#
# The toy recipe: a small model, conversations that the package makes itself, four stages. At full size it takes a quarter of an hour on two CPU
# cores and ends with a model that remembers what you tell it. Batches are split over all local devices.

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
# ## The recipe
#
# A recipe is data: model, conversations, stages. `shortened` keeps a share of the updates.

# %%
from rxt_jax.recipe import load_recipe, shortened

recipe = load_recipe("configs/toy.py")
recipe = replace(recipe, folder=str(FOLDER / "notebook_toy"), model=replace(recipe.model, dtype=DTYPE))
if SIZE == "small":
    recipe = shortened(recipe, 0.004, episodes=4)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, splits=("iid",)))
{name: stage.updates for name, stage in recipe.stages.items()}

# %% [markdown]
# ## What it learns from
#
# One conversation. `recall` names the values that an answer has to take from memory, and how many turns ago they were said.

# %%
from rxt_jax.data import open_source

for interaction in open_source(recipe.data.source).episode(0)["interactions"]:
    print("you   ", interaction.get("query") or interaction["tool_use"])
    print("model ", interaction["answer"], interaction.get("recall", ""))

# %% [markdown]
# ## Train
#
# Interrupted? Run the cell again: it goes on where it was.

# %%
from rxt_jax.run import run_recipe

_ = run_recipe(recipe)

# %% [markdown]
# ## What does it remember?
#
# Greedy answers, by how many turns ago a value was said: with memory, with memory zeroed, with that of another conversation, with memory frozen
# after the first turn. Only where `memory` is above the others has memory been learnt.

# %%
import rich

for table in rxt_jax.evaluate_run(recipe.run_folder).tables():
    rich.print(table)

# %%
session = rxt_jax.open_session(recipe.run_folder)
for query in ("My dog is called Brumsel.", "How are you?", "What is my dog's name?"):
    print("you   ", query)
    print("model ", session.answer(query))
