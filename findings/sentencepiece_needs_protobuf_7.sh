#!/usr/bin/env bash
# sentencepiece 0.2.3: its model_pb2 module cannot be imported with protobuf 6, and pip does not know.
#
# Good guess: a patch release imports with the protobuf of the release before; if it needs a newer one, its metadata says
#   so, and pip refuses or upgrades.
# What happens: the wheel's `sentencepiece_model_pb2.py` was generated with protobuf 7.36 and raises VersionError with
#   every protobuf 6, which TensorFlow 2.21 accepts and Apache Beam 2.77 requires (`<7`). The metadata names protobuf
#   without a version, and only in an extra: `pip check` is content. With sentencepiece 0.2.2 the import works.
# Seen with: sentencepiece 0.2.3 and 0.2.2, protobuf 6.33.6, Python 3.11.
# Source: Requires-Dist of the wheels; protobuf's cross-version runtime guarantees.
# In this project: the extra `beam` asks for sentencepiece below 0.2.3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.2.2 0.2.3; do
  "$folder/venv/bin/pip" install -q "sentencepiece[protobuf]==$version" "protobuf==6.33.6" 2>/dev/null
  "$folder/venv/bin/pip" check 2>/dev/null
  "$folder/venv/bin/python" - "$version" <<'END'
import importlib.metadata as metadata
import sys

import sentencepiece  # the package itself imports with both

version, expected = sys.argv[1], sys.argv[1] == "0.2.2"
print("sentencepiece", metadata.version("sentencepiece"), "protobuf", metadata.version("protobuf"))
print("  requires:", metadata.requires("sentencepiece"))
try:
    from sentencepiece import sentencepiece_model_pb2 as model

    works = len(model.ModelProto().SerializeToString()) == 0
    print("  sentencepiece_model_pb2: imported")
except Exception as error:
    works = False
    print("  sentencepiece_model_pb2:", type(error).__name__, str(error)[:150])
    assert type(error).__name__ == "VersionError", error
sys.exit(works != expected)
END
done
