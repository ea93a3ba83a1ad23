"""rxt_jax: the Reactive Transformer on JAX and Flax NNX."""
