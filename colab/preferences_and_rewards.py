# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     gpuType: V5E1
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator,colab
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Preferences and rewards that only memory can decide
#
# Two ways to go on where the stages end. DMPO learns from pairs: the worse answer names another value of the same kind, so nothing but memory tells the
# two apart (docs/preferences.md). Memory reinforcement lets the model lead conversations of its own and rewards the values that it remembers
# (docs/reinforcement.md). Both send a gradient through every write. It begins with the model that comes with the package.

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
# ## Learn the pairs
#
# A share of plain likelihood (`sft_weight`) keeps answers fluent: without it both answers lose probability.

# %%
from rxt_jax.losses import PreferenceConfig
from rxt_jax.recipe import StageRun, load_recipe, shortened
from rxt_jax.run import run_recipe
from rxt_jax.stages import DirectMemoryPreference

last = companion.stages["memory_aware_values"]
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


def sized(recipe):
    """Keep every step and little of its length where SIZE is "small"."""
    if SIZE != "small":
        return recipe
    recipe = shortened(recipe, 0.01, episodes=4)
    return replace(recipe, evaluation=replace(recipe.evaluation, splits=("iid",), conditions=("memory", "zeroed")))


recipe = sized(recipe)
_ = run_recipe(recipe)

# %% [markdown]
# ## Which answer does it prefer now?
#
# The share of held-out pairs that are told apart, with memory and with memory spoilt, and recall beside it. With memory zeroed it can only guess.

# %%
import rich

for table in rxt_jax.evaluate_run(recipe.run_folder).tables():
    rich.print(table)

# %% [markdown]
# ## Let it earn rewards
#
# Eight answers to every query, compared with each other (GRPO); an answer earns 1 for the value that was asked for and loses for another value of the
# conversation. What the model said itself is what it remembers. Watch `reward/total`, and recall beside it: a reward that rises while recall falls is
# being gamed.

# %%
reinforced = load_recipe("configs/companion_reinforcement.py")
reinforced = replace(
    reinforced,
    folder=str(FOLDER / "notebook_reinforced"),
    start_from=str(recipe.run_folder),
    model=replace(reinforced.model, dtype=DTYPE),
)
reinforced = sized(reinforced)
_ = run_recipe(reinforced)
for table in rxt_jax.evaluate_run(reinforced.run_folder).tables():
    rich.print(table)

# %% [markdown]
# ## Talk to both

# %%
for folder in (recipe.run_folder, reinforced.run_folder):
    session = rxt_jax.open_session(folder)
    print(folder.name)
    for query in ("My cat is called Tom and my dog is called Rex.", "What is my dog's name?"):
        print("you   ", query)
        print("model ", session.answer(query))
