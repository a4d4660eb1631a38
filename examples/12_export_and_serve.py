"""Exports a model, serves it, queries it with the client, and stops the server.

    pip install 'tfgpt2[serve,client]'
    python examples/12_export_and_serve.py --output saved_models/demo

`tfgpt2 serve` runs in the background and loads only the SavedModel; the client uses REST, as with
TensorFlow Serving. The served text is compared with that of the in-memory model. With
`--train-on FILE` the model is first fine-tuned on a text.
"""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import keras
import typer

from tfgpt2 import TextGenerator
from tfgpt2.serving import Client
from tfgpt2.training.data import lm_dataset


def start(directory: Path) -> tuple[subprocess.Popen, str]:
    """Starts the server on a free port and waits until it prints its address."""
    command = [sys.executable, "-m", "tfgpt2.cli", "serve", directory, "--port", "0"]
    server = subprocess.Popen(
        [*map(str, command), "--grpc-port", "-1"], stdout=subprocess.PIPE, text=True
    )
    line = server.stdout.readline()  # printed when the model is ready
    found = re.search(r"http://\S+", line)
    if found is None:
        server.kill()
        raise SystemExit(f"The server did not start: {line}")
    return server, found[0]


def stop(server: subprocess.Popen) -> int:
    """Stops the server gracefully, and waits."""
    server.send_signal(signal.SIGTERM)
    return server.wait(timeout=60)


def main(
    output: Annotated[Path, typer.Option(help="Model directory, in which a version is created.")],
    model: str = "shakespeare-tiny",
    train_on: Annotated[Path | None, typer.Option(help="Text to fine-tune on first.")] = None,
    epochs: int = 1,
    max_new_tokens: int = 40,
    prompts: Annotated[list[str] | None, typer.Option("--prompt")] = None,
    jit_compile: Annotated[bool, typer.Option(help="Compile the export with XLA.")] = True,
) -> None:
    """Exports a model, serves and queries it, and stops the server."""
    prompts = prompts or ["ROMEO:\nI ", "The king "]
    generator = TextGenerator.from_pretrained(model)
    if train_on is not None:
        data = lm_dataset(train_on, generator.tokenizer, block_size=128, batch_size=8)
        generator.model.compile(keras.optimizers.AdamW(3e-4, clipnorm=1.0))
        generator.model.fit(data, epochs=epochs, verbose=2)
    report = generator.export(output, version="next", jit_compile=jit_compile,
                              signatures=["generate", "score"], batch_sizes=[len(prompts)],
                              max_new_tokens=max_new_tokens)  # fmt: skip
    print(f"exported {report.path}: {', '.join(report.signatures)}")

    options = {"max_new_tokens": max_new_tokens, "temperature": 0.8, "seed": 1}
    # Settings that a request leaves out are off, whatever the model's defaults are.
    live = generator.generate(prompts, top_p=1.0, top_k=0, **options)
    server, url = start(output)
    print(f"serving at {url}")
    try:
        with Client(url, model=output.resolve().name, timeout=120) as client:
            answers = client.generate(prompts, **options)
            scores = client.score([p + a.text for p, a in zip(prompts, answers, strict=True)])
            pieces = list(client.stream(prompts[0], max_new_tokens=16, temperature=0))
    finally:
        status = stop(server)
    for prompt, answer, score in zip(prompts, answers, scores, strict=True):
        print(
            f"--- {answer.finish_reason}, perplexity {score.perplexity:.1f}\n{prompt}{answer.text}"
        )
    print(f"--- streamed in {len(pieces)} pieces\n{prompts[0]}{''.join(pieces)}")
    same = [answer.text for answer in answers] == live
    print(f"---\nserved equals live: {same}; server stopped with status {status}")
    raise SystemExit(0 if same and status == 0 else 1)


if __name__ == "__main__":
    typer.run(main)
