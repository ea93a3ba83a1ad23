"""Peak memory of converting a large checkpoint, in both directions.

    python benchmarks/convert.py            # about 2 GB of float32 parameters, a minute, 7 GB of disk

Makes a checkpoint with random parameters, runs `rxt convert` on it in a process of its own, and sets the
highest resident size of that process (ru_maxrss; mapped file pages count) against the size of the file.
"""

import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

RATIO_WANTED = 1.3


def large_config(width: int = 768):
    """Describe a dense model of 2 GB: wide layers, several of them, a published vocabulary."""
    from rxt_jax.model import presets
    from rxt_jax.nn.attention import AttentionConfig
    from rxt_jax.nn.feed_forward import FeedForwardConfig

    config = presets.rxt_alpha_micro(vocab_size=32000)
    attention = AttentionConfig(num_query_heads=12, num_kv_heads=12, head_dim=width // 12)
    feed_forward = FeedForwardConfig(mlp_dim=4 * width)
    layer = replace(config.memory_attention.layer, attention=attention, inner_attention=attention)
    return replace(
        config,
        embed_dim=width,
        num_layers=20,
        encoder=replace(config.encoder, attention=attention, feed_forward=feed_forward),
        decoder=replace(config.decoder, attention=attention, cross_attention=attention, feed_forward=feed_forward),
        memory_attention=replace(config.memory_attention, layer=layer),
    )


def make_checkpoint(folder: str) -> None:
    """Write the checkpoint and a tokenizer."""
    from rxt_jax.data.config import DialogueData
    from rxt_jax.data.sources import open_source
    from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
    from rxt_jax.interop import save_rxlm
    from rxt_jax.model.fresh_parameters import build_model

    save_rxlm(build_model(large_config(), 0), folder)
    source = open_source(DialogueData())
    train_tokenizer((source.text(i) for i in range(300)), TokenizerConfig(vocab_size=512)).save(folder)


def import_only(*_: str) -> None:
    """Load what a conversion loads before it reads anything."""
    import rxt_jax.cli.convert  # noqa: F401


def convert(source: str, destination: str) -> None:
    """Run the command."""
    from rxt_jax.cli.convert import run

    run([source, destination])


def peak_of(function, *arguments: str) -> tuple[float, float]:
    """Run a function in a fresh process; return its highest resident size in bytes and its seconds."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(send, function, arguments))
    began = time.perf_counter()
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{function.__name__} failed")
    return receive.recv(), time.perf_counter() - began


def _report(send, function, arguments) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    function(*arguments)
    send.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0)


def main() -> None:
    """Measure."""
    folder = Path(tempfile.mkdtemp(prefix="rxt_convert_"))
    try:
        peak_of(make_checkpoint, str(folder / "published"))
        size = sum(file.stat().st_size for file in (folder / "published").rglob("*.safetensors"))
        base, _ = peak_of(import_only)
        print(f"checkpoint {size / 1e9:.2f} GB; the program alone {base / 1e9:.2f} GB")
        for source, destination in (("published", "run"), ("run", "again")):
            peak, seconds = peak_of(convert, str(folder / source), str(folder / destination))
            print(f"{source} -> {destination}: peak {peak / 1e9:.2f} GB = {peak / size:.2f} x, {seconds:.0f} s")
        first, second = (folder / name / "model.safetensors" for name in ("published", "again"))
        print("bit for bit the same file:", first.read_bytes() == second.read_bytes())
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
