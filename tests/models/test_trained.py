"""gpt_nano_sort: every sub-step against activations recorded upstream; and it sorts."""

import base64
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tfgpt2 import TFGPT2LMHeadModel
from tfgpt2.nn.attention import merge_heads, split_heads


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "checkpoints" / "gpt_nano_sort"


@pytest.fixture(scope="module")
def model(folder):
    return TFGPT2LMHeadModel.from_pretrained(folder)


def test_every_sub_step(folder, model, record_difference):
    recorded = {}
    for name, entry in json.loads((folder / "gpt-nano-sort-t0-partials.json").read_text()).items():
        if "data" in entry:
            values = np.frombuffer(base64.b64decode(entry["data"]), np.float32)
            recorded[name] = values.reshape(entry["shape"])
    ids = tf.constant(recorded["idx"], tf.int32)
    out = model(ids, output_hidden_states=True, output_attentions=True)
    body, block = model.transformer, model.transformer.h[0]
    steps = {"tok_emb": body.wte(ids), "pos_emb": body.wpe(tf.range(ids.shape[1]))[None]}
    steps["x"] = steps["tok_emb"] + steps["pos_emb"]
    steps["ln1"] = block.ln_1(steps["x"])
    steps["qkv"] = block.attn.c_attn(steps["ln1"])
    query, key, value = tf.split(steps["qkv"], 3, axis=-1)
    steps |= {n: split_heads(v, 3) for n, v in (("q", query), ("k", key), ("v", value))}
    steps["attSm"] = out.attentions[0]
    steps["y"] = merge_heads(tf.matmul(steps["attSm"], steps["v"]))
    steps["yProj"] = block.attn.c_proj(steps["y"])
    steps["attnResid"] = steps["x"] + steps["yProj"]
    steps["ln2"] = block.ln_2(steps["attnResid"])
    steps["fc"] = block.mlp.c_fc(steps["ln2"])
    steps["gelu"] = block.mlp.act(steps["fc"])
    steps["mlp"] = block.mlp.c_proj(steps["gelu"])
    steps["mlpResid"] = steps["attnResid"] + steps["mlp"]
    steps["block0"], steps["block1"] = out.hidden_states[1:3]
    steps["ln_f"] = out.hidden_states[-1]
    steps["block2"] = steps["block1"] + 0  # the model shows the last block after ln_f only
    attended, *_ = body.h[2](steps["block1"], visible=_causal(ids.shape[1]))
    steps["block2"] = attended
    steps["lm_head"], steps["probs"] = out.logits, tf.nn.softmax(out.logits)
    score = tf.matmul(steps["q"], steps["k"], transpose_b=True) / 4.0
    steps["att"] = tf.where(_causal(ids.shape[1]), score, -np.inf)
    assert recorded.keys() - {"idx"} == steps.keys()
    for name, ours in steps.items():
        ours, theirs = np.broadcast_arrays(np.asarray(ours), recorded[name])
        finite = np.isfinite(theirs)
        assert (finite == np.isfinite(ours)).all(), name
        difference = np.abs(ours[finite] - theirs[finite]).max()
        record_difference("upstream's sub-steps of gpt_nano_sort", difference)
        assert difference < 1e-4, name


def _causal(length):
    return tf.linalg.band_part(tf.ones([1, 1, length, length], tf.bool), -1, 0)


def test_it_sorts(model):
    problems = np.array(list(itertools.product(range(3), repeat=6)))  # all 729
    ids = problems
    for _ in range(6):
        ids = np.concatenate([ids, np.argmax(model(ids).logits[:, -1:], -1)], axis=1)
    right = (ids[:, 6:] == np.sort(problems, axis=1)).all(axis=1).mean()
    assert right > 0.99
