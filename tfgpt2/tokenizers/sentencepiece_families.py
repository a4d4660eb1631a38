"""The families whose vocabulary is a SentencePiece model, Unigram or BPE.

They differ in what happens to a text first, and in the special tokens around it; each is named
after its class of transformers. Added tokens inside a text are cut out first, and each part of the
text between them is encoded alone, as `sentencepiece` encodes it.

The kernel is that of TF Text: its ids are those of the `sentencepiece` library up to 0.2.1. From
0.2.2 on the library rounds the sums of scores otherwise, and where two choices of pieces are
equally likely up to rounding, which happens in long texts, it may make the other one. Encoding each
word alone, and once, would be faster, but rounds otherwise than either.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow as tf
import tokenizers

from tfgpt2.errors import value_error
from tfgpt2.tokenizers import sentencepiece_json, sentencepiece_model, text_rules
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.base import SETTINGS, TokenizerSpec
from tfgpt2.tokenizers.json_values import get_value
from tfgpt2.tokenizers.sentencepiece import SentencepieceModel
from tfgpt2.tokenizers.sentencepiece_graph import SentencePieceGraph
from tfgpt2.tokenizers.sentencepiece_host import Encoding, SentencePieceHost
from tfgpt2.tokenizers.sentencepiece_model import SPACE, Kind, ModelProto
from tfgpt2.tokenizers.template import Template

FILES = ("spiece.model", "tokenizer.model")
_MAX_EXTRA_IDS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceSpec(TokenizerSpec):
    """A tokenizer that is a SentencePiece model, and nothing more.

    Attributes:
        model: The serialized model, the contents of `spiece.model`.
        do_lower_case: Whether each character is lower-cased first.
    """

    tokenizer_class = "BertGenerationTokenizer"
    known_files = tuple((name,) for name in FILES)
    has_tokenizer_json = False
    settings = ("do_lower_case", *SETTINGS)
    default_roles: ClassVar[Mapping[str, str]] = {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "<::::>",
    }  # fmt: skip

    model: bytes = dataclasses.field(repr=False)
    do_lower_case: bool = False

    @classmethod
    def create(
        cls,
        vocab: Mapping[str, int] | None = None,
        *,
        model: bytes | str,
        roles: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> SentencePieceSpec:
        """Returns a checked specification, see `TokenizerSpec.create`.

        Args:
            vocab: None, or that of the model.
            model: The serialized model, or the same in Base64.
            roles: See `TokenizerSpec.create`; the default of `unk_token` is the unknown piece.
            **fields: See `TokenizerSpec.create`.

        Raises:
            ValueError: The model is damaged, or not the one of `vocab`.
        """
        model = _decode(model) if isinstance(model, str) else bytes(model)
        pieces = sentencepiece_model.parse_model(model, "model").pieces
        tokens = {piece.piece: index for index, piece in enumerate(pieces)}
        if vocab is not None and dict(vocab) != tokens:
            raise value_error(
                "`vocab` is not the vocabulary of the SentencePiece model.",
                fix="Pass None: `model` holds it.",
                tokens=len(vocab),
                pieces=len(tokens),
            )
        unknown = next(piece.piece for piece in pieces if piece.type == Kind.UNKNOWN)
        roles = {"bos_token": None, "eos_token": None, "unk_token": unknown} | dict(roles or {})
        return super().create(tokens, model=model, roles=roles, **fields)

    def to_options(self) -> dict[str, Any]:
        """Returns the arguments of `from_options` that make an equal specification."""
        model = base64.b64encode(self.model).decode()
        return super().to_options() | {"vocab": None, "model": model}

    @classmethod
    def matches(cls, data: Mapping[str, Any]) -> bool:
        """Returns whether the contents of a `tokenizer.json` are of this family."""
        kind = (data.get("model") or {}).get("type")
        return kind == "Unigram" and sentencepiece_json.class_of(data) == cls.tokenizer_class

    @classmethod
    def fields_from_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the family's fields from the contents of a `tokenizer.json` of Unigram."""
        own = {field.name for field in dataclasses.fields(cls)}
        return {name: v for name, v in sentencepiece_json.read(data).items() if name in own}

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the family's fields from `spiece.model` or `tokenizer.model`."""
        path = _find_model(find)
        data = path.read_bytes()
        pieces = {p.piece for p in sentencepiece_model.parse_model(data, path.name).pieces}
        if get_value(config, "sp_model_kwargs", dict, {}).get("enable_sampling"):
            raise value_error(
                "`sp_model_kwargs` asks for a random choice of pieces, which is not supported.",
                fix="Remove `enable_sampling` from `tokenizer_config.json`.",
                sp_model_kwargs=config["sp_model_kwargs"],
            )
        # A default that is no piece would get an id that the model has no embedding for.
        roles = {
            role: token
            for role, token in cls.default_roles.items()
            if role not in config and token in pieces
        }
        return {"model": data, "roles": roles}

    @classmethod
    def fields_from_python(cls, tokenizer: Any) -> dict[str, Any] | None:
        """Returns the fields of a slow tokenizer of transformers with a SentencePiece model."""
        names = (cls.tokenizer_class, *cls.same_classes)
        if not hasattr(tokenizer, "sp_model") or type(tokenizer).__name__ not in names:
            return None
        return {"model": tokenizer.sp_model.serialized_model_proto()}

    def vocabulary_files(self) -> dict[str, str | bytes]:
        """Returns `spiece.model`: name to contents."""
        return {FILES[0]: self.model}

    @property
    def proto(self) -> ModelProto:
        """The model as data."""
        return sentencepiece_model.parse_model(self.model, "model")

    @functools.cached_property
    def kernel(self) -> SentencepieceModel:
        """The model in TF Text."""
        with tf.init_scope():
            return SentencepieceModel(self.model)

    @functools.cached_property
    def unknown_id(self) -> int:
        """The id of the unknown piece."""
        return next(i for i, piece in enumerate(self.proto.pieces) if piece.type == Kind.UNKNOWN)

    @functools.cached_property
    def _piece_bytes(self) -> dict[str, bytes]:
        texts = sentencepiece_model.piece_bytes(self.proto)
        return dict(zip((piece.piece for piece in self.proto.pieces), texts, strict=True))

    def token_to_bytes(self, token: str) -> bytes:
        """Returns the bytes that a piece writes after other text."""
        return self._piece_bytes[token]

    def added_to_bytes(self, token: AddedToken) -> bytes:
        """Returns the content; of the unknown token, what SentencePiece writes for it."""
        is_unknown = token.id == self.unknown_id
        return self._piece_bytes[token.content] if is_unknown else token.content.encode()

    @property
    def strips_first_space(self) -> bool:
        """Whether a whole text does not begin with the space that its first token writes."""
        spec = self.proto.normalizer_spec
        return spec.add_dummy_prefix or spec.remove_extra_whitespaces

    @property
    def strips_all_spaces(self) -> bool:
        """Whether that goes for every token at the beginning that writes just a space."""
        return self.proto.normalizer_spec.remove_extra_whitespaces

    @functools.cached_property
    def first_bytes(self) -> list[bytes]:
        """The bytes of each id at the beginning of a text."""
        table = list(self.token_bytes)
        for index, piece in enumerate(self.proto.pieces):
            if piece.type in (Kind.NORMAL, Kind.USER_DEFINED) and piece.piece.startswith(SPACE):
                table[index] = table[index][int(self.strips_first_space) :]
        return table

    def text_of(self, ids: Iterable[int]) -> str:
        """Returns a whole text from its ids, as SentencePiece decodes it."""
        pieces, begins = [], True
        for index in ids:
            pieces.append((self.first_bytes if begins else self.token_bytes)[index])
            written = pieces[-1] if self.strips_all_spaces else self.token_bytes[index]
            begins = begins and not written
        return b"".join(pieces).decode("utf-8", errors="replace")

    def rules(self) -> list[text_rules.Rule]:
        """Returns what happens to a text before SentencePiece sees it, in order."""
        return [text_rules.lower_characters()] if self.do_lower_case else []

    def expansions(self) -> dict[int, list[int]]:
        """Returns the ids that take the place of some ids."""
        return {}

    def build_graph(self, split: Sequence[AddedToken]) -> SentencePieceGraph:
        """Returns the operations in the graph."""
        return SentencePieceGraph(
            SentencepieceModel(self.model),
            self.token_bytes,
            self.first_bytes,
            self.special_ids,
            split,
            rules=[rule.graph for rule in self.rules()],
            expansions=self.expansions(),
            strips_all_spaces=self.strips_all_spaces,
        )

    def pipeline(self) -> tokenizers.Tokenizer:
        """Returns a tokenizer that cuts out added tokens, and takes what is between for one token.

        The `tokenizers` library has no exact SentencePiece: see `encode_on_host`.
        """
        added = {token.id: token.content for token in self.added}
        vocab = {added.get(i, f"\0{i}"): i for i in range(len(self.vocab))}
        between = next(token for token in vocab if token.startswith("\0"))
        return tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=between))

    def encode_on_host(self, backend: tokenizers.Tokenizer, texts: list[str]) -> list[Encoding]:
        """Returns ids, tokens and offsets of texts without the special tokens around them."""
        return self._host.encode(backend, texts)

    @functools.cached_property
    def _host(self) -> SentencePieceHost:
        tokens = {token_id: token for token, token_id in self.tokens.items()}
        added = [token.id for token in self.split_off]
        return SentencePieceHost(self.kernel, tokens, added, self.rules(), self.expansions())


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Spec(SentencePieceSpec):
    """The conventions of T5: `eos_token` after each text."""

    tokenizer_class = "T5Tokenizer"
    same_classes = ("MT5Tokenizer",)
    default_roles = {"eos_token": "</s>", "pad_token": "<pad>"}

    @property
    def text_template(self) -> Template:
        """The special tokens around texts."""
        eos = self.roles.get("eos_token")
        return Template(suffix=(eos,)) if eos else self.template

    def class_config(self) -> dict[str, Any]:
        """Returns what else transformers' class needs: by default it adds 100 tokens."""
        extra = sum(token.content.startswith("<extra_id_") for token in self.added)
        return {"extra_ids": extra, "legacy": True}

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the family's fields from `spiece.model`, and the tokens `<extra_id_0>`..."""
        if config.get("legacy") is False:
            raise value_error(
                "`legacy=False` makes another tokenizer of a T5 vocabulary, which is not"
                " supported.",
                fix="Tokenize with transformers, and pass its `input_ids` to the model.",
                legacy=False,
            )
        fields = super().fields_from_files(find, config)
        count = get_value(config, "extra_ids", int, 0)
        if not 0 <= count <= _MAX_EXTRA_IDS:
            raise value_error(
                f"`extra_ids` must be from 0 to {_MAX_EXTRA_IDS:,}.",
                fix="Check `tokenizer_config.json`.",
                extra_ids=count,
            )
        last = len(sentencepiece_model.parse_model(fields["model"], "model").pieces) + count - 1
        names, described = {f"<extra_id_{i}>": last - i for i in range(count)}, _described(config)
        extra = [
            AddedToken(name, token_id, special=True, lstrip=True, rstrip=True)
            for name, token_id in names.items()
            if name not in described
        ]
        return fields | {"added": extra}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlbertSpec(SentencePieceSpec):
    """The conventions of Albert: cleaned texts, `cls_token` before and `sep_token` after each.

    Attributes:
        remove_space: Whether each run of white space becomes one space first.
        keep_accents: Whether accents stay; else characters are decomposed (NFKD), and marks go.
    """

    tokenizer_class = "AlbertTokenizer"
    settings = ("remove_space", "keep_accents", *SentencePieceSpec.settings)
    default_roles = {
        "bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "cls_token": "[CLS]",
        "pad_token": "<pad>", "mask_token": "[MASK]",
    }  # fmt: skip

    do_lower_case: bool = True
    remove_space: bool = True
    keep_accents: bool = False

    @property
    def text_template(self) -> Template:
        """The special tokens around texts."""
        first, last = (self.roles.get(role) for role in ("cls_token", "sep_token"))
        return Template(tuple(filter(None, [first])), tuple(filter(None, [last])))

    @classmethod
    def fields_from_files(
        cls, find: Callable[[str], Path], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the family's fields from `spiece.model`; `mask_token` takes the space before."""
        fields = super().fields_from_files(find, config)
        mask = config.get("mask_token", fields["roles"].get("mask_token"))
        pieces = sentencepiece_model.parse_model(fields["model"], "model").pieces
        found = [index for index, piece in enumerate(pieces) if piece.piece == mask]
        if found and mask not in _described(config):
            fields["added"] = [AddedToken(mask, found[0], special=True, lstrip=True)]
        return fields

    def rules(self) -> list[text_rules.Rule]:
        """Returns what happens to a text before SentencePiece sees it, in order."""
        rules = super().rules()
        if self.remove_space:
            rules.append(text_rules.single_spaces())
        rules.append(text_rules.straight_quotes())
        if not self.keep_accents:
            # Decomposing makes capitals of letters that have no lower case, such as "ℂ".
            rules += [text_rules.without_accents(), *super().rules()]
        return rules

    def expansions(self) -> dict[int, list[int]]:
        """Returns the ids of pieces that end in a digit and a comma, which is split off."""
        return {
            index: self._split_comma(piece.piece)
            for index, piece in enumerate(self.proto.pieces)
            if piece.type == Kind.NORMAL and piece.piece[-1] == "," and piece.piece[-2:-1].isdigit()
        }

    def _split_comma(self, piece: str) -> list[int]:
        """Returns the ids of a piece without its comma, encoded anew, and of the comma.

        Source:
            `_tokenize` of transformers 4, `tokenization_albert.py`.
        """
        text = tf.constant([piece[:-1].replace(SPACE, "")])
        ids = self.kernel.tokenize(text).values.numpy().tolist()
        first = self.proto.pieces[ids[0]].piece
        if not piece.startswith(SPACE) and first.startswith(SPACE):
            first = first.removeprefix(SPACE)
            ids[:1] = [self.vocab.get(first, self.unknown_id)] if first else []
        return [*ids, self.vocab.get(",", self.unknown_id)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTSw3Spec(SentencePieceSpec):
    """The conventions of GPT-SW3: printable characters, plain spaces, composed (NFC)."""

    tokenizer_class = "GPTSw3Tokenizer"
    default_roles = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}

    def rules(self) -> list[text_rules.Rule]:
        """Returns what happens to a text before SentencePiece sees it, in order."""
        return [*super().rules(), text_rules.printable(), text_rules.composed()]


def _find_model(find: Callable[[str], Path]) -> Path:
    """Returns the first of `FILES` that is there."""
    for name in FILES[:-1]:
        try:
            return find(name)
        except FileNotFoundError:
            pass
    return find(FILES[-1])


def _described(config: Mapping[str, Any]) -> set[str]:
    """Returns the added tokens that `tokenizer_config.json` describes."""
    tokens = get_value(config, "added_tokens_decoder", dict, {}).values()
    return {token.get("content") for token in tokens if isinstance(token, dict)}


def _decode(model: str) -> bytes:
    try:
        return base64.b64decode(model, validate=True)
    except binascii.Error as error:
        raise value_error(
            "`model` must be a serialized SentencePiece model, or the same in Base64.",
            fix="Pass the contents of `spiece.model`.",
            model=model,
        ) from error
