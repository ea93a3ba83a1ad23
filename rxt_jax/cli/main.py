"""`rxt`: one command, a few subcommands, clear errors.

Exit codes: 0 done, 1 stopped before the end, 2 bad input, with one message and no traceback.
"""

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_USAGE = """usage: rxt COMMAND [options]

  train CONFIG        train a recipe's stages, evaluate, and show a conversation
  chat RUN            talk to a trained model, or to a server: chat http://HOST:PORT
  serve RUN           a chat page and an HTTP API for a trained model
  evaluate RUN        measure recall by distance and answer perplexity
  data                generate | inspect | prepare: what records and rows look like; rows tokenised once
  tokenizer           train | inspect
  export RUN FOLDER   a finished run as a small folder to hand on: parameters, recipe, tokenizer, model card
  convert SRC DST     a published checkpoint to a run, or a run to one
  inspect RUN         parameters, checkpoints and recipe of a run
  inspect-memory RUN CONVERSATION  what memory does in a conversation, slot by slot, as one page
  report RUN [RUN ..] runs side by side as one page: recipe, curves, recall, cost
  compile-check CONFIG  every stage compiled for devices that are not there: what fits, what it costs
  benchmark           speed and memory of a training step
  benchmark mrq RUN   score the answers over conversations, from memory, without it, and from the text
  benchmark memory RUN  what a memory holds, how much, for how long

RUN is a folder, or `companion`: the model that comes with the package.
rxt COMMAND --help lists the options of a command.
Compiled programs are kept in the user's cache folder; JAX_ENABLE_COMPILATION_CACHE=0 switches that off."""

COMMANDS = (
    "train",
    "chat",
    "serve",
    "evaluate",
    "data",
    "tokenizer",
    "export",
    "convert",
    "inspect",
    "inspect-memory",
    "report",
    "compile-check",
    "benchmark",
)

# Commands that wait for compiled programs. `benchmark` times the compiler, so it does without what is kept.
_COMPILING = ("train", "chat", "serve", "evaluate", "inspect-memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"rxt: unknown command {command!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Absl, TensorStore and gRPC, which Orbax brings, log before anybody asked.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import importlib

    try:
        module = importlib.import_module(f"rxt_jax.cli.{command.replace('-', '_')}")
        if command in _COMPILING:
            from rxt_jax.cli.compilation_cache import use_compilation_cache

            use_compilation_cache()
        return module.run(rest)
    except (ValueError, OSError) as error:
        if os.environ.get("RXT_TRACEBACK"):
            raise
        print(f"rxt {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 1
