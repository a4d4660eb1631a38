"""The tasks of a job, by name."""

from __future__ import annotations

from tfgpt2.batch.tasks.base import Task
from tfgpt2.batch.tasks.classify import Classify
from tfgpt2.batch.tasks.generate import Generate
from tfgpt2.batch.tasks.text_scoring import Embed, Score

TASKS: dict[str, type[Task]] = {task.name: task for task in (Generate, Score, Embed, Classify)}
