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
# # Inside memory
#
# What is written where, what an answer reads, and what it loses when a part of memory is erased. A model that has been trained answers a short
# conversation, and every number below belongs to one turn, layer and slot. docs/inspection.md says what each of them is.

# %%
# First, before anything imports jax.
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "colab").is_dir()) / "colab"))
from install import install

_ = install()

# %%
import os

import numpy as np
import rxt_jax

SIZE = os.environ.get("RXT_NOTEBOOK_SIZE", "full")  # "small" makes one experiment instead of three
FOLDER = Path(os.environ.get("RXT_NOTEBOOK_FOLDER", "runs"))  # on Colab a folder of your Drive outlives the session
RUN = "companion"  # or the folder of a run of yours

# %% [markdown]
# ## Trace a conversation
#
# The last turn asks for what the first one told. `OTHER` is the conversation whose memory is swapped in. Tracing changes no number: these are the
# answers that a chat would give.

# %%
TOLD = ["My dog is called Rex.", "I live in Porto.", "How are you?", "What is my dog called?"]
OTHER = ["My dog is called Max.", "I live in Rome.", "How are you?", "What is my dog called?"]
experiments = ["erase"] if SIZE == "small" else ["erase", "freeze", "swap"]
trace = rxt_jax.trace_memory(RUN, TOLD, other=OTHER, experiments=experiments)
for turn in trace.turns:
    print("you   ", turn.query)
    print("model ", turn.answer)

# %% [markdown]
# ## What was written where?
#
# How much of memory every turn changed, layer by layer, and the slots that it changed most.

# %%
for number, turn in enumerate(trace.turns, 1):
    share = turn.change.change / turn.change.level
    for layer, slots in enumerate(share):
        most = ", ".join(f"{slot} ({slots[slot]:.0%})" for slot in np.argsort(-slots)[:3])
        print(f"turn {number}, layer {layer}: changed by {slots.mean():4.0%}, most in slots {most}")

# %% [markdown]
# ## What does the answer need?
#
# Attention says where the answer looked. Only an experiment says what it needed: a slot, a layer or everything is replaced, and the answer's
# log-probability is measured again. Below 0 the answer loses.

# %%
for kind, effects in trace.turns[-1].effects.items():
    layers = ", ".join(f"layer {layer} {nats:+.2f}" for layer, nats in enumerate(effects.layers))
    print(f"{kind:6}  strongest slot {effects.slots.min():+.2f}, {layers}, everything {effects.everything:+.2f} nats")

# %% [markdown]
# ## All of it, as a page
#
# Choose a turn and point at a slot. "Speaks for" is a heuristic; the numbers of the experiments beside it are measured.

# %%
FOLDER.mkdir(parents=True, exist_ok=True)
(FOLDER / "memory.html").write_text(trace.html(), encoding="utf-8")  # the same page, to keep: one file, no requests
trace

# %% [markdown]
# ## Does one slot hold the dog's name?
#
# Ask again, of a memory without its strongest slots. If one slot held the name, the second line would be wrong already; often the name is spread.

# %%
session = rxt_jax.open_session(RUN)
strongest = np.argsort(trace.turns[-1].effects["erase"].slots, axis=None)
for count in (0, 1, 4, 16, 64, len(strongest)):
    memory = trace.memories[-2].copy()  # as the last question found it, [L S D]
    memory[np.unravel_index(strongest[:count], memory.shape[:2])] = 0
    session.memory = session.memory.at[:, 0].set(memory)
    print(f"{count:3} slots erased, of {len(strongest)}: model ", session.answer(TOLD[-1]))
