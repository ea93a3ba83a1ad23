"""From records to batches: checks, template, tokenizer, rows, loaders. NumPy only, knows no model."""

from rxt_jax.data.config import DataConfig, DialogueData, FaultPolicy, FileData
from rxt_jax.data.curriculum import Curriculum, CurriculumEntry, read_curriculum
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.faults import ReadReport, RecordError
from rxt_jax.data.loader import ConversationBatches, EpisodeBatches, InteractionBatches, PreferenceBatches, TextBatches
from rxt_jax.data.records import check_record, check_records
from rxt_jax.data.row_report import LoadReport
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer import Tokenizer, load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer

__all__ = [
    "ConversationBatches",
    "Curriculum",
    "CurriculumEntry",
    "DataConfig",
    "DialogueData",
    "EpisodeBatches",
    "EpisodeSource",
    "FaultPolicy",
    "FileData",
    "InteractionBatches",
    "LoadReport",
    "PreferenceBatches",
    "ReadReport",
    "RecordError",
    "RowEncoder",
    "TextBatches",
    "Tokenizer",
    "TokenizerConfig",
    "check_record",
    "check_records",
    "load_tokenizer",
    "open_source",
    "read_curriculum",
    "train_tokenizer",
]
