"""Counting what JAX compiles."""

import contextlib
import logging

import jax


@contextlib.contextmanager
def count_compilations():
    """Collect the messages of programs that are compiled meanwhile, in any thread."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    try:
        # `jax.log_compiles()` would hear of this thread alone.
        jax.config.update("jax_log_compiles", True)
        yield messages
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)
