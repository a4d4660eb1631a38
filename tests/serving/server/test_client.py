"""The package's own client against the server process; `test_client_server.py` has the rest."""

import numpy as np
import pytest

from tests.support.server_requests import MODEL
from tfgpt2.serving import Client


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_texts_streams_and_scores(served, transport):
    url = served.url if transport == "rest" else f"grpc://{served.grpc}"
    prompts, settings = ["ROMEO:", "é"], {"max_new_tokens": 8, "temperature": [0.0, 1.0], "seed": 5}
    with Client(url, MODEL, timeout=100) as client:
        both = client.generate(prompts, **settings)
        assert [len(one.token_ids) for one in both] == [8, 8]
        one = client.generate("ROMEO:", max_new_tokens=8, temperature=0.0)
        assert one.text == both[0].text
        stream = client.stream("ROMEO:", max_new_tokens=8, temperature=0.0, chunk_tokens=4)
        assert "".join(stream) == one.text
        score, seen = client.score("To be"), client.inspect("To be")
        np.testing.assert_allclose(seen.token_logprobs, score.token_logprobs, atol=1e-4)
        assert client.detokenize(client.tokenize("To be").ids) == "To be"
