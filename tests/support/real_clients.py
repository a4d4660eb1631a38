"""Runs unmodified clients against a server, and prints one line of JSON.

A process of its own: see `tests/serving/test_real_clients.py`. It reads what to do from standard
input.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def lm_eval_requests(kind, rows):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=tuple(row), idx=i)
        for i, row in enumerate(rows)
    ]


def ask_lm_eval(asked):
    """The answers of `local-completions`; of `hf` and of our adapter on the checkpoint itself."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from tfgpt2.evaluation.harness import TFGPT2LM

    served = LocalCompletionsAPI(
        model=asked["model"], base_url=asked["url"] + "/v1/completions", batch_size=1,
        tokenizer=asked["checkpoint"], tokenizer_backend="huggingface", max_length=256,
    )  # fmt: skip
    # The class for APIs keeps a place for a token that follows, and rolling windows another one.
    local = HFLM(pretrained=asked["checkpoint"], device="cpu", dtype="float32", batch_size=1,
                 max_length=254)  # fmt: skip
    adapter = TFGPT2LM(asked["checkpoint"], batch_size=2, max_length=254, jit_compile=False)
    models = {"served": served, "hf": local, "adapter": adapter}
    return {
        name: {kind: getattr(lm, kind)(lm_eval_requests(kind, rows))
               for kind, rows in asked["requests"].items()}
        | {"multiple_choice": ask_choices(lm, asked["questions"])}
        for name, lm in models.items()
    }  # fmt: skip


def ask_choices(lm, questions):
    """The accuracies of a task of multiple choice, and the answers it was made of."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "questions.jsonl")
        rows.write_text("".join(json.dumps(one) + "\n" for one in questions))
        task = {
            "task": "questions", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": folder},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{query}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }  # fmt: skip
        Path(folder, "questions.yaml").write_text(json.dumps(task))
        done = lm_eval.simple_evaluate(
            lm, tasks=["questions"], bootstrap_iters=0, log_samples=True,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
        )  # fmt: skip
    found = done["results"]["questions"]
    samples = sorted(done["samples"]["questions"], key=lambda sample: sample["doc_id"])
    answers = [answer for sample in samples for (answer,) in sample["resps"]]
    return {"acc": found["acc,none"], "acc_norm": found["acc_norm,none"], "answers": answers}


def ask_remote_tokenizer(asked):
    """What lm_eval's tokenizer on the server's side makes of a text and of a conversation."""
    from lm_eval.utils import RemoteTokenizer, check_remote_tokenizer_support

    url = asked["url"] + "/v1/completions"
    tokenizer = RemoteTokenizer(url)
    ids = tokenizer.encode(asked["text"])
    talk = [{"role": "user", "content": asked["text"]}]
    return {
        "supported": check_remote_tokenizer_support(url), "ids": ids, "text": tokenizer.decode(ids),
        "end": tokenizer.eos_token_id, "chat": tokenizer.apply_chat_template(talk),
    }  # fmt: skip


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


def ask_llm(asked):
    """The command line `llm`, with a model of its file for OpenAI-compatible servers."""
    with tempfile.TemporaryDirectory() as folder:
        model = {"model_id": "served", "model_name": asked["model"], "completion": True,
                 "api_base": asked["url"] + "/v1"}  # fmt: skip
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps([model]))
        options = {name: value for name, value in asked["options"].items() if name != "prompt"}
        given = [part for name, value in options.items() for part in ("-o", name, str(value))]
        texts = []
        for how in (["--no-stream"], []):
            command = [sys.executable, "-m", "llm", "-m", "served", "--key", "none", *given, *how]
            done = subprocess.run(
                [*command, asked["options"]["prompt"]], capture_output=True, text=True,
                env=os.environ | {"LLM_USER_PATH": folder}, check=True,
            )  # fmt: skip
            texts.append(done.stdout.removesuffix("\n"))  # the command ends its output with one
    return texts


def ask_guidellm(asked):
    """A minute of the load generator for each path: its counts of requests and of tokens."""
    found = []
    for path in ("/v1/completions", "/v1/chat/completions"):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "found.json")
            backend = f"target={asked['url']},model={asked['model']},request_format={path}"
            command = [
                sys.executable, "-m", "guidellm", "run", "--disable-console",
                "--backend", f"kind=openai_http,{backend}",
                "--profile", "kind=concurrent,streams=8",
                "--constraint", f"kind=max_duration,seconds={asked['seconds']}",
                "--tokenizer", f"kind=hf_auto,model={asked['checkpoint']}",
                "--data", "kind=synthetic_text,prompt_tokens=40,output_tokens=24",
                "--output", f"kind=json,path={report}",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
            metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
        tokens = metrics["output_token_count"]["successful"]
        found.append([metrics["request_totals"], tokens["min"], tokens["max"]])
    return found


def ask_litellm(asked):
    import litellm

    answer = litellm.text_completion(
        model="text-completion-openai/" + asked["model"], api_base=asked["url"] + "/v1",
        api_key="none", **asked["options"],
    )  # fmt: skip
    return [answer.choices[0].text]


CLIENTS = {
    "lm_eval": ask_lm_eval,
    "remote_tokenizer": ask_remote_tokenizer,
    "openai": ask_openai,
    "langchain": ask_langchain,
    "litellm": ask_litellm,
    "llm": ask_llm,
    "guidellm": ask_guidellm,
}

if __name__ == "__main__":
    document = json.load(sys.stdin)
    print(json.dumps(CLIENTS[document["client"]](document)))
