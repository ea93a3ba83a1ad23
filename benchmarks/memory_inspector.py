"""Does one slot hold one fact? Planted facts, erased slot by slot: python benchmarks/memory_inspector.py

Conversations of the embedded dialogues (split `iid`) tell their facts; their questions are left out and asked at the end, all of the same
memory, so that nothing but the telling put a fact there. Facts that the model answers right count. For each, every slot is erased alone,
and slots are ordered by what the answer's log-probability loses. Then the first k are erased together: does the greedy answer lose the
value, and do the other answers keep theirs? The control erases k slots that a seed draws.
"""

import argparse
import functools
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rxt_jax
from rxt_jax.cli.compilation_cache import use_compilation_cache
from rxt_jax.data.config import DialogueData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation.recall import contains_value
from rxt_jax.evaluation.shares import standard_error
from rxt_jax.inspection.experiments import changed_log_probs, one_at_a_time
from rxt_jax.inspection.walker import Walker
from rxt_jax.model import generate, make_rules
from rxt_jax.serving.streaming import answer_text

COUNTS = (1, 2, 4, 8, 16, 32, 64)
FACTS = 3  # of a conversation, at most
TOKENS = 24
ROWS = FACTS * (FACTS + 1) * len(COUNTS)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _answer(graphdef, params, memory, ids, mask, end_id, pad_id):
    rules = make_rules(len(ids), jax.random.key(0))
    return generate(
        nnx.merge(graphdef, params), memory, ids, mask, rules, max_new_tokens=TOKENS, end_id=end_id, pad_id=pad_id
    ).ids


def planted(episode):
    """Split an episode into what is told and what is asked, one question per slot."""
    told = [each for each in episode["interactions"] if each.get("intent") not in ("recall", "absence")]
    asked = {each["recall"][0]["slot"]: each for each in episode["interactions"] if len(each.get("recall") or ()) == 1}
    return {"interactions": told}, list(asked.values())


