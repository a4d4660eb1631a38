"""A client for TensorFlow Serving and for the local server; it imports no TensorFlow."""

from tfgpt2.serving.client.client import Client
from tfgpt2.serving.client.failures import (
    BadAnswer,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerBusy,
    ServerFault,
    Unauthorized,
    Unreachable,
)
from tfgpt2.serving.client.records import (
    Embedding,
    Generation,
    Inspection,
    NextTokens,
    Score,
    ServedModel,
    Signature,
    TensorInfo,
    Tokens,
    VersionStatus,
)

__all__ = [
    "BadAnswer",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Embedding",
    "Generation",
    "Inspection",
    "InvalidRequest",
    "ModelNotFound",
    "NextTokens",
    "Score",
    "ServedModel",
    "ServerBusy",
    "ServerFault",
    "Signature",
    "TensorInfo",
    "Tokens",
    "Unauthorized",
    "Unreachable",
    "VersionStatus",
]
