"""Pages that need nothing but themselves: HTML with its style, script and drawings inside."""

from rxt_jax.pages.charts import Curve, draw_curves
from rxt_jax.pages.shell import embed_json, frame, write_page

__all__ = ["Curve", "draw_curves", "embed_json", "frame", "write_page"]
