"""ONNX Runtime with its fused attention, in float32 and dynamically quantized int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import protocol


class OnnxRuntime(protocol.Backend):
    """One graph for prefill and decode steps, with the KV cache as input and output."""

    def prepare(self) -> bool:
        """Write the graph, quantized for int8."""
        self._file = self.folder.parent / f"onnx-{self.variant}" / "model.onnx"
        if self._file.exists():
            return False
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name("part.onnx")
        export(self.folder, part)
        if self.variant == "int8":
            from onnx import TensorProto
            from onnxruntime.quantization import QuantType, quantize_dynamic

            # Signed activations and weights, one scale per column: ONNX Runtime's advice for VNNI.
            quantize_dynamic(part, self._file, weight_type=QuantType.QInt8, per_channel=True,
                             op_types_to_quantize=["MatMul", "Attention"],
                             # The tool does not infer shapes behind the fused attention.
                             extra_options={"DefaultTensorType": TensorProto.FLOAT})  # fmt: skip
            part.unlink()
        else:
            part.rename(self._file)
        return True

    def load(self) -> None:
        """Create the session."""
        import onnxruntime

        self._onnx = onnxruntime
        config = json.loads((self.folder / "config.json").read_text())
        self._heads, self._layers = config["n_head"], config["n_layer"]
        self._head_size = config["n_embd"] // config["n_head"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = protocol.THREADS
        self._session = onnxruntime.InferenceSession(
            str(self._file), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def decode(self, ids: np.ndarray, new: int) -> np.ndarray:
        """Greedy decoding; the argmax is part of the graph."""
        value = self._onnx.OrtValue.ortvalue_from_numpy
        rows, prompt = ids.shape
        empty = np.zeros((2, rows, self._heads, 0, self._head_size), np.float32)
        feed = {f"past_{i}": value(empty) for i in range(self._layers)}
        feed["ids"] = value(ids.astype(np.int64))
        feed["positions"] = value(np.arange(prompt)[None].astype(np.int64))
        found = []
        for step in range(new):
            token, *cache = self._session.run_with_ort_values(self._outputs, feed)
            found.append(token.numpy())  # [B, 1]
            feed = {f"past_{i}": present for i, present in enumerate(cache)}
            feed["ids"], feed["positions"] = token, value(np.array([[prompt + step]]))
        return np.concatenate(found, axis=1)


class Graph:
    """Collects nodes and weights under generated names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        """Add a constant."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **fields: Any
    ) -> Any:
        """Add an operation and return the names of its outputs."""
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **fields))
        return names[0] if outputs == 1 else names


def export(folder: Path, target: Path) -> None:
    """Write the checkpoint as an ONNX graph with ONNX Runtime's fused attention."""
    import onnx
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tensors = {
        key.removeprefix("transformer."): value
        for key, value in load_file(folder / "model.safetensors").items()
    }
    graph, heads = Graph(), config["n_head"]
    for name, value in tensors.items():
        graph.weight(name, value)
    table = graph.weight("output", tensors["wte.weight"].T)  # [D, V]

    def norm(x: str, name: str) -> str:
        return graph.node("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1,
                          epsilon=config["layer_norm_epsilon"])  # fmt: skip

    def linear(x: str, name: str) -> str:
        return graph.node("Add", graph.node("MatMul", x, f"{name}.weight"), f"{name}.bias")

    x = graph.node("Add", graph.node("Gather", "wte.weight", "ids"),
                   graph.node("Gather", "wpe.weight", "positions"))  # [B, T, D]  # fmt: skip
    presents = []
    for number in range(config["n_layer"]):
        block = f"h.{number}"
        y, present = graph.node(
            "Attention", norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn.weight",
            f"{block}.attn.c_attn.bias", "", f"past_{number}", outputs=2,
            domain="com.microsoft", num_heads=heads, unidirectional=1,
        )  # fmt: skip
        presents.append(present)
        x = graph.node("Add", x, linear(y, f"{block}.attn.c_proj"))
        y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        y = graph.node("FastGelu", y, domain="com.microsoft")  # tanh approximation, as in GPT-2
        x = graph.node("Add", x, linear(y, f"{block}.mlp.c_proj"))
    last = graph.node("Gather", norm(x, "ln_f"), graph.weight("last", np.array([-1])), axis=1)
    logits = graph.node("MatMul", last, table)  # [B, 1, V]
    token = graph.node("ArgMax", logits, axis=-1, keepdims=0)  # [B, 1]
    cache = [2, "B", heads, "S", config["n_embd"] // heads]
    info = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "gpt2",
            [
                info("ids", TensorProto.INT64, ["B", "T"]),
                info("positions", TensorProto.INT64, [1, "T"]),
            ]
            + [info(f"past_{i}", TensorProto.FLOAT, cache) for i in range(config["n_layer"])],
            [info(token, TensorProto.INT64, ["B", 1])]
            + [info(name, TensorProto.FLOAT, cache[:3] + ["S2"] + cache[4:]) for name in presents],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    onnx.save(model, target)


if __name__ == "__main__":
    protocol.serve(OnnxRuntime, ["onnxruntime"])
