"""Creates the checkpoints in this folder with the original libraries.

Each library needs its own environment; run this once in each, with the library's name:

    python make_formats.py torch      # torch, transformers 4.57
    TF_USE_LEGACY_KERAS=1 python make_formats.py tf    # tensorflow, tf-keras, transformers 4.57
    python make_formats.py tf_old     # tensorflow 2.13, transformers 4.30
    python make_formats.py flax       # flax, jax, transformers 4.57
    python make_formats.py tf1        # tensorflow (its `tf.compat.v1`, as OpenAI's code uses it)
    python make_formats.py keras_hub  # keras-hub
    python make_formats.py keras_nlp_old  # keras-nlp 0.12, keras 3.3, tensorflow 2.16

The result is NAME.tar.xz: one directory per case with the checkpoint, the logits that the library
computes from it (`logits.npy`), and `versions.txt`.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import weights as model

HERE = Path(__file__).parent
WEIGHTS = model.weights()
IDS = np.asarray(model.IDS, np.int32)


def make_torch(folder: Path) -> str:
    """PyTorch: zip, legacy, sharded, 16-bit, and a model with an untied output matrix."""
    import torch
    import transformers

    def build(**options):
        config = transformers.GPT2Config(**model.CONFIG, **options)
        built = transformers.GPT2LMHeadModel(config).eval()
        state = {key: torch.tensor(WEIGHTS[key]) for key in built.state_dict() if key in WEIGHTS}
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["transformer.wte.weight"]
        built.load_state_dict(state)
        return built

    def save_logits(name, built):
        with torch.no_grad():
            np.save(folder / name / "logits.npy", built.float()(torch.tensor(IDS)).logits.numpy())

    built = build()
    for name, options in {"torch_zip": {}, "torch_sharded": {"max_shard_size": "4KB"}}.items():
        built.save_pretrained(folder / name, safe_serialization=False, **options)
        save_logits(name, built)
    for name in ("torch_legacy", "torch_base"):
        (folder / name).mkdir()
        built.config.save_pretrained(folder / name)
        state = built.state_dict()
        if name == "torch_base":  # a bare body with the buffers of old versions, other strides
            state = {
                k: v.t().contiguous().t() if v.ndim == 2 else v
                for k, v in built.transformer.state_dict().items()
            }
            size = model.CONFIG["n_positions"]
            state["h.0.attn.bias"] = torch.ones(size, size).tril().bool().view(1, 1, size, size)
            state["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        torch.save(
            state,
            folder / name / "pytorch_model.bin",
            _use_new_zipfile_serialization=name == "torch_base",
        )
        save_logits(name, built)
    untied = build(tie_word_embeddings=False)
    untied.save_pretrained(folder / "torch_untied", safe_serialization=False)
    save_logits("torch_untied", untied)
    for dtype in ("bfloat16", "float16"):
        built = build().to(getattr(torch, dtype))
        built.save_pretrained(folder / f"torch_{dtype}", safe_serialization=False)
        save_logits(f"torch_{dtype}", built)
    return f"torch {torch.__version__}, transformers {transformers.__version__}"


def make_tf(folder: Path, *, old: bool = False) -> str:
    """TensorFlow classes of transformers: every class, sharded, and as safetensors."""
    import tensorflow as tf
    import transformers

    def build(kind):
        config = transformers.GPT2Config(**model.CONFIG, num_labels=model.LABELS)
        built = getattr(transformers, kind)(config)
        built(tf.constant(IDS[:, None] if "Double" in kind else IDS))
        for variable in built.weights:
            variable.assign(_value_of_tf(variable.name, variable.shape))
        return built

    cases = {
        "tf_lm": ("TFGPT2LMHeadModel", {}),
        "tf_base": ("TFGPT2Model", {}),
        "tf_double_heads": ("TFGPT2DoubleHeadsModel", {}),
        "tf_classifier": ("TFGPT2ForSequenceClassification", {}),
    }
    if old:
        cases = {"tf_old_lm": cases["tf_lm"], "tf_old_base": cases["tf_base"]}
        cases["tf_old_sharded"] = ("TFGPT2LMHeadModel", {"max_shard_size": "6KB"})
    else:
        cases["tf_sharded"] = ("TFGPT2ForSequenceClassification", {"max_shard_size": "6KB"})
        cases["tf_safetensors"] = ("TFGPT2LMHeadModel", {"safe_serialization": True})
    for name, (kind, options) in cases.items():
        built = build(kind)
        built.save_pretrained(folder / name, **options)
        if "Double" in kind:
            output = built(tf.constant(IDS[:, None])).logits[:, 0]
        elif kind == "TFGPT2Model":
            output = built(tf.constant(IDS)).last_hidden_state
        else:
            output = built(tf.constant(IDS)).logits
        np.save(folder / name / "logits.npy", output.numpy())
    return f"tensorflow {tf.__version__}, transformers {transformers.__version__}"


def _value_of_tf(name: str, shape) -> np.ndarray:
    """Returns the value of a TensorFlow variable, independently of the code under test."""
    words = name.removesuffix(":0").split("/")
    for head in ("multiple_choice_head", "score", "transformer"):
        if head in words:
            words = words[len(words) - words[::-1].index(head) - 1 :]
    leaf = {"gamma": "weight", "beta": "bias", "embeddings": "weight", "kernel": "weight"}
    key = ".".join([*words[:-1], leaf.get(words[-1], words[-1])]).replace("h_._", "h.")
    value = WEIGHTS[key]
    return (value.T if words[-1] == "kernel" else value).reshape(shape)


def make_flax(folder: Path) -> str:
    """Flax classes of transformers."""
    import flax
    import jax.numpy as jnp
    import transformers
    from flax.traverse_util import flatten_dict, unflatten_dict

    built = transformers.FlaxGPT2LMHeadModel(transformers.GPT2Config(**model.CONFIG))
    state = {}
    for path in flatten_dict(built.params):
        leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
        value = WEIGHTS[".".join([*path[:-1], leaf.get(path[-1], path[-1])])]
        state[path] = jnp.asarray(value.T if path[-1] == "kernel" else value)
    built.params = unflatten_dict(state)
    cases = {
        "flax": {},
        "flax_sharded": {"max_shard_size": "4KB"},
        "flax_safetensors": {"safe_serialization": True},
    }
    for name, options in cases.items():
        built.save_pretrained(folder / name, **options)
        np.save(folder / name / "logits.npy", np.asarray(built(IDS).logits))
    # Arrays above 2**30 bytes are written in pieces; here the limit is 200 bytes.
    flax.serialization.MAX_CHUNK_SIZE = 200
    built.params = built.to_bf16(built.params)
    built.save_pretrained(folder / "flax_chunked")
    return f"flax {flax.__version__}, transformers {transformers.__version__}"


def make_tf1(folder: Path) -> str:
    """OpenAI's format: TF1 variables under `model`, with Adam's slots as gpt-2-simple has them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    folder = folder / "tf1"
    folder.mkdir()
    with tf.Graph().as_default(), v1.Session() as session:
        made = {}
        with v1.variable_scope("model", use_resource=False):
            for key in model.shapes():
                words = key.removeprefix("transformer.").replace("h.", "h", 1).split(".")
                if words[0] in ("wte", "wpe"):
                    name, value = words[0], WEIGHTS[key]
                else:
                    norm = words[-2].startswith("ln_")
                    leaf = {"weight": "g" if norm else "w", "bias": "b"}[words[-1]]
                    name = "/".join([*words[:-1], leaf])
                    value = WEIGHTS[key][None] if leaf == "w" else WEIGHTS[key]
                made[name] = v1.get_variable(name, initializer=value)
        loss = tf.add_n([tf.reduce_sum(variable**2) for variable in made.values()])
        v1.get_variable("global_step", initializer=np.int64(7))
        v1.train.AdamOptimizer().minimize(loss)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model"), global_step=7)
    (folder / "model-7.meta").unlink()  # the graph; not needed to read the weights
    lines = 'model_checkpoint_path: "model-7"\nall_model_checkpoint_paths: "model-7"\n'
    (folder / "checkpoint").write_text(lines)
    names = {"vocab_size": "n_vocab", "n_positions": "n_ctx"}
    hparams = {names.get(k, k): v for k, v in model.CONFIG.items() if not k.endswith("token_id")}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "encoder.json").write_text(json.dumps(model.VOCABULARY))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(model.MERGES) + "\n")
    return f"tensorflow {tf.__version__}"


