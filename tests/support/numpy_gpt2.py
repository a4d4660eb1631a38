"""The slow twin of the models: GPT-2's forward pass in numpy and float64, written from the paper.

It shares no code with the package and takes a checkpoint's tensors by their names.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def _tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu(x):
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), -10, 10),
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_python_tanh": _tanh_gelu,
    "gelu_accurate": _tanh_gelu,
    "laplace": lambda x: 0.5 * (1 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


class NumpyGPT2:
    """GPT-2 with a language-modeling head, one token and one head at a time."""

    def __init__(self, config, weights):
        self.c = {"n_inner": None, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
        self.c |= {"scale_attn_weights": True, "tie_word_embeddings": True} | config
        self.w = {key: value.astype(np.float64) for key, value in weights.items()}
        self.act = ACTIVATIONS[self.c["activation_function"]]

    def norm(self, key, x):
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.c["layer_norm_epsilon"])
        return centred / scale * self.w[f"{key}.weight"] + self.w[f"{key}.bias"]

    def affine(self, key, x):
        return x @ self.w[f"{key}.weight"] + self.w[f"{key}.bias"]

    def attention(self, key, layer, query, keys, values, visible, head_mask):
        """`[B, T, D]`, `[B, S, D]` and bool `[B, T, S]` -> `[B, T, D]` and `[B, N, T, S]`."""
        heads, size = self.c["n_head"], self.c["n_embd"] // self.c["n_head"]
        scale = size**-0.5 if self.c["scale_attn_weights"] else 1.0
        if self.c.get("scale_attn_by_inverse_layer_idx"):
            scale /= layer + 1
        context, weights = np.zeros_like(query), []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.einsum("btd,bsd->bts", query[..., part], keys[..., part]) * scale
            probability = softmax(np.where(visible, scores, -1e9)) * head_mask[h]
            weights.append(probability)
            context[..., part] = np.einsum("bts,bsd->btd", probability, values[..., part])
        return self.affine(f"{key}.c_proj", context), np.stack(weights, 1)

    def __call__(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        inputs_embeds=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past=None,
    ):
        """Returns the results by name; `past` is a list of (keys, values), each `[B, S, D]`."""
        w, layers = self.w, self.c["n_layer"]
        x = w["transformer.wte.weight"][input_ids] if inputs_embeds is None else inputs_embeds
        rows, length = x.shape[:2]
        before = 0 if past is None else past[0][0].shape[1]
        if position_ids is None:
            position_ids = np.arange(before, before + length)[None]
        x = x + w["transformer.wpe.weight"][position_ids]
        if token_type_ids is not None:
            x = x + w["transformer.wte.weight"][token_type_ids]
        visible = np.tril(np.ones((length, before + length), bool), before)[None]
        if attention_mask is not None:
            visible = visible & (attention_mask[:, None, :] > 0)
        if head_mask is None:
            head_mask = np.ones((layers, self.c["n_head"]))
        out = {"hidden_states": [x], "attentions": [], "cross_attentions": [], "past": []}
        for i in range(layers):
            key = f"transformer.h.{i}"
            q, k, v = np.split(
                self.affine(f"{key}.attn.c_attn", self.norm(f"{key}.ln_1", x)), 3, -1
            )
            if past is not None:
                k, v = np.concatenate([past[i][0], k], 1), np.concatenate([past[i][1], v], 1)
            out["past"].append((k, v))
            y, weights = self.attention(f"{key}.attn", i, q, k, v, visible, head_mask[i])
            x = x + y
            out["attentions"].append(weights)
            if encoder_hidden_states is not None:
                mask = np.ones((rows, length, encoder_hidden_states.shape[1]), bool)
                if encoder_attention_mask is not None:
                    given = encoder_attention_mask > 0
                    mask &= given if given.ndim == 3 else given[:, None]
                q = self.affine(
                    f"{key}.crossattention.q_attn", self.norm(f"{key}.ln_cross_attn", x)
                )
                k, v = np.split(
                    self.affine(f"{key}.crossattention.c_attn", encoder_hidden_states), 2, -1
                )
                y, weights = self.attention(f"{key}.crossattention", i, q, k, v, mask, head_mask[i])
                x = x + y
                out["cross_attentions"].append(weights)
            inner = self.affine(f"{key}.mlp.c_fc", self.norm(f"{key}.ln_2", x))
            x = x + self.affine(f"{key}.mlp.c_proj", self.act(inner))
            out["hidden_states"].append(x)
        out["hidden_states"][-1] = x = self.norm("transformer.ln_f", x)
        head = "transformer.wte" if self.c["tie_word_embeddings"] else "lm_head"
        out["logits"] = x @ w[f"{head}.weight"].T
        return out

    def loss(self, logits, labels):
        """Mean nats of each next label that is not -100."""
        total = [
            -np.log(softmax(logits[b, t])[labels[b, t + 1]])
            for b, t in np.ndindex(logits.shape[0], logits.shape[1] - 1)
            if labels[b, t + 1] != -100
        ]
        return sum(total) / len(total)

    def split_heads(self, x):
        """`[B, S, D]` -> `[B, N, S, H]`, the shape of a cache."""
        return x.reshape(*x.shape[:2], self.c["n_head"], -1).transpose(0, 2, 1, 3)
