"""The checkpoint formats: one line for each that can be read, and for each that can be written.

To add a format, write `readers/x.py` (see `CheckpointReader`) and, if it is to be written,
`writers/x.py` (see `CheckpointWriter`), and add the class below.
"""

from __future__ import annotations

from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.readers.flax_msgpack import FlaxReader
from tfgpt2.checkpoints.readers.gguf import GGUFReader
from tfgpt2.checkpoints.readers.h5 import H5Reader
from tfgpt2.checkpoints.readers.keras_hub import KerasHubReader
from tfgpt2.checkpoints.readers.llm_c import LLMCReader
from tfgpt2.checkpoints.readers.mingpt import MinGPTReader
from tfgpt2.checkpoints.readers.nanogpt import NanoGPTReader
from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
from tfgpt2.checkpoints.readers.tf1 import TF1Reader
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader
from tfgpt2.checkpoints.writers.base import CheckpointWriter
from tfgpt2.checkpoints.writers.h5 import H5Writer
from tfgpt2.checkpoints.writers.keras_hub import KerasHubWriter
from tfgpt2.checkpoints.writers.safetensors import SafetensorsWriter

# The order in which formats are looked for: of several in one directory, the first is read. So the
# safest and fastest comes first. A single file is read by the last that recognises it: the files of
# later formats are special cases of earlier ones.
READERS: tuple[type[CheckpointReader], ...] = (
    SafetensorsReader,
    TorchBinReader,
    H5Reader,
    FlaxReader,
    TF1Reader,
    KerasHubReader,
    NanoGPTReader,
    MinGPTReader,
    LLMCReader,
    GGUFReader,
)
WRITERS: dict[str, type[CheckpointWriter]] = {
    writer.format: writer for writer in (SafetensorsWriter, H5Writer, KerasHubWriter)
}
