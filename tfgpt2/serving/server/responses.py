"""TensorFlow Serving's messages about versions."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from tfgpt2.serving.server.servable import Servable
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.version_manager import VersionStatus


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
    """Makes the `GetModelMetadataResponse` of a version: its signatures.

    Raises:
        ServingError: UNIMPLEMENTED: it is no SavedModel.
    """
    definitions = getattr(servable, "signature_defs", None)
    if definitions is None:
        raise ServingError(
            "UNIMPLEMENTED", "This model is no SavedModel. Ask for its metadata over REST."
        )
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response
