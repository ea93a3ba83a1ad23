"""The Schema-Guided Dialogue data set, as it is published, read as episodes with recall annotations."""

from rxt_jax.data.sgd.dialogue import dialogue_to_episode
from rxt_jax.data.sgd.folder import SGD_PREFIX, read_sgd, sgd_files, sgd_path

__all__ = ["SGD_PREFIX", "dialogue_to_episode", "read_sgd", "sgd_files", "sgd_path"]
