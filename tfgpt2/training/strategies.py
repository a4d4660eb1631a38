"""Several devices and machines: which `tf.distribute` strategy, and what Keras needs to run on it.

Keras 3.15 fails in two places with `MultiWorkerMirroredStrategy`; `prepare` mends them on the
model that it is given. Batches are split by TensorFlow: each worker reads the whole batch and
keeps its part, so that all of them together train on the batches of a single worker.
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.tokenizers.text_inputs import check_choice
from tfgpt2.training.settings import STRATEGIES


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Makes the strategy; with several workers, before anything else is done with TensorFlow.

    Args:
        name: `"none"` trains on one device; `"mirrored"` on all devices of this machine;
            `"multi_worker"` on those of all machines that the variable `TF_CONFIG` names. `"auto"`
            is the third where there is a `TF_CONFIG`, the second where there are several GPUs, and
            else the first.

    Raises:
        ValueError: There is no such strategy, or `TF_CONFIG` is not what TensorFlow reads.

    Example:
        >>> make_strategy("none").num_replicas_in_sync
        1
    """
    check_choice("strategy", name, STRATEGIES)
    workers = _workers()
    if name == "auto" and workers > 1:
        name = "multi_worker"
    if name == "multi_worker":
        if not workers:
            raise ValueError(
                explain(
                    "Several workers find one another by the variable TF_CONFIG.",
                    fix='Set it to {"cluster": {"worker": ["host:port", ...]}, "task":'
                    ' {"type": "worker", "index": 0}} on each, with its own index.',
                    TF_CONFIG=os.environ.get("TF_CONFIG"),
                )
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        # Devices of the CPU are several where somebody has divided it.
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _workers() -> int:
    """How many workers `TF_CONFIG` names; 0 without it."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        index = config["task"]["index"]
        if config["task"]["type"] != "worker" or not 0 <= index < len(workers):
            raise ValueError(f"no worker {index}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            explain(
                f"TF_CONFIG is not what TensorFlow reads: {error!r}.",
                fix='Write {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker",'
                ' "index": 0}}.',
                TF_CONFIG=text,
            )
        ) from error
    return len(workers)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and _workers() > 1


def prepare(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Mends what keeps Keras' `fit` and `evaluate` from running on several workers.

    Args:
        model: A model that was made and compiled in the strategy's scope, with its optimizer
            built.
        strategy: What `make_strategy` returned.
    """
    if strategy.num_replicas_in_sync == 1 and not is_multi_worker(strategy):
        return
    # Keras runs a batch to learn shapes, which it cannot reduce to one; ours are known.
    model._maybe_symbolic_build = lambda *args, **kwargs: None
    if not is_multi_worker(strategy):
        return
    # Keras takes the mean of results along axis 0, which numbers do not have.
    for name in ("train_step", "test_step"):
        setattr(model, name, _with_an_axis(getattr(model, name)))


def _with_an_axis(step: Any) -> Any:
    def run(data: Any) -> dict[str, tf.Tensor]:
        return {name: value[None] for name, value in step(data).items()}

    return run


def agree(strategy: tf.distribute.Strategy, step: int) -> None:
    """Checks that all workers go on from one step.

    Raises:
        ValueError: They do not: the checkpoints are not in a folder that all of them see.
    """
    if not is_multi_worker(strategy):
        return

    def others() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(float(step)))

    total = strategy.experimental_local_results(strategy.run(tf.function(others)))[0]
    if abs(float(total) / strategy.num_replicas_in_sync - step) > 0.01:
        raise ValueError(
            explain(
                "The workers do not go on from the same step.",
                fix="Put the output directory where all of them see it.",
                step=step,
                mean_of_all=float(total) / strategy.num_replicas_in_sync,
            )
        )
