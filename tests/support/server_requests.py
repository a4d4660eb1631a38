"""Predict requests for the export of the bundled model."""

import numpy as np

MODEL = "shakespeare-tiny"
OFF = {
    "max_new_tokens": 12, "min_new_tokens": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0,
    "min_p": 0.0, "repetition_penalty": 1.0, "seed": 1,
}  # fmt: skip
PROMPTS = ("ROMEO:\n", "To be, or not", "Now is the winter of", "", "JULIET:\nO Romeo", "é 你")


def column_request(texts, stop=("",), **changed):
    """Makes a `generate` request in column format."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    settings = {name: [value] for name, value in (OFF | changed).items()}
    inputs = {"text": texts} | settings | {"stop": [list(stop)]}
    return {"signature_name": "generate", "inputs": inputs}


def random_request(seed):
    """Makes a request with random rows, lengths and settings, by seed."""
    random = np.random.RandomState(seed)
    rows = int(random.randint(1, 4))
    texts = [PROMPTS[i] for i in random.randint(0, len(PROMPTS), rows)]
    return column_request(
        texts,
        stop=[("",), (".",), (",", "the"), ("\n", "zz", "e")][random.randint(4)],
        max_new_tokens=int(random.randint(1, 17)),
        temperature=float(random.choice([0.0, 0.7, 1.3])),
        top_k=int(random.choice([0, 5])),
        top_p=float(random.choice([1.0, 0.8])),
        repetition_penalty=float(random.choice([1.0, 1.2])),
        seed=int(random.randint(1000)),
    )


def predict(client, document, **options):
    """Returns the outputs of a request, which must succeed."""
    answer = client.post(f"/v1/models/{MODEL}:predict", json=document, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


def same_outputs(one, other):
    """Whether two responses have the same texts and nearly the same log-probabilities.

    Columns after the tokens of a row are ignored, because a batch is as wide as its longest row;
    batches of different sizes may round differently.
    """
    exact = ("text", "text_bytes", "num_tokens", "finish_reason", "prompt_tokens", "truncated")
    if any(one[name] != other[name] for name in exact):
        return False
    for row, count in enumerate(one["num_tokens"]):
        if one["token_ids"][row][:count] != other["token_ids"][row][:count]:
            return False
        values = [np.array(a["token_logprobs"][row][:count]) for a in (one, other)]
        if not np.allclose(*values, atol=1e-3):
            return False
    return True
