"""Finished runs as one page: what they were, how they went, what they remember, what they cost."""

from rxt_jax.report.account import note_data, note_stage
from rxt_jax.report.run_page import run_page
from rxt_jax.report.run_record import RunRecord, read_run

__all__ = ["RunRecord", "note_data", "note_stage", "read_run", "run_page"]
