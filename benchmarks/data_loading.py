"""How fast rows come, how long the device waits for them, and what an epoch of ten million records costs.

    python benchmarks/data_loading.py throughput --data EPISODES.jsonl     # pip install 'rxt-jax[datasets]'
    python benchmarks/data_loading.py idle                                 # toy and Micro train steps
    python benchmarks/data_loading.py shuffle                              # 10 million records, peak memory

`throughput` does the same work three ways in one run: every interaction of the file as a padded row of ids and
masks in batches of 64. Raw: checked records of the jsonl file, tokenised. Prepared: rows of `rxt data prepare`.
Datasets: `load_dataset` and a batched `map` with the same tokenizer.json, whose own time includes what the map
writes to its cache; then iteration in NumPy format.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

BATCH, LENGTH, VOCABULARY = 64, 96, 8192


class AllInteractions:
    """Every interaction of every episode once, in rows of fixed length: the same work for all three."""

    def __init__(self, source: Any, encoder: Any):
        from rxt_jax.data.order import make_order
        from rxt_jax.data.row_reader import RowReader

        self.reader, self.order, self.size = RowReader(source, encoder), make_order(source, 0), source.size
        self.pad, self.report = encoder.special.pad, encoder.report

    def __iter__(self) -> Any:
        from rxt_jax.data.rows import stack_rows

        rows: list[Any] = []
        for position in range(self.size):
            record = self.reader.record(self.order.visit(position))
            rows += record.item(slice(0, record.count)).rows
            while len(rows) >= BATCH:
                yield stack_rows(rows[:BATCH], LENGTH, self.pad)
                del rows[:BATCH]
        if rows:
            yield stack_rows(rows, LENGTH, self.pad)


def measure(name: str, batches: Any, began: float) -> dict[str, Any]:
    rows = tokens = 0
    for ids, token_mask, *_ in batches:
        rows, tokens = rows + len(ids), tokens + int(token_mask.sum())
    seconds = time.perf_counter() - began
    result = {"way": name, "rows": rows, "tokens": tokens, "seconds": seconds}
    print(f"{name:28} {rows / seconds:10,.0f} rows/s {tokens / seconds:12,.0f} tokens/s  ({seconds:.1f} s)", flush=True)
    return result


def throughput(path: str, processes: int) -> list[dict[str, Any]]:
    from rxt_jax.data.config import DataConfig, FileData
    from rxt_jax.data.preparing import prepare
    from rxt_jax.data.rows import RowEncoder
    from rxt_jax.data.sources import open_source
    from rxt_jax.data.tokenizer import JsonTokenizer

    folder = Path(tempfile.mkdtemp())
    try:
        tokenizer = JsonTokenizer(train_json_tokenizer(path))
        config = DataConfig(max_length=LENGTH, text_length=LENGTH, overlong="right")
        data = FileData(path=path)
        results = []

        began = time.perf_counter()
        results.append(measure("raw jsonl", AllInteractions(open_source(data), RowEncoder(tokenizer, config)), began))
        began = time.perf_counter()
        prepare(data, RowEncoder(tokenizer, config), folder / "prepared", workers=processes)
        print(f"prepared once in {time.perf_counter() - began:.1f} s", flush=True)
        began = time.perf_counter()
        prepared = open_source(FileData(path=str(folder / "prepared")))
        results.append(measure("prepared", AllInteractions(prepared, RowEncoder(tokenizer, config)), began))
        began = time.perf_counter()
        mapped = map_with_datasets(path, tokenizer._content, folder, processes)
        print(f"datasets: mapped in {time.perf_counter() - began:.1f} s", flush=True)
        results.append(measure("datasets, first epoch", columns(mapped), began))
        began = time.perf_counter()
        results.append(measure("datasets, later epochs", columns(mapped), began))
    finally:
        shutil.rmtree(folder)
    raw, prepared_, first, later = results
    assert len({each["tokens"] for each in results}) == 1, "the ways did not do the same work"
    print(f"raw / datasets first epoch: {first['seconds'] / raw['seconds']:.2f} times as fast")
    print(f"prepared / datasets later epochs: {later['seconds'] / prepared_['seconds']:.2f} times as fast")
    return results


def train_json_tokenizer(path: str) -> str:
    """A byte-level tokenizer that both sides can use."""
    import tokenizers

    from rxt_jax.data.special_tokens import CONTROL_PIECES

    def texts() -> Any:
        with open(path, encoding="utf-8") as file:
            for _, line in zip(range(2000), file, strict=False):
                for each in json.loads(line)["interactions"]:
                    yield from (each[part] for part in ("query", "answer", "tool_use", "tool_call") if each.get(part))

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(CONTROL_PIECES.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer.to_str()


def map_with_datasets(path: str, content: str, folder: Path, processes: int) -> Any:
    """Template, tokenise in batches, join, cut, pad: what `RowEncoder` and `stack_rows` do."""
    import datasets
    import tokenizers

    from rxt_jax.data.special_tokens import CONTROL_PIECES

    datasets.disable_progress_bars()
    control = {name: number for number, name in enumerate(CONTROL_PIECES)}

    def encode(examples: dict[str, list]) -> dict[str, list]:
        tokenizer = tokenizers.Tokenizer.from_str(content)
        tokenizer.encode_special_tokens = True
        rows, texts = [], []
        for interactions in examples["interactions"]:
            for each in interactions:
                prompt = "tool_use" if each.get("tool_use") else "query"
                parts = [prompt, *(name for name in ("answer", "tool_call") if each.get(name))]
                rows.append(parts)
                texts += [each[name] for name in parts]
        encoded = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
        ids_, token_masks, loss_masks = [], [], []
        for parts in rows:
            ids, prompt_length = [control["bos"]], 0
            for name in parts:
                prompt_length = prompt_length or (len(ids) if name in ("answer", "tool_call") else 0)
                ids += [control[name], *next(encoded).ids]
            ids = [*ids, control["eos"]][:LENGTH]
            missing = LENGTH - len(ids)
            ids_.append(ids + [0] * missing)
            token_masks.append([True] * len(ids) + [False] * missing)
            loss_masks.append([prompt_length <= place < len(ids) for place in range(LENGTH)])
        return {"ids": ids_, "token_mask": token_masks, "loss_mask": loss_masks}

    dataset = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(folder / "cache"))
    dataset = dataset.map(encode, batched=True, remove_columns=dataset.column_names, num_proc=processes or None)
    return dataset.shuffle(seed=0).with_format("numpy")


def columns(dataset: Any) -> Any:
    for batch in dataset.iter(batch_size=BATCH):
        yield batch["ids"], batch["token_mask"], batch["loss_mask"]


def idle(updates: int) -> list[dict[str, Any]]:
    """Train steps of the toy recipe and of Micro, with the share of their time that the device waited for data."""
    import jax

    from rxt_jax.data.config import DataConfig
    from rxt_jax.model import presets
    from rxt_jax.recipe import load_recipe
    from rxt_jax.run import run_recipe

    results = []
    toy = load_recipe("configs/toy.py")
    jax.config.update("jax_num_cpu_devices", 2)
    micro_data = DataConfig(max_length=256, text_length=256, max_interactions=4, overlong="cut_input_first")
    micro = replace(
        toy, name="micro", model=presets.rxt_alpha_micro(), data=replace(micro_data, source=toy.data.source)
    )
    for recipe, rows, stages in ((toy, None, None), (micro, 4, ("joint_pretraining", "memory_aware"))):
        runs = {name: run for name, run in recipe.stages.items() if stages is None or name in stages}
        count = updates if rows is None else max(updates // 10, 3)
        runs = {
            name: replace(
                run, updates=count, batch_size=rows or run.batch_size, loop=replace(run.loop, log_every=count)
            )
            for name, run in runs.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            run_recipe(replace(recipe, folder=folder, stages=runs), quiet=True)
            for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
                line = json.loads(line)
                share = line["time/data"]
                print(f"{recipe.name} {line['stage']:20} idle at most {100 * share:6.3f} %", flush=True)
                results.append({"recipe": recipe.name, "stage": line["stage"], "idle": share})
    return results


def shuffle(size: int) -> list[dict[str, Any]]:
    """Walk an epoch's order and resume at random places; then a permutation in memory for comparison."""
    from rxt_jax.data.episode_source import EpisodeSource
    from rxt_jax.data.order import make_order

    class Source(EpisodeSource):
        pass

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    Source.size = size
    used = size - size % 64
    before, began = peak(), time.perf_counter()
    order = make_order(Source, 0, 64)
    for position in range(used):
        order.visit(position)
    seconds, own = time.perf_counter() - began, peak() - before
    seen = np.zeros(size, bool)
    for position in range(used):
        seen[order.visit(position)] = True
    assert int(seen.sum()) == used, "an epoch shows records twice"
    resumed = make_order(Source, 0, 64)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, 3 * size, 1000).tolist():
        assert resumed.visit(position) == order.visit(position)
    print(f"{size:,} records: {1e6 * seconds / size:.2f} µs per record, {own:.1f} MiB more at the peak")
    before = peak()
    permutation = np.random.default_rng(0).permutation(size)
    print(f"a permutation in memory: {peak() - before:.1f} MiB ({permutation.nbytes / 2**20:.0f} MiB of numbers)")
    return [{"records": size, "microseconds": 1e6 * seconds / size, "mebibytes": own}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "idle", "shuffle"))
    parser.add_argument("--data", default="../shared/data/sgd/train.jsonl", help="jsonl file of episodes")
    parser.add_argument("--processes", type=int, default=2, help="for preparing and for datasets' map")
    parser.add_argument("--updates", type=int, default=60, help="of every stage, for idle")
    parser.add_argument("--size", type=int, default=10_000_000, help="records, for shuffle")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args()
    if options.what == "throughput":
        results = throughput(options.data, options.processes)
    elif options.what == "idle":
        results = idle(options.updates)
    else:
        results = shuffle(options.size)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