def make_keras_hub(folder: Path) -> str:
    """A KerasHub preset of a GPT2CausalLM with its tokenizer."""
    import keras
    import keras_hub
    from keras_hub.src.utils.transformers.convert_gpt2 import convert_weights

    class Loader:
        """The loader that KerasHub's converter of PyTorch checkpoints needs."""

        def port_weight(self, keras_variable, hf_weight_key, hook_fn=None):
            value = WEIGHTS[f"transformer.{hf_weight_key}"]
            keras_variable.assign(hook_fn(value, keras_variable.shape) if hook_fn else value)

    backbone = _backbone(keras_hub)
    convert_weights(backbone, Loader(), model.CONFIG)
    _save_preset(keras_hub, backbone, folder / "keras_hub")
    return f"keras-hub {keras_hub.__version__}, keras {keras.__version__}"


def make_keras_nlp_old(folder: Path) -> str:
    """A preset from the first version that wrote this kind."""
    import keras
    import keras_nlp

    backbone = _backbone(keras_nlp)
    backbone.token_embedding.embeddings.assign(WEIGHTS["transformer.wte.weight"])
    backbone.position_embedding.position_embeddings.assign(WEIGHTS["transformer.wpe.weight"])
    layers = {"ln_f": backbone.layer_norm}
    for i, block in enumerate(backbone.transformer_layers):
        attention = block._self_attention_layer
        names = ("query", "key", "value")
        dense = {name: getattr(attention, f"_{name}_dense") for name in names}
        for leaf, place in (("weight", "kernel"), ("bias", "bias")):
            parts = np.split(WEIGHTS[f"transformer.h.{i}.attn.c_attn.{leaf}"], 3, axis=-1)
            for name, part in zip(names, parts, strict=True):
                variable = getattr(dense[name], place)
                variable.assign(part.reshape(variable.shape))
        layers |= {
            f"h.{i}.ln_1": block._self_attention_layer_norm,
            f"h.{i}.ln_2": block._feedforward_layer_norm,
            f"h.{i}.attn.c_proj": attention._output_dense,
            f"h.{i}.mlp.c_fc": block._feedforward_intermediate_dense,
            f"h.{i}.mlp.c_proj": block._feedforward_output_dense,
        }
    for name, layer in layers.items():
        weight, bias = layer.weights
        weight.assign(WEIGHTS[f"transformer.{name}.weight"].reshape(weight.shape))
        bias.assign(WEIGHTS[f"transformer.{name}.bias"])
    _save_preset(keras_nlp, backbone, folder / "keras_nlp_old")
    return f"keras-nlp {keras_nlp.__version__}, keras {keras.__version__}"


