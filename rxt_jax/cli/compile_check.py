"""`rxt compile-check CONFIG --topology v5e:2x4`: every stage compiled for devices that are not there.

The work is done in a process of its own: its environment names the devices before JAX is imported.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from rxt_jax.compile_check.topology import parse_topology

__all__ = ["run"]

_USAGE = """usage: rxt compile-check CONFIG --topology KIND:SHAPE [--field value ...]

  --topology KIND:SHAPE devices to compile for: v5e:2x4, v6e:2x4, v5p:2x4x4 (extra `aot`), or cpu:8, which are simulated
  --memory GIB          memory of a device, where the kind does not say it
  --stages A,B          only these stages
  --suggest             look for a mesh and micro-batches that fit into 90 % of the memory
  --tries N             programs that --suggest may compile for a stage (6)
  --budget N            most traffic of a device in an update, in float32 parameters of the model (any)
  --json                print JSON

Any field of the recipe is an option as in rxt train. Exit code 1: something does not fit, or devices exchange what
nobody asked for."""


def run(arguments: Sequence[str]) -> int:
    """Start the process that compiles."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    words = [word for each in arguments for word in each.split("=", 1)]
    place = words.index("--topology") + 1 if "--topology" in words else len(words)
    if place >= len(words):
        raise ValueError("--topology is missing: name the devices to compile for, such as v5e:2x4 or cpu:8.")
    environment = {**os.environ, **parse_topology(words[place]).environment()}
    command = [sys.executable, "-m", "rxt_jax.cli.compile_check_program", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode
