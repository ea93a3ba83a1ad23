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
# # Preferences that only memory can decide
#
# A preference says which of two answers is better. Here the worse one names another value of the same kind, so nothing but memory tells them apart.
# Learning it sends a gradient through every write: DMPO (docs/preferences.md). It begins with the model that comes with the package.

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
# ## Pairs
#
# Ordinary conversations in which every answer that recalls something has a rejected twin.

# %%
from rxt_jax.data import open_source

companion = rxt_jax.load("companion").recipe
pairs = companion.data.source.with_preferences()
interactions = open_source(pairs).episode(0)["interactions"]
for interaction in interactions:
    print("you     ", interaction.get("query") or interaction["tool_use"])
    for name in ("chosen", "rejected"):
        if interaction[name]:
            print(name.ljust(8), interaction[name]["answer"])

# %% [markdown]
# ## Train
#
# A share of plain likelihood (`sft_weight`) keeps answers fluent: without it both answers lose probability.

# %%
from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import StageRun, shortened
from rxt_jax.run import run_recipe
from rxt_jax.stages import DirectMemoryPreference

last = companion.stages["memory_aware"]
stage = DirectMemoryPreference(preference=PreferenceConfig(beta=0.1), sft_weight=1.0)
recipe = replace(
    companion,
    name="preferred",
    folder=str(FOLDER / "notebook_preferred"),
    start_from="companion",
    model=replace(companion.model, dtype=DTYPE),
    data=replace(companion.data, source=pairs),
    stages={"preference": StageRun(stage=stage, updates=200, batch_size=16, optimizer=last.optimizer, loop=last.loop)},
)
if SIZE == "small":
    recipe = shortened(recipe, 0.01, episodes=4)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, splits=("iid",)))
_ = run_recipe(recipe)

# %% [markdown]
# ## Which answer does it prefer now?
#
# The share of held-out pairs that are told apart, with memory and with memory spoilt, and recall beside it. With memory zeroed it can only guess.

# %%
import rich

for table in rxt_jax.evaluate_run(recipe.run_folder).tables():
    rich.print(table)

# %%
session = rxt_jax.open_session(recipe.run_folder)
for query in ("My cat is called Tom and my dog is called Rex.", "What is my dog's name?"):
    print("you   ", query)
    print("model ", session.answer(query))
