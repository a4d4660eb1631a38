"""TensorFlow Serving's messages that REST and gRPC share."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from tfgpt2.serving.server.saved_model import Servable
from tfgpt2.serving.server.version_manager import VersionStatus

NO_VERSIONS = "Could not find any versions of model {name}"  # for `ModelRegistry.get`


def status_response(statuses: list[VersionStatus]) -> Any:
    """Makes the `GetModelStatusResponse` of versions."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in statuses:
        entry = response.model_version_status.add()
        entry.version = version.version
        entry.state = getattr(get_model_status_pb2.ModelVersionStatus, version.state)
        # The field is an enumeration of its own, with gRPC's names.
        codes = entry.status.DESCRIPTOR.fields_by_name["error_code"].enum_type.values_by_name
        entry.status.error_code = codes[version.code].number
        entry.status.error_message = version.message
    return response


def metadata_response(servable: Servable) -> Any:
    """Makes the `GetModelMetadataResponse` of a version: its signatures."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response
