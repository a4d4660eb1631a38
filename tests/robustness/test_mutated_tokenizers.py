"""Damaged tokenizer files and settings: an explained error, or a tokenizer that is right.

What loads gives the same ids in the graph and on the host, and those of `tokenizers` where it loads
the same `tokenizer.json`; saved and loaded again, it is the same.
"""

import io
import json
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers

from tests.support import mutated_tokenizers
from tests.support.paths import ROOT

FAMILIES = ("word_piece", "vocab_txt", "word_level", "character_bpe", "unigram", "spiece")
CASES = ("pair", "whole", "version_5", *FAMILIES)
SENTENCES = ["Speak the speech, I pray you, as I pronounced it to you, trippingly on the tongue."]


PIECES = (
    "[PAD] [UNK] [CLS] [SEP] the spe ##ech ##ak ##s , i pray a b é z ##z < > | x 日 [ ]".split()
)


def write(folder, contents):
    folder.mkdir()
    for name, content in contents.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
            continue
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


def write_families(root):
    """Writes a small tokenizer of each family other than byte-level BPE."""
    models, before, after = tokenizers.models, tokenizers.pre_tokenizers, tokenizers.processors
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    bert = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    word_piece = tokenizers.Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    word_piece.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    word_piece.pre_tokenizer, word_piece.decoder = (
        before.BertPreTokenizer(), tokenizers.decoders.WordPiece()
    )  # fmt: skip
    word_piece.post_processor = after.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    word_piece.add_special_tokens([*PIECES[:4], "<x>"])
    words = ["<unk>", "Speak", "the", "speech", ",", "I", "pray", "a", "b", "é"]
    word_level = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    word_level.pre_tokenizer = before.Whitespace()
    word_level.add_special_tokens(["<unk>", "<x>"])
    character_bpe = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    character_bpe.pre_tokenizer = before.Metaspace()
    character_bpe.decoder = tokenizers.decoders.Metaspace()
    character_bpe.train_from_iterator(
        SENTENCES, tokenizers.trainers.BpeTrainer(
            vocab_size=50, special_tokens=["<unk>"], show_progress=False
        ),
    )  # fmt: skip
    character_bpe.add_tokens(["<x>"])
    scores = dict.fromkeys(["<unk>", "<s>", "</s>"], 0.0) | {"▁": -2.0, "▁the": -1.0, "▁Sp": -1.5}
    scores |= dict.fromkeys("abcdefghijklmnopqrstuvwxyz<>|.,Sé", -3.0)
    unigram = tokenizers.Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    unigram.pre_tokenizer, unigram.decoder = before.Metaspace(), tokenizers.decoders.Metaspace()
    unigram.add_special_tokens(["<s>", "</s>", "<x>"])
    unigram.post_processor = after.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=trained, vocab_size=60,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    contents = {
        "word_piece": {"tokenizer.json": word_piece.to_str()},
        "vocab_txt": {"vocab.txt": "\n".join(PIECES) + "\n"},
        "word_level": {"tokenizer.json": word_level.to_str()},
        "character_bpe": {"tokenizer.json": character_bpe.to_str()},
        "unigram": {"tokenizer.json": unigram.to_str()},
        "spiece": {"spiece.model": trained.getvalue()},
    }
    configs = {
        "word_piece": fast | bert,
        "vocab_txt": bert | {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "unigram": fast | {"bos_token": "<s>", "eos_token": "</s>"},
        "spiece": {"tokenizer_class": "T5Tokenizer", "unk_token": "<unk>", "eos_token": "</s>"},
    }
    for name in FAMILIES:
        write(root / name, contents[name] | {"tokenizer_config.json": configs.get(name, fast)})


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
    write_families(root)
    return root


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_damaged_tokenizers(seed, folders, count, amount):
    number, seed = amount(4 if seed == 0 else 24), 1000 * amount(1) + seed
    command = [sys.executable, "-m", mutated_tokenizers.__name__, folders, seed, number, *CASES]
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, timeout=900 * amount(1), cwd=ROOT
    )
    assert done.returncode == 0, f"seed {seed}: the process died\n{done.stderr[-2000:]}"
    found = dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))
    for case, of_case in found.items():
        assert sum(of_case["results"].values()) == number
        count(f"damaged tokenizer, {case}, refused", of_case["results"].get("refused", 0))
        count(f"damaged tokenizer, {case}, loaded", of_case["results"].get("loaded", 0))
    wrong = [line for of_case in found.values() for line in of_case["wrong"]]
    assert not wrong, "\n".join(map(str, wrong))
