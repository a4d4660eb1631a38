"""Operations of a SavedModel's graph, and those that a server supports."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfgpt2.errors import explain

# Operations of TF Text 2.12.1, the version inside TensorFlow Serving 2.12 to 2.19 (2.20 has more).
# Source: the names that the shared libraries of the wheel tensorflow_text 2.12.1 register.
TEXT_OPERATIONS = frozenset({
    "CaseFoldUTF8", "ConstrainedSequence", "FastBertNormalize", "FastWordpieceTokenizeWithOffsets",
    "FindSourceOffsets", "MaxSpanningTree", "NormalizeUTF8", "NormalizeUTF8WithOffsetsMap",
    "PhraseTokenize", "RegexSplitWithOffsets", "RougeL", "SentenceFragments",
    "SentenceFragmentsV2", "SentencepieceDetokenizeOp", "SentencepieceIdToStringOp",
    "SentencepieceOp", "SentencepieceStringToIdOp", "SentencepieceTokenizeOp",
    "SentencepieceTokenizeWithOffsetsOp", "SentencepieceVocabSizeOp",
    "SplitMergeTokenizeWithOffsets", "TFText>BoiseTagsToOffsets", "TFText>ByteSplitByOffsets",
    "TFText>ByteSplitWithOffsets", "TFText>FastSentencepieceDetokenize",
    "TFText>FastSentencepieceTokenize", "TFText>FastWordpieceDetokenize",
    "TFText>NgramsStringJoin", "TFText>OffsetsToBoiseTags", "TFText>PhraseDetokenize",
    "TFText>WhitespaceTokenizeWithOffsetsV2", "TokenizerFromLogits",
    "UnicodeScriptTokenizeWithOffsets", "WhitespaceTokenizeWithOffsets",
    "WordpieceTokenizeWithOffsets",
})  # fmt: skip
# Used by compiled exports; TensorFlow has them, but not under `tf.raw_ops`.
_XLA_OPERATIONS = frozenset({
    "XlaDotV2", "XlaDynamicSlice", "XlaDynamicUpdateSlice", "XlaGather", "XlaOptimizationBarrier",
})  # fmt: skip


def read_operations(directory: Path) -> tuple[str, ...]:
    """Names of all operations in a SavedModel, those inside functions included, sorted."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((directory / "saved_model.pb").read_bytes())
    graph = message.meta_graphs[0].graph_def
    inside = (node for function in graph.library.function for node in function.node_def)
    return tuple(sorted({node.op for node in (*graph.node, *inside)}))


def check_operations(names: tuple[str, ...], *, compiled: bool) -> None:
    """Refuses operations that a stock server may lack.

    Allowed are the public operations of TensorFlow (`tf.raw_ops`, which is fixed when TensorFlow
    is built, so that libraries loaded later add nothing to it) and those of TF Text 2.12.1; in
    compiled exports, also a few of XLA.

    Args:
        names: Operations of the graph.
        compiled: Whether the export is compiled by XLA.

    Raises:
        RuntimeError: One is not allowed.

    Example:
        >>> check_operations(("MatMul", "SentencepieceOp"), compiled=False)
    """
    allowed = TEXT_OPERATIONS | (_XLA_OPERATIONS if compiled else frozenset())
    refused = [name for name in names if name not in allowed and not hasattr(tf.raw_ops, name)]
    if not compiled:
        refused += [name for name in names if name.startswith("Xla") and name not in refused]
    if refused:
        raise RuntimeError(
            explain(
                "The graph has operations that TensorFlow Serving 2.12 does not know, or that it"
                " runs only with XLA; nothing was written.",
                fix="Use operations of TensorFlow and TF Text 2.12.1, or jit_compile=True for XLA.",
                operations=refused,
            )
        )
