"""Single against several answers per episode, and a curriculum against its last step at once.

python benchmarks/reinforcement_curriculum.py [--comparisons steps curriculum] [--seeds 1] [--updates 120]

The task is that of benchmarks/reinforcement.py: a token is planted, talked past, and asked for. Every way gets the same
number of updates, from the model that stage 4 taught half of the answers two interactions back, and is measured at
every distance. Writes benchmarks/reinforcement_curriculum.json.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from reinforcement import TOKENIZER, accuracy_of, conversations, make_config, make_stage, optimizer_of, pretrain

from rxt_jax.model import ReactiveTransformer
from rxt_jax.train.acting import make_acting
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

FOLDER = Path(__file__).parent
PLANTED = 2  # interactions between planting and asking where stage 4 stops


def ways(comparison: str, updates: int) -> dict[str, list[tuple[int, int]]]:
    """Give every way its phases: the distance that it trains at, which is the answers of an episode, and updates."""
    if comparison == "steps":
        return {"single step": [(1, updates)], "multi step": [(2, updates)]}
    third = updates // 3
    return {"2 → 4 → 8": [(2, third), (4, third), (8, updates - 2 * third)], "8 at once": [(8, updates)]}


def train(graphdef, params, algorithm: str, phases, measure, seed: int, rate: float, rows: int = 64):
    """Walk the phases; return the greedy shares of right answers after each 20 updates, by distance."""
    stage, done, curve = make_stage(algorithm), 0, [(0, measure(params))]
    rng = np.random.default_rng(2000 + seed)
    for number, (distance, updates) in enumerate(phases):
        stage = stage.continued() if number else stage
        optimizer = optimizer_of(stage, params, rate)
        count = rows // stage.rollout.group_size
        example = conversations(np.random.default_rng(0), count, distance)
        state = make_train_state(params, optimizer, stage, graphdef=graphdef, tokenizer=TOKENIZER, batch=example)
        act = make_acting(graphdef, stage, TOKENIZER, seed=seed, stream=number)
        step = make_train_step(graphdef, stage, optimizer, seed=seed, stream=number)
        for update in range(updates):
            state, _ = step(state, act(state, conversations(rng, count, distance), update))
            done += 1
            if done % 20 == 0 or update == updates - 1:
                curve.append((done, measure(state.params)))
        params = state.params
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", nargs="+", default=["steps", "curriculum"])
    parser.add_argument("--algorithm", default="impo")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=FOLDER / "reinforcement_curriculum.json")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.is_file() else []
    for seed in options.seeds:
        graphdef, start = nnx.split(ReactiveTransformer(make_config(), rngs=nnx.Rngs(seed)))
        begin, updates, right = pretrain(graphdef, start, accuracy_of(graphdef, PLANTED), seed, PLANTED)
        print(f"seed {seed}: stage 4 right {right:.2f} at distance {PLANTED} after {updates} updates", flush=True)
        for comparison in options.comparisons:
            distances = (1, 2, 4) if comparison == "steps" else (2, 4, 8)
            measures = {distance: accuracy_of(graphdef, distance, rows=256) for distance in distances}

            def measure(params, measures=measures):
                return {distance: each(params) for distance, each in measures.items()}

            for name, phases in ways(comparison, options.updates).items():
                began = time.perf_counter()
                copied = jax.tree.map(lambda leaf: leaf.copy(), begin)
                curve = train(graphdef, copied, options.algorithm, phases, measure, seed, options.rate)
                seconds = time.perf_counter() - began
                one = {"comparison": comparison, "way": name, "algorithm": options.algorithm, "seed": seed}
                found.append(one | {"seconds": seconds, "curve": curve})
                print(f"{name}: {curve[0][1]} → {curve[-1][1]} in {seconds:.0f} s", flush=True)
                options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
