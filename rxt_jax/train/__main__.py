"""`python -m rxt_jax.train CONFIG` is `rxt train CONFIG`."""

import sys

from rxt_jax.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
