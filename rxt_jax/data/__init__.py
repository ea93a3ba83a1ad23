"""From records to batches: checks, template, tokenizer, rows, loaders. NumPy only, knows no model."""

from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.loader import EpisodeBatches, InteractionBatches, TextBatches
from rxt_jax.data.records import RecordError, read_episodes
from rxt_jax.data.rows import LoadReport, RowEncoder
from rxt_jax.data.sources import EpisodeSource, open_source
from rxt_jax.data.tokenizer import Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer

__all__ = [
    "DataConfig",
    "DialogueData",
    "EpisodeBatches",
    "EpisodeSource",
    "FileData",
    "InteractionBatches",
    "LoadReport",
    "RecordError",
    "RowEncoder",
    "TextBatches",
    "Tokenizer",
    "TokenizerConfig",
    "load_tokenizer",
    "open_source",
    "read_episodes",
    "train_tokenizer",
]
