"""Silence on standard error, where threads overlap."""

import os
import subprocess
import sys

PROGRAM = """
import os, threading
from tfgpt2.quiet import quiet

inside, leave = threading.Barrier(2), [threading.Event(), threading.Event()]

def work(number):
    with quiet():
        inside.wait()
        os.write(2, b"hidden")
        leave[number].wait()

threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
leave[0].set()
threads[0].join()
os.write(2, b"hidden")  # the other thread is still inside
leave[1].set()
threads[1].join()
os.write(2, b"shown")
"""


def test_the_last_thread_restores_standard_error():
    environment = {k: v for k, v in os.environ.items() if k != "TFGPT2_TRACEBACK"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"shown")
