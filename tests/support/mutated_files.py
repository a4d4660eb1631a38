"""Loads damaged checkpoints and configurations under limits of time and memory.

This is a program, since the limits are those of a process:
    python mutated_files.py FOLDER SEED COUNT CASE...
prints one JSON object for each folder of checkpoints, `FOLDER/CASE`.
"""

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

SECONDS = 10  # of processor time per damaged checkpoint
GROWTH = 256 * 2**20  # bytes of resident memory, in addition to that of the undamaged checkpoint
ADDRESSES = 8 * 2**30  # bytes of address space
# Files that are not read.
UNREAD = ("logits.npy", "versions.txt", "generation_config.json", "task.json", "preprocessor.json",
          "tokenizer.json", "encoder.json", "vocab.bpe", "metadata.json")  # fmt: skip
# Formats with checksums: damage is detected, or changes nothing.
CHECKED = ("torch_zip", "tf1")


def read(folder):
    """All tensors and the configuration, as `from_pretrained` reads them."""
    from tfgpt2.checkpoints.detection import load_config, open_checkpoint

    def find(name):
        return path if (path := Path(folder) / name).is_file() else None

    config = load_config(find, "damaged")
    reader = open_checkpoint(find, "damaged")
    return config.to_dict(), {key: np.array(reader.read(key)) for key in reader.keys()}


def damage(content, draw):
    """The changed bytes, the kind of change, and the number of overwritten bytes."""
    content = bytearray(content)
    # Headers are small but important, so two thirds of the damage are at the ends of a file.
    size = len(content)
    areas = [(0, size), (0, min(size, 400)), (max(0, size - 400), size)]
    kind = draw.choice(["flip", "flip", "overwrite", "cut", "insert", "delete", "number", "swap"])
    low, high = draw.choice(areas)
    at = draw.randrange(low, max(high, low + 1))
    if kind == "flip":
        places = {min(size - 1, at + draw.randrange(64)) for _ in range(draw.randint(1, 3))}
        for place in places:
            content[place] ^= 1 << draw.randrange(8)
        return bytes(content), kind, len(places)
    if kind == "overwrite":
        some = draw.randbytes(draw.randint(1, 16))[: size - at]
        content[at : at + len(some)] = some
        return bytes(content), kind, len(some)
    if kind == "number":  # a wrong length or offset of 1 to 8 bytes
        some = draw.choice([b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x40", b"\0" * 8, b"\x80"])
        some = some[: size - at]
        content[at : at + len(some)] = some
        return bytes(content), kind, len(some)
    if kind == "swap":
        width = draw.randint(1, 64)
        other = draw.randrange(size)
        one, two = bytes(content[at : at + width]), bytes(content[other : other + width])
        content[at : at + len(two)] = two
        content[other : other + len(one)] = one
        return bytes(content), kind, 2 * width
    if kind == "cut":
        return bytes(content[:at]), kind, 0
    if kind == "insert":
        content[at:at] = draw.randbytes(draw.randint(1, 16))
    else:
        del content[at : at + draw.randint(1, 16)]
    return bytes(content), kind, 0


def find_undetected_damage(case, kind, overwritten, whole, found):
    """Describes damage in a result that should have been detected; None if there is none."""
    (config, tensors), (new_config, new) = whole, found
    if set(tensors) - set(new):
        return None  # the loader reports missing tensors
    if new_config != config:
        return None  # only the ranges of configuration values can be checked
    other = [k for k, a in tensors.items() if a.shape != new[k].shape or a.dtype != new[k].dtype]
    if other:
        return None  # the loader compares shapes; dtypes are converted
    changed = sum(int(np.sum(a.view("u1") != new[k].view("u1"))) for k, a in tensors.items()
                  if a.ndim) + sum(a.tobytes() != new[k].tobytes() for k, a in tensors.items()
                                   if not a.ndim)  # fmt: skip
    if not changed:
        return None
    if case in CHECKED:
        return f"{changed} bytes of tensors changed under a checksum"
    if case in ("safetensors", "flax") and changed > overwritten:
        return f"{changed} bytes of tensors changed, {overwritten} were overwritten"
    return None


def raise_timeout(signum, frame):
    raise TimeoutError(f"more than {SECONDS} s")


def run(source, case, seed, count):
    """Damages a checkpoint `count` times; returns counts of the outcomes and the failures."""
    whole, results, wrong = read(source), Counter(), []
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    signal.signal(signal.SIGVTALRM, raise_timeout)
    names = sorted(p.name for p in source.iterdir() if p.is_file() and p.name not in UNREAD)
    for number in range(count):
        draw = random.Random(f"{seed}/{case}/{number}")
        name = draw.choice(names)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "damaged"
            shutil.copytree(source, folder)
            content, kind, overwritten = damage((source / name).read_bytes(), draw)
            (folder / name).write_bytes(content)
            what, message = outcome(folder, case, kind, overwritten, whole)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
        if what == "loaded" and grown > GROWTH:
            what, message = "memory", f"{grown / 2**20:.0f} MiB more"
        results[what] += 1
        if what not in ("refused", "loaded"):
            wrong.append([f"{seed}/{case}/{number}", name, kind, what, message])
    return {"results": results, "wrong": wrong, "grown": grown}


def outcome(folder, case, kind, overwritten, whole):
    """The outcome, `refused`, `loaded` or a kind of failure, and a message."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        found = read(folder)
    except TimeoutError as error:
        return "hang", str(error)
    except (ValueError, OSError) as error:
        explained = "Received: " in str(error)
        return (
            ("refused", "")
            if explained
            else ("unexplained", f"{type(error).__name__}: {error}"[:300])
        )
    except BaseException as error:
        return "crash", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    damage_found = find_undetected_damage(case, kind, overwritten, whole, found)
    return ("undetected", damage_found) if damage_found else ("loaded", "")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    golden, seed, count, *cases = sys.argv[1:]
    for one in cases:
        print(json.dumps(run(Path(golden) / one, one, int(seed), int(count))))
