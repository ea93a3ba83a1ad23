"""Small models, data and recipes that many tests share."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.dialogues import tiny
from rxt_jax.data.sources import open_source
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.model import ModelConfig, make_model, presets
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.memory_layer import MemoryLayerConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.short_convolution import ShortConvolutionConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig
from rxt_jax.types import EpisodeBatch

VOCABULARY = 48


def small_config(**changes) -> ModelConfig:
    """A toy of width 16 with 4 slots and shared keys, all written every time; no copying start, no convolutions."""
    attention = AttentionConfig(num_query_heads=2, num_kv_heads=1, head_dim=8)
    feed_forward = FeedForwardConfig(mlp_dim=24)
    plain = {"attention": attention, "feed_forward": feed_forward, "short_convolution": None}
    config = presets.toy(VOCABULARY)
    gate = ResidualGateConfig(kind="elementwise", activation="sigmoid")
    layer = MemoryLayerConfig(attention=attention, gate=gate, slot_identity=0.5)
    config = replace(
        config,
        embed_dim=16,
        num_slots=4,
        max_length=12,
        encoder=replace(config.encoder, **plain),
        decoder=replace(config.decoder, cross_attention=attention, induction=False, **plain),
        memory_attention=replace(config.memory_attention, layer=layer),
        embedding_std=0.5,
        scan_unroll=1,
    )
    return replace(config, **changes)


def mixture_config() -> ModelConfig:
    """With experts, shared experts and stateless layers on both sides."""
    config = small_config()
    mixture = MixtureConfig(num_experts=4, experts_per_token=2, mlp_dim=12, num_shared_experts=2)
    dense = FeedForwardConfig(mlp_dim=20)
    decoder = replace(config.decoder, feed_forward=mixture, stateless=(dense, mixture), final_stateless=(mixture,))
    return replace(config, decoder=decoder)


def convolving(config: ModelConfig) -> ModelConfig:
    """Give encoder and decoder short convolutions, stateless layers included, and the decoder an induction head."""
    attention = replace(config.decoder.attention, num_kv_heads=config.decoder.attention.num_query_heads)
    encoder = replace(config.encoder, short_convolution=ShortConvolutionConfig(after=1))
    decoder = replace(
        config.decoder, attention=attention, short_convolution=ShortConvolutionConfig(before=2), induction=True
    )
    return replace(config, encoder=encoder, decoder=decoder)


@functools.lru_cache(maxsize=64)
def _fresh(config, seed: int):
    def make():
        return make_model(config, rngs=nnx.Rngs(seed))

    params = jax.jit(lambda: nnx.split(make())[1])()
    return nnx.split(nnx.eval_shape(make))[0], params


def small_model(config=None, seed: int = 0):
    """A model with fresh parameters, made in one program and once for every config and seed: op by op it takes long."""
    graphdef, params = _fresh(config or small_config(), seed)
    return nnx.merge(graphdef, jax.tree.map(jnp.copy, params))  # a donated step may use up what it is given


@functools.partial(jax.jit, static_argnames=("graphdef", "method"))
def _call(graphdef, params, method, given, named):
    return getattr(nnx.merge(graphdef, params), method)(*given, **named)


def call(model, method: str, *given, **named):
    """Call a method of a model in one compiled program, which all calls with equal configs and shapes share.

    Op by op, a scan over layers is compiled at every call.
    """
    return _call(*nnx.split(model), method, given, named)


def random_batch(seed: int = 0, rows: int = 3, length: int = 8, vocabulary: int = VOCABULARY):
    """Ids and token mask of rows of different length."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, rng.integers(5, vocabulary, (rows, length)), 0).astype(np.int32)
    return jnp.asarray(ids), jnp.asarray(mask)


def random_memory(config: ModelConfig, rows: int, seed: int = 0):
    shape = (config.num_layers, rows, config.num_slots, config.embed_dim)
    return jax.random.normal(jax.random.key(seed), shape)


def random_conversations(seed: int = 0, interactions: int = 4, rows: int = 4, length: int = 8) -> EpisodeBatch:
    """Ragged conversations; row 0 is complete."""
    rng = np.random.default_rng(seed)
    parts = [random_batch(seed * 100 + i, rows, length) for i in range(interactions)]
    ids, token_mask = np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts])
    half = token_mask.sum(-1, keepdims=True) // 2
    loss_mask = token_mask & (np.arange(length) >= half)
    turns = rng.integers(1, interactions + 1, rows)
    turns[0] = interactions
    valid = np.arange(interactions)[:, None] < turns
    return EpisodeBatch(ids, token_mask, loss_mask, valid)


@functools.lru_cache(maxsize=1)
def dialogue_tokenizer():
    source = open_source(DialogueData())
    return train_tokenizer((source.text(i) for i in range(500)), TokenizerConfig(vocab_size=640))


class _WithEnd:
    def __init__(self, tokenizer, eos: int):
        self._tokenizer, self.special = tokenizer, replace(tokenizer.special, eos=eos)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def with_end(tokenizer, eos: int):
    """Give the tokenizer another end token: one that an untrained model makes."""
    return _WithEnd(tokenizer, eos)


def preference_file(path, episodes) -> FileData:
    """Write embedded dialogues with rejected answers into a file: data that end."""
    source = open_source(DialogueData(preferences=True))
    lines = []
    for number in range(episodes):
        episode = source.episode(number)
        lines.append(json.dumps({"interactions": episode["interactions"][:4]}))
    path.write_text("\n".join(lines) + "\n")
    return FileData(path=str(path), kind="preference_episode")


def small_recipe(folder, stages: dict, **changes) -> Recipe:
    """Runs in seconds on the embedded dialogues."""
    optimizer = OptimizerConfig(learning_rate=3e-3)
    data = DataConfig(max_length=40, max_interactions=4, text_length=24)
    recipe = Recipe(
        name="small",
        folder=str(folder),
        model=small_config(max_length=40),
        data=replace(data, source=DialogueData(spec=replace(tiny(), interactions=(3, 4), max_distance=3))),
        tokenizer=TokenizerConfig(vocab_size=512, texts=300),
        stages={
            name: StageRun(stage=stage, updates=4, batch_size=8, optimizer=optimizer, loop=LoopConfig(log_every=1))
            for name, stage in stages.items()
        },
    )
    return replace(recipe, **changes)