class Asker:
    """Greedy answers of one model to questions `rows`, each to a memory of its own, always in one shape."""

    def __init__(self, walker, tokenizer):
        self.walker, self.tokenizer = walker, tokenizer

    def right(self, rows, values, memory, chosen):
        """Tell for pairs (row, chosen slots to erase [L S]) whether the answer holds the value: `[pairs]`."""
        special = self.tokenizer.special
        found = []
        for start in range(0, len(rows), ROWS):
            part, gone = rows[start : start + ROWS], np.zeros((ROWS, *chosen.shape[1:]), bool)
            gone[: len(part)] = chosen[start : start + ROWS]
            ids = np.full((ROWS, 32), special.pad, np.int32)
            for number, row in enumerate([*part, *[part[0]] * (ROWS - len(part))]):
                ids[number, : row.prompt_length + 1] = row.ids[: row.prompt_length + 1]
            mask = jnp.asarray(ids != special.pad)
            read = jnp.where(jnp.moveaxis(jnp.asarray(gone), 0, 1)[..., None], 0.0, memory)
            made = np.asarray(
                _answer(
                    self.walker.graphdef, self.walker.params, read, jnp.asarray(ids), mask, special.eos, special.pad
                )
            )
            for number in range(len(part)):
                text = [*made[number].tolist(), special.eos]
                text = answer_text([special.answer, *text[: text.index(special.eos)]], self.tokenizer)
                found.append(contains_value(text, values[start + number]))
        return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="companion")
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--output", default="benchmarks/memory_inspector.json")
    options = parser.parse_args()
    use_compilation_cache()
    run, began = rxt_jax.load(options.run), time.perf_counter()
    walker = Walker(run.model, run.tokenizer, run.recipe.data)
    asker, source, draws = (
        Asker(walker, run.tokenizer),
        open_source(DialogueData(split="iid", seed=1)),
        np.random.default_rng(0),
    )
    layers, _, slots, _ = walker.start.shape
    cells = layers * slots
    lost, kept, both, random_lost = ({count: [] for count in COUNTS} for _ in range(4))
    share, single, visit, used, asked_facts, right_facts = [], [], 0, 0, 0, 0
    while used < options.conversations:
        told, questions = planted(source.episode(visit))
        visit += 1
        rows = [
            dict(walker.rows({"interactions": [each]})[0][0], row=walker.rows({"interactions": [each]})[0][1])
            for each in questions
        ]
        rows = [each for each in rows if each["row"].prompt_length < 31]
        if len(rows) < 2:
            continue
        memory = walker.memories_of(told)[-1]
        values = [each["recall"][0]["value"] for each in rows]
        none = np.zeros((len(rows), layers, slots), bool)
        right = asker.right([each["row"] for each in rows], values, memory, none)
        asked_facts, right_facts = asked_facts + len(rows), right_facts + int(right.sum())
        facts = [(each["row"], value) for each, value, ok in zip(rows, values, right, strict=True) if ok][:FACTS]
        if len(facts) < 2:
            continue
        used += 1
        orders = []
        for row, _ in facts:
            ids, mask, scored = walker.arrays(row)
            chosen = np.concatenate([np.zeros((1, layers, slots), bool), one_at_a_time(layers, slots)])
            sums = changed_log_probs(
                walker.graphdef, walker.params, memory, jnp.zeros_like(memory), ids, mask, scored, chosen
            )
            change = sums[1:] - sums[0]
            orders.append(np.argsort(change[:cells]))
            single.append(float(change[:cells].min()))
            share.append([*change[cells:].tolist()])
        orders.append(draws.permutation(cells))
        pairs, wanted = [], []
        for who, order in enumerate(orders):
            for count in COUNTS:
                gone = np.zeros(cells, bool)
                gone[order[:count]] = True
                for number, (row, value) in enumerate(facts):
                    pairs.append((row, value, gone.reshape(layers, slots)))
                    wanted.append((who, count, number))
        holds = asker.right([p[0] for p in pairs], [p[1] for p in pairs], memory, np.stack([p[2] for p in pairs]))
        truth = dict(zip(wanted, holds, strict=True))
        for count in COUNTS:
            for who in range(len(facts)):
                still = [bool(truth[who, count, number]) for number in range(len(facts))]
                both[count].append(not still[who] and sum(still) == len(facts) - 1)
        for (who, count, number), ok in truth.items():
            if who == len(facts):
                random_lost[count].append(not ok)
            elif who == number:
                lost[count].append(not ok)
            else:
                kept[count].append(bool(ok))
        print(f"{used} conversations, {time.perf_counter() - began:.0f} s", flush=True)
        result = {
            "run": options.run,
            "conversations": used,
            "facts": len(single),
            "asked": asked_facts,
            "right": right_facts,
            "slots": cells,
            "strongest_slot_nats": float(np.mean(single)),
            "median_strongest_slot_nats": float(np.median(single)),
            "layer_and_all_nats": np.mean(share, axis=0).tolist(),
            "by_count": {
                str(count): {
                    name: {
                        "share": float(np.mean(each[count])),
                        "error": standard_error(int(np.sum(each[count])), len(each[count])),
                    }
                    for name, each in (
                        ("lost", lost),
                        ("others_kept", kept),
                        ("lost_alone", both),
                        ("random_lost", random_lost),
                    )
                }
                for count in COUNTS
            },
            "seconds": time.perf_counter() - began,
            "machine": f"{platform.machine()}, CPU, JAX {jax.__version__}",
        }
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _plot(result, Path(options.output).with_suffix(".png"))
    print(json.dumps(result, indent=1))


def _plot(result, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    names = (
        ("lost", "that answer is lost"),
        ("others_kept", "the other answers are kept"),
        ("lost_alone", "both: it alone is lost"),
    )
    for name, label in (*names, ("random_lost", "an answer is lost, slots drawn at random")):
        points = [each[name] for each in result["by_count"].values()]
        errors = [point["error"] for point in points]
        axis.errorbar(
            COUNTS, [point["share"] for point in points], errors, marker="o", markersize=3, elinewidth=0.8, label=label
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set(xlabel=f"slots erased together, of {result['slots']}", ylim=(-0.03, 1.03), ylabel="share of facts")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
