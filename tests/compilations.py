"""Counting what JAX compiles."""

import contextlib
import logging

import jax


@contextlib.contextmanager
def count_compilations():
    """Collect the messages of programs that are compiled meanwhile."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield messages
    finally:
        logger.removeHandler(handler)
