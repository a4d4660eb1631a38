"""Damaged tokenizer files and settings: an explained error, or a tokenizer that is right.

What loads gives the same ids in the graph and on the host, and those of `tokenizers` where it loads
the same `tokenizer.json`; saved and loaded again, it is the same.
"""

import json
import subprocess
import sys

import pytest
import tokenizers

from tests.support import mutated_tokenizers
from tests.support.paths import ROOT

CASES = ("pair", "whole", "version_5")
SENTENCES = ["Speak the speech, I pray you, as I pronounced it to you, trippingly on the tongue."]


def write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A folder with an undamaged tokenizer of each case."""
    root = tmp_path_factory.mktemp("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    size = backend.get_vocab_size()
    model = json.loads(backend.to_str())["model"]
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    token = {"content": "[PAD]", "lstrip": False, "rstrip": False, "normalized": False}
    template = {"chat_template.jinja": "{% for message in messages %}{{ message }}{% endfor %}"}
    write(
        root / "pair",
        {
            "vocab.json": model["vocab"],
            "merges.txt": "#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])) + "\n",
            "special_tokens_map.json": roles | {"pad_token": token},
            "added_tokens.json": {"[PAD]": size, "<x>": size + 1},
            "tokenizer_config.json": roles
            | {"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer",
               "padding_side": "right", "add_prefix_space": False, "chat_template": "{{ a }}",
               "added_tokens_decoder": {str(size): token | {"special": True}}},
        },
    )  # fmt: skip
    backend.add_special_tokens([tokenizers.AddedToken("[PAD]", rstrip=True)])
    backend.add_tokens([tokenizers.AddedToken("<x>", single_word=True, lstrip=True)])
    backend.post_processor = tokenizers.processors.Sequence(
        [
            tokenizers.processors.ByteLevel(trim_offsets=True),
            tokenizers.processors.TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
            ),
        ]
    )
    config = roles | {"additional_special_tokens": ["<x>"], "tokenizer_class": "GPT2Tokenizer"}
    write(root / "whole", {"tokenizer.json": backend.to_str(), "tokenizer_config.json": config}
          | template)  # fmt: skip
    backend.add_special_tokens(["<image>"])
    config = roles | {"extra_special_tokens": ["<x>"], "image_token": "<image>", "backend": "tok",
                      "model_specific_special_tokens": {"image_token": "<image>"},
                      "model_max_length": 10**30,
                      "tokenizer_class": "TokenizersBackend"}  # fmt: skip
    write(root / "version_5", {"tokenizer.json": backend.to_str(), "tokenizer_config.json": config}
          | template)  # fmt: skip
    return root


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_damaged_tokenizers(seed, folders, count, amount):
    number, seed = amount(4 if seed == 0 else 24), 1000 * amount(1) + seed
    command = [sys.executable, "-m", mutated_tokenizers.__name__, folders, seed, number, *CASES]
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, timeout=3600, cwd=ROOT
    )
    assert done.returncode == 0, f"seed {seed}: the process died\n{done.stderr[-2000:]}"
    found = dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))
    for case, of_case in found.items():
        assert sum(of_case["results"].values()) == number
        count(f"damaged tokenizer, {case}, refused", of_case["results"].get("refused", 0))
        count(f"damaged tokenizer, {case}, loaded", of_case["results"].get("loaded", 0))
    wrong = [line for of_case in found.values() for line in of_case["wrong"]]
    assert not wrong, "\n".join(map(str, wrong))
