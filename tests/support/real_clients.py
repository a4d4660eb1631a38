"""Runs unmodified clients against a server; needs no TensorFlow, and prints one line of JSON.

The program of an environment of its own: see `tests/serving/test_real_clients.py`. It reads what to
do from standard input.
"""

import json
import sys


def lm_eval_requests(kind, rows):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=tuple(row), idx=i)
        for i, row in enumerate(rows)
    ]


def ask_lm_eval(asked):
    """The answers of `local-completions`, and of `hf` on the checkpoint itself."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    served = LocalCompletionsAPI(
        model=asked["model"], base_url=asked["url"] + "/v1/completions", batch_size=1,
        tokenizer=asked["checkpoint"], tokenizer_backend="huggingface", max_length=256,
    )  # fmt: skip
    # The class for APIs keeps a place for a token that follows, and rolling windows another one.
    local = HFLM(pretrained=asked["checkpoint"], device="cpu", dtype="float32", batch_size=1,
                 max_length=254)  # fmt: skip
    return {
        kind: [getattr(lm, kind)(lm_eval_requests(kind, rows)) for lm in (served, local)]
        for kind, rows in asked["requests"].items()
    }


def ask_openai(asked):
    import openai

    client = openai.OpenAI(base_url=asked["url"] + "/v1", api_key="none", max_retries=0)
    done = client.completions.create(model=asked["model"], **asked["options"])
    pieces = client.completions.create(model=asked["model"], stream=True, **asked["options"])
    text = "".join(piece.choices[0].text for piece in pieces if piece.choices)
    return [done.choices[0].text, text, [model.id for model in client.models.list()]]


def ask_langchain(asked):
    from langchain_openai import OpenAI

    model = OpenAI(model=asked["model"], base_url=asked["url"] + "/v1", api_key="none",
                   max_tokens=asked["options"]["max_tokens"], temperature=0)  # fmt: skip
    prompt = asked["options"]["prompt"]
    return [model.invoke(prompt), "".join(model.stream(prompt))]


def ask_litellm(asked):
    import litellm

    answer = litellm.text_completion(
        model="text-completion-openai/" + asked["model"], api_base=asked["url"] + "/v1",
        api_key="none", **asked["options"],
    )  # fmt: skip
    return [answer.choices[0].text]


CLIENTS = {
    "lm_eval": ask_lm_eval,
    "openai": ask_openai,
    "langchain": ask_langchain,
    "litellm": ask_litellm,
}

if __name__ == "__main__":
    document = json.load(sys.stdin)
    print(json.dumps(CLIENTS[document["client"]](document)))
