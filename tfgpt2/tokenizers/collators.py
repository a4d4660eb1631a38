"""Data collators: examples become batches, under transformers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.batch_encoding import to_tensors

_IGNORED = -100  # a label that is not scored

Examples = Sequence[Mapping[str, Any]]


def default_data_collator(features: Examples, return_tensors: str = "tf") -> dict[str, Any]:
    """Stacks examples whose entries have equal lengths.

    `label` and `label_ids` become `labels`; entries that are text are left out.

    Args:
        features: Examples, dicts of numbers, lists or arrays.
        return_tensors: `"tf"` or `"np"`.

    Raises:
        ValueError: Entries differ in length.

    Example:
        >>> default_data_collator([{"input_ids": [1], "label": 0}], return_tensors="np")["labels"]
        array([0])
    """
    first = features[0]
    names = {"label": "labels", "label_ids": "labels"}
    columns = {
        names.get(key, key): [example[key] for example in features]
        for key, value in first.items()
        if value is not None and not isinstance(value, (str, bytes))
    }
    return dict(to_tensors(columns, return_tensors))


class DefaultDataCollator:
    """`default_data_collator` as an object.

    Args:
        return_tensors: `"tf"` or `"np"`.
    """

    def __init__(self, return_tensors: str = "tf") -> None:
        self.return_tensors = return_tensors

    def __call__(self, features: Examples, return_tensors: str | None = None) -> dict[str, Any]:
        """Returns the batch of some examples."""
        return default_data_collator(features, return_tensors or self.return_tensors)


class DataCollatorWithPadding:
    """Pads the examples of a batch to the longest of them.

    Args:
        tokenizer: A tokenizer with a pad token.
        padding: See the tokenizer's `pad`.
        max_length: See the tokenizer's `pad`.
        pad_to_multiple_of: See the tokenizer's `pad`.
        return_tensors: `"tf"` or `"np"`.
    """

    def __init__(
        self,
        tokenizer: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "tf",
    ) -> None:
        self.tokenizer, self.padding, self.max_length = tokenizer, padding, max_length
        self.pad_to_multiple_of, self.return_tensors = pad_to_multiple_of, return_tensors

    def __call__(self, features: Examples, return_tensors: str | None = None) -> dict[str, Any]:
        """Returns the batch of some examples."""
        rows = [_with_labels(example) for example in features]
        return dict(
            self.tokenizer.pad(
                rows,
                padding=self.padding,
                max_length=self.max_length,
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_tensors=return_tensors or self.return_tensors,
            )
        )


class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Pads the examples of a batch and their labels, which are one for each token.

    Args:
        tokenizer: A tokenizer with a pad token.
        padding: See the tokenizer's `pad`.
        max_length: See the tokenizer's `pad`.
        pad_to_multiple_of: See the tokenizer's `pad`.
        label_pad_token_id: The label of padding.
        return_tensors: `"tf"` or `"np"`.
    """

    def __init__(
        self,
        tokenizer: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        label_pad_token_id: int = _IGNORED,
        return_tensors: str = "tf",
    ) -> None:
        super().__init__(tokenizer, padding, max_length, pad_to_multiple_of, return_tensors)
        self.label_pad_token_id = label_pad_token_id

    def __call__(self, features: Examples, return_tensors: str | None = None) -> dict[str, Any]:
        """Returns the batch of some examples."""
        rows = [_with_labels(example) for example in features]
        labels = [list(row.pop("labels")) for row in rows if "labels" in row]
        batch = super().__call__(rows, "np")
        if labels:
            width, left = batch["input_ids"].shape[1], self.tokenizer.padding_side == "left"
            filling = [[self.label_pad_token_id] * (width - len(row)) for row in labels]
            batch["labels"] = np.array(
                [f + row if left else row + f for f, row in zip(filling, labels, strict=True)]
            )
        return dict(to_tensors(batch, return_tensors or self.return_tensors))


class DataCollatorForLanguageModeling(DataCollatorWithPadding):
    """Pads the examples of a batch; labels are the ids, and -100 in the place of pad tokens.

    As in transformers, every pad token counts as padding: where it is the end token, the end of a
    text is not scored.

    Args:
        tokenizer: A tokenizer with a pad token.
        mlm: False, as GPT-2 predicts next tokens.
        pad_to_multiple_of: See the tokenizer's `pad`.
        return_tensors: `"tf"` or `"np"`.

    Raises:
        ValueError: `mlm` is set.
    """

    def __init__(
        self,
        tokenizer: Any,
        mlm: bool = True,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "tf",
    ) -> None:
        if mlm:
            raise value_error(
                "GPT-2 predicts the next token, and no masked ones.",
                fix="Pass mlm=False.",
                mlm=mlm,
            )
        super().__init__(tokenizer, True, None, pad_to_multiple_of, return_tensors)
        self.mlm = False

    def __call__(self, features: Examples, return_tensors: str | None = None) -> dict[str, Any]:
        """Returns the batch of some examples, dicts or lists of ids."""
        rows = [
            {k: v for k, v in one.items() if k != "labels"} if isinstance(one, Mapping)
            else {"input_ids": one}
            for one in features
        ]  # fmt: skip
        batch = super().__call__(rows, "np")
        ids = batch["input_ids"]
        batch["labels"] = np.where(ids == self.tokenizer.pad_token_id, _IGNORED, ids)
        return dict(to_tensors(batch, return_tensors or self.return_tensors))


def _with_labels(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example whose label is called `labels`."""
    row = dict(example)
    for name in ("label", "label_ids"):
        if name in row:
            row["labels"] = row.pop(name)
    return {key: value for key, value in row.items() if not isinstance(value, str)}
