"""`python -m rxt_jax` is `rxt`."""

import sys

from rxt_jax.cli.main import main

sys.exit(main())
