"""A server of CTranslate2 with static batches: what `engine.py --ctranslate2` compares with.

    python benchmarks/ctranslate2_server.py CHECKPOINT BATCH    # prints its port

Requests wait until a batch is full or the first has waited for 10 ms, and all are answered when the
longest has ended. Prompts are ids.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ctranslate2

sys.path.insert(0, str(Path(__file__).parent / "backends"))
from ct2 import convert  # noqa: E402

WAIT, THREADS = 0.01, 2  # seconds, cores


def run_batches(folder: Path, size: int, waiting: queue.Queue) -> None:
    """Answers requests in batches of up to `size`."""
    converted = folder.parent / "ctranslate2"
    if not (converted / "model.bin").exists():
        convert(folder, converted)
    generator = ctranslate2.Generator(
        str(converted), device="cpu", compute_type="float32", intra_threads=THREADS
    )
    while True:
        batch = [waiting.get()]
        try:
            while len(batch) < size:
                batch.append(waiting.get(timeout=WAIT))
        except queue.Empty:
            pass
        most = max(request["max_tokens"] for request, _ in batch)
        results = generator.generate_batch(
            [[str(token) for token in request["prompt"]] for request, _ in batch],
            max_length=most,
            min_length=most,
            include_prompt_in_result=False,
        )
        for (request, answer), result in zip(batch, results, strict=True):
            answer.put(result.sequences_ids[0][: request["max_tokens"]])


def main() -> None:
    """Serves until it is killed."""
    folder, size, waiting = Path(sys.argv[1]), int(sys.argv[2]), queue.Queue()
    threading.Thread(target=run_batches, args=(folder, size, waiting), daemon=True).start()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802  (the name of the base class)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request, answer = json.loads(body), queue.Queue()
            waiting.put((request, answer))
            ids = answer.get()
            choice = {"index": 0, "text": " ".join(map(str, ids))}
            found = {"choices": [choice], "usage": {"completion_tokens": len(ids)}}
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
