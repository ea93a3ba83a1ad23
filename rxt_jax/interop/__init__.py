"""Models of the published PyTorch implementation, in and out."""

from rxt_jax.interop.rxlm_checkpoint import load_rxlm, stored_memory
from rxt_jax.interop.rxlm_export import save_rxlm

__all__ = ["load_rxlm", "save_rxlm", "stored_memory"]
