"""What users import from the top, and that importing it is free of side effects."""

import subprocess
import sys

import pytest

import rxt_jax


def test_public_names_are_there():
    from rxt_jax.model import ReactiveTransformer
    from rxt_jax.run_evaluation import evaluate_run
    from rxt_jax.run_folder import load
    from rxt_jax.run_session import open_session

    assert rxt_jax.ReactiveTransformer is ReactiveTransformer
    assert rxt_jax.load is load
    assert rxt_jax.evaluate_run is evaluate_run and rxt_jax.open_session is open_session
    assert rxt_jax.presets.toy().embed_dim == 96
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rxt_jax.nothing


def test_importing_the_package_does_not_import_jax():
    code = "import sys, rxt_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
