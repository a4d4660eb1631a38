"""Apache Beam's modules, imported in one place with one clear error."""

from __future__ import annotations

from tfgpt2.extras import missing_extra

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics
    from apache_beam.ml.inference.base import ModelHandler, RunInference
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils.shared import Shared
except ImportError as error:
    missing = error.name or "apache_beam"
    raise missing_extra("tfgpt2.beam", "beam", missing) from error

__all__ = ["Metrics", "ModelHandler", "PipelineOptions", "RunInference", "Shared", "beam"]
