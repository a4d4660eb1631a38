"""The recipe of docs/how-to/large-jobs.md: MLflow serves an export through a pyfunc wrapper."""

import re

import pytest

import tfgpt2
from tests.support.paths import DOCS

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.long


def recipe():
    page = (DOCS / "how-to" / "large-jobs.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```python\n(import mlflow.*?)```", page, re.S)
    return found


def test_mlflow_serves_an_export_by_the_recipe(tiny, tmp_path, monkeypatch):
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    monkeypatch.chdir(tmp_path)
    generator = tfgpt2.TextGenerator.from_pretrained(tiny, jit_compile=False)
    generator.export("saved_models/bard/1", signatures=["generate"], jit_compile=False, check=False)
    exec(recipe(), {"__name__": "__main__"})
    client = TestClient(scoring_server.init(mlflow.pyfunc.load_model("mlflow-model")))
    texts = ["To be", "What"]
    request = {"dataframe_split": {"columns": ["text"], "data": [[text] for text in texts]}}
    for tokens in (3, 5):
        answer = client.post("/invocations", json=request | {"params": {"max_new_tokens": tokens}})
        assert answer.status_code == 200, answer.text
        expected = generator.generate(texts, temperature=0, max_new_tokens=tokens, details=True)
        rows = answer.json()["predictions"]
        assert [row["text"] for row in rows] == [one.text for one in expected]
        assert rows[0]["logprob"] == pytest.approx(expected[0].logprob, rel=1e-4)
