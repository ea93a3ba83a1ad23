"""An HTTP server whose conversations live in memory tensors: docs/serving.md. Needs the extra `serve`."""

from rxt_jax.server.access import read_keys
from rxt_jax.server.app import ServerConfig, make_app
from rxt_jax.server.engine import Engine
from rxt_jax.server.memories import TierLimits
from rxt_jax.server.programs import Programs, model_fingerprint
from rxt_jax.server.serve_run import app_of_run
from rxt_jax.server.turns import Turn

__all__ = [
    "Engine",
    "Programs",
    "ServerConfig",
    "TierLimits",
    "Turn",
    "app_of_run",
    "make_app",
    "model_fingerprint",
    "read_keys",
]
