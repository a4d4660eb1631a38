"""Apache Beam's modules, imported in one place with one clear error."""

from __future__ import annotations

from tfgpt2.errors import explain

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics
    from apache_beam.ml.inference.base import ModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils.shared import Shared
except ImportError as error:
    raise ImportError(
        explain("This needs Apache Beam.", fix="Run: pip install 'tfgpt2[beam]'.")
    ) from error

__all__ = ["Metrics", "ModelHandler", "PipelineOptions", "RunInference", "Shared", "beam"]