def _backbone(library):
    """Returns a KerasHub backbone of the model's size."""
    size = model.CONFIG
    return library.models.GPT2Backbone(
        size["vocab_size"],
        size["n_layer"],
        size["n_head"],
        size["n_embd"],
        4 * size["n_embd"],
        max_sequence_length=size["n_positions"],
    )


def _save_preset(library, backbone, folder: Path) -> None:
    """Saves a task with its tokenizer, and its logits."""
    kinds = library.models
    tokenizer = kinds.GPT2Tokenizer(vocabulary=model.VOCABULARY, merges=model.MERGES)
    task = kinds.GPT2CausalLM(
        backbone, preprocessor=kinds.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    )
    task.save_to_preset(str(folder))
    logits = task({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
    np.save(folder / "logits.npy", np.asarray(logits))


def main(name: str) -> None:
    """Creates the cases of one library and packs them."""
    makers = {
        "torch": make_torch,
        "tf": make_tf,
        "tf_old": lambda folder: make_tf(folder, old=True),
        "flax": make_flax,
        "tf1": make_tf1,
        "keras_hub": make_keras_hub,
        "keras_nlp_old": make_keras_nlp_old,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        versions = makers[name](folder)
        for case in folder.iterdir():
            (case / "versions.txt").write_text(versions + "\n")
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
            for path in sorted(folder.rglob("*")):
                archive.add(path, path.relative_to(folder), recursive=False, filter=_plain)
    print(f"{name}: {(HERE / f'{name}.tar.xz').stat().st_size} bytes, {versions}")


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Removes owner and time from an archive member."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


if __name__ == "__main__":
    main(sys.argv[1])
