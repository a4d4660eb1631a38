"""Distributed training: the `tf.distribute` strategy, and workarounds for Keras.

Keras 3.15 fails in two places with `MultiWorkerMirroredStrategy`; `prepare` patches the model.
TensorFlow splits the batches: each worker reads the whole batch and keeps its part, so all workers
together train on the batches of a single worker.
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.training.settings import STRATEGIES
from tfgpt2.validation import check_choice


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Makes the strategy; with several workers, call it before any other use of TensorFlow.

    Args:
        name: `"none"` trains on one device; `"mirrored"` on all devices of this machine;
            `"multi_worker"` on those of all machines in the environment variable `TF_CONFIG`.
            `"auto"` selects the third if `TF_CONFIG` is set, the second if there are several GPUs,
            and otherwise the first.

    Raises:
        ValueError: There is no such strategy, or `TF_CONFIG` is not valid.

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
            raise value_error(
                "Several workers find each other through the variable TF_CONFIG.",
                fix='Set it to {"cluster": {"worker": ["host:port", ...]}, "task":'
                ' {"type": "worker", "index": 0}} on each, with its own index.',
                TF_CONFIG=os.environ.get("TF_CONFIG"),
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        # A CPU has several logical devices if it was divided into them.
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _workers() -> int:
    """Number of workers in `TF_CONFIG`; 0 if it is not set."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        index = config["task"]["index"]
        if config["task"]["type"] != "worker" or not 0 <= index < len(workers):
            raise ValueError(f"there is no worker {index}")
    except (ValueError, KeyError, TypeError) as error:
        raise value_error(
            f"TF_CONFIG is not valid: {error!r}.",
            fix='Write {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker",'
            ' "index": 0}}.',
            TF_CONFIG=text,
        ) from error
    return len(workers)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the chief, which writes the files."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and _workers() > 1


def prepare(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Patches a model so that Keras' `fit` and `evaluate` run on several workers.

    Args:
        model: A model that was made and compiled in the strategy's scope, with a built optimizer.
        strategy: The strategy of `make_strategy`.
    """
    if strategy.num_replicas_in_sync == 1 and not is_multi_worker(strategy):
        return
    # Keras runs a batch to infer shapes, which fails with several replicas; ours are known.
    model._maybe_symbolic_build = lambda *args, **kwargs: None
    if not is_multi_worker(strategy):
        return
    # Keras averages results along axis 0, which scalars do not have.
    for name in ("train_step", "test_step"):
        setattr(model, name, _with_batch_axis(getattr(model, name)))


def _with_batch_axis(step: Any) -> Any:
    def run(data: Any) -> dict[str, tf.Tensor]:
        return {name: value[None] for name, value in step(data).items()}

    return run


def check_same_step(strategy: tf.distribute.Strategy, step: int) -> None:
    """Checks that all workers resume from the same step.

    Raises:
        ValueError: They do not: the checkpoints are not in a folder shared by all workers.
    """
    if not is_multi_worker(strategy):
        return

    def sum_of_steps() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(float(step)))

    total = strategy.experimental_local_results(strategy.run(tf.function(sum_of_steps)))[0]
    if abs(float(total) / strategy.num_replicas_in_sync - step) > 0.01:
        raise value_error(
            "The workers do not resume from the same step.",
            fix="Use an output directory that all workers share.",
            step=step,
            mean_of_all=float(total) / strategy.num_replicas_in_sync,
        )
