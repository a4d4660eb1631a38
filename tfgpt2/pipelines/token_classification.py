"""The pipeline "token-classification", also called "ner"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgpt2.models.task_heads import TFGPT2ForTokenClassification
from tfgpt2.pipelines.base import Pipeline, check_text, softmax
from tfgpt2.validation import check_choice

_STRATEGIES = ("none", "simple", "first", "average", "max")
Entity = dict[str, Any]


class TokenClassificationPipeline(Pipeline):
    """Labels the tokens of texts.

    Returns, for each text, a list of dicts: `entity`, `score`, `index`, `word`, `start` and `end`
    of each token; or, with an `aggregation_strategy`, `entity_group`, `score`, `word`, `start` and
    `end` of each group.

    Source: transformers 4.57, `pipelines/token_classification.py` (behaviour).
    """

    task = "token-classification"
    model_class = TFGPT2ForTokenClassification

    def run(
        self,
        one: str,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
    ) -> list[Entity]:
        """Labels the tokens of one text.

        Args:
            one: The text.
            aggregation_strategy: `"none"`; `"simple"` joins neighbours of one label; `"first"`,
                `"average"` and `"max"` label words before, by their first token, by the average of
                their tokens, or by the token with the highest score.
            ignore_labels: Labels that are left out.
            stride: Tokens that parts of a long text share; without it, the text is cut off.
        """
        check_choice("aggregation_strategy", aggregation_strategy, _STRATEGIES)
        text, limit = check_text(one, self.task), self.model.config.n_positions
        limit = min(limit, self.tokenizer.model_max_length)
        parts = {} if stride is None else {"stride": stride, "return_overflowing_tokens": True}
        encoded = self.tokenizer([text], truncation=True, max_length=limit, **parts,
                                 return_special_tokens_mask=True)  # fmt: skip
        entities: list[Entity] = []
        for row in encoded.encodings:
            inputs = {"input_ids": row.ids, "attention_mask": row.attention_mask}
            scores = softmax(self.forward(inputs).logits.numpy()[0])  # [T, num_labels]
            tokens = [
                {"word": row.tokens[i], "scores": scores[i], "index": i, "start": start,
                 "end": end, "is_subword": start > 0 and " " not in text[start - 1 : start + 1]}
                for i, (start, end) in enumerate(row.offsets) if not row.special_tokens_mask[i]
            ]  # fmt: skip
            found = self._aggregate(tokens, aggregation_strategy)
            labels = [entity.get("entity", entity.get("entity_group")) for entity in found]
            entities += [
                e for e, one in zip(found, labels, strict=True) if one not in ignore_labels
            ]
        return entities if len(encoded.encodings) == 1 else _without_overlaps(entities)

    def _aggregate(self, tokens: list[Entity], strategy: str) -> list[Entity]:
        if strategy in ("none", "simple"):
            entities = []
            for token in tokens:
                label = int(token["scores"].argmax())
                entities.append({
                    "entity": self.model.config.id2label[label],
                    "score": token["scores"][label], "index": token["index"],
                    "word": token["word"], "start": token["start"], "end": token["end"],
                })  # fmt: skip
            return entities if strategy == "none" else self._groups(entities)
        words: list[list[Entity]] = []
        for token in tokens:
            if words and token["is_subword"]:
                words[-1].append(token)
            else:
                words.append([token])
        return self._groups([self._word(word, strategy) for word in words])

    def _word(self, tokens: list[Entity], strategy: str) -> Entity:
        """One entity of the tokens of a word."""
        table = np.stack([token["scores"] for token in tokens])  # [T, num_labels]
        if strategy == "first":
            scores = table[0]
        else:
            scores = table.mean(0) if strategy == "average" else table[table.max(1).argmax()]
        label = int(scores.argmax())
        return {
            "entity": self.model.config.id2label[label],
            "score": scores[label],
            "word": self.tokenizer.convert_tokens_to_string([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _groups(self, entities: list[Entity]) -> list[Entity]:
        """Joins neighbours of one label; a "B-" begins a new group."""
        groups: list[list[Entity]] = []
        for entity in entities:
            begins, tag = _tag(entity["entity"])
            if groups and not begins and tag == _tag(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": np.mean([entity["score"] for entity in group]),
                "word": self.tokenizer.convert_tokens_to_string([e["word"] for e in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its name; one without a prefix goes on."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    """The longer, or else the likelier, of entities that overlap in parts of a text."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
            continue
        sizes = [(one["end"] - one["start"], one["score"]) for one in (last, entity)]
        kept[-1] = entity if sizes[1] > sizes[0] else last
    return kept
