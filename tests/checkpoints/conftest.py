"""Small random checkpoints."""

import pytest

from tests.support.checkpoint_loading import make_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    """Returns a function from configuration fields to the directory of a checkpoint."""

    def make(change=lambda weights: weights, name="checkpoint", **fields):
        return make_checkpoint(tmp_path / name, change, **fields)

    return make
