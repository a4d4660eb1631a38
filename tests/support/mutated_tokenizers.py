"""Loads damaged tokenizer files and settings under limits of time and memory.

This is a program, since the limits are those of a process:
    python -m tests.support.mutated_tokenizers FOLDER SEED COUNT CASE...
prints one JSON object for each folder of a tokenizer, `FOLDER/CASE`.
"""

import contextlib
import copy
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.mutated_files import damage, raise_timeout

SECONDS = 10  # of processor time per damaged tokenizer
GROWTH = 256 * 2**20  # bytes of resident memory, in addition to that of the undamaged tokenizer
ADDRESSES = 16 * 2**30  # bytes of address space
TEXTS = [
    "Speak the  speech,\n\n I pray",
    "a<|endoftext|> <x> b",
    " é\u3000日 [PAD]",
    "",
    "zz<image>",
]
ODD = [
    *(None, True, False, 0, 1, -1, 3, 255, 2**31 - 1, 2**31, 10**12, 10**400, 0.5, 1e300),
    *("", "a", "<x>", "Ġ", "\ud800", "\x00", "<|endoftext|>", "Sequence", "ByteLevel", "BPE"),
    *([], {}, [None], ["a"], [["a", "b"]], {"a": 0}, {"content": "<x>"}, {"type": "Sequence"}),
    *({"type": "ByteLevel"}, {"id": 1, "content": "q"}, {"type": "NFC"}, "left", "GPT2Tokenizer"),
]
NAMES = ["eos_token", "pad_token", "unk_token", "added_tokens_decoder", "extra_special_tokens",
         "additional_special_tokens", "model_specific_special_tokens", "image_token",
         "tokenizer_class", "add_bos_token", "model_max_length", "chat_template", "padding_side",
         "model", "added_tokens", "normalizer", "post_processor", "unk_token", "id", "content",
         "single_word", "lstrip", "trim_offsets", "fuse_unk", "use_regex"]  # fmt: skip


def places(value, path=()):
    """The paths to all values inside a JSON value."""
    inside = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate_json(data, draw):
    """A copy of a JSON object with one change, and the kind of change."""
    data = copy.deepcopy(data)
    paths = list(places(data))
    # Vocabularies are large, settings are few: half of the changes are near the top.
    near = [path for path in paths if len(path) <= 2 or path[0] != "model"]
    path = draw.choice(draw.choice([paths, near or paths]) or [("a",)])
    place = data
    for key in path[:-1]:
        place = place[key]
    kind = draw.choice(["replace", "replace", "delete", "repeat", "wrap", "name", "swap", "negate"])
    if not paths:
        kind = "name"
    if kind == "replace":
        place[path[-1]] = draw.choice(ODD)
    elif kind == "delete":
        del place[path[-1]]
    elif kind == "repeat" and isinstance(place, list):
        place.insert(draw.randrange(len(place) + 1), copy.deepcopy(place[path[-1]]))
    elif kind in ("repeat", "swap"):
        other = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[path[-1]], place[other] = place[other], place[path[-1]]
    elif kind == "wrap":
        place[path[-1]] = draw.choice([[place[path[-1]]], {"content": place[path[-1]]},
                                       {"type": "Sequence", "normalizers": [place[path[-1]]]},
                                       {"type": "Sequence", "pretokenizers": [place[path[-1]]]},
                                       str(place[path[-1]])])  # fmt: skip
    elif kind == "name":
        target = place if isinstance(place, dict) else data
        target[draw.choice(NAMES)] = draw.choice(ODD)
    elif isinstance(place[path[-1]], bool) or not isinstance(place[path[-1]], int):
        place[path[-1]] = not place[path[-1]]
    else:
        place[path[-1]] += draw.choice([1, -1, 7, 100_000, 2**20, -place[path[-1]]])
    return data, kind


def mutate_lines(text, draw):
    """The lines of a text with one change, and the kind of change."""
    lines = text.split("\n")
    one, two = (draw.randrange(len(lines)) for _ in range(2))
    kind = draw.choice(["swap", "repeat", "delete", "join", "reverse", "foreign"])
    if kind == "swap":
        lines[one], lines[two] = lines[two], lines[one]
    elif kind == "repeat":
        lines.insert(one, lines[two])
    elif kind == "delete":
        del lines[one]
    elif kind == "join":
        lines[one] += lines[two]
    elif kind == "reverse":
        lines[one] = lines[one][::-1]
    else:
        lines[one] = draw.choice(["a b c", "é é", " ", "\t", "#version", "▁ a", "a  b", "a b "])
    return "\n".join(lines), kind


def mutate(folder, draw):
    """Changes one file of a folder, and returns its name and the kind of change."""
    path = draw.choice(sorted(folder.iterdir()))
    kind = draw.choice(["bytes", "values", "values", "values", "file"])
    if kind == "file":
        other = draw.choice(sorted(folder.iterdir()))
        kind = draw.choice(["remove", "copy", "empty"])
        content = other.read_bytes() if kind == "copy" else b""
        path.unlink() if kind == "remove" else path.write_bytes(content)
    elif kind == "bytes" or path.suffix == ".model":
        content, kind, _ = damage(path.read_bytes(), draw)
        path.write_bytes(content)
    elif path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        for _ in range(draw.choice([1, 1, 1, 2])):
            data, kind = mutate_json(data, draw)
        path.write_text(json.dumps(data), encoding="utf-8")
    else:
        text, kind = mutate_lines(path.read_text(encoding="utf-8"), draw)
        path.write_text(text, encoding="utf-8")
    return path.name, kind


def find_difference(folder, scratch):
    """Loads the tokenizer everywhere; describes a difference of ids, or returns None."""
    import tensorflow as tf

    from tfgpt2 import GPT2Tokenizer, TFGPT2Tokenizer

    layer = TFGPT2Tokenizer.from_pretrained(folder)
    ids = layer.tokenize(tf.constant(TEXTS)).to_list()
    layer.detokenize(tf.ragged.constant(ids, tf.int32)).numpy()
    layer.detokenize(tf.ragged.constant(ids, tf.int32), skip_special_tokens=True).numpy()
    host = GPT2Tokenizer.from_tokenizer(layer)
    on_host = host(TEXTS, add_special_tokens=False, return_offsets_mapping=True)
    if on_host["input_ids"] != ids:
        return f"graph {ids}, host {on_host['input_ids']}"
    file = folder / "tokenizer.json"
    with contextlib.suppress(Exception):  # what `tokenizers` cannot load decides nothing
        import tokenizers

        theirs = tokenizers.Tokenizer.from_file(str(file))
        added = {token.content for token in theirs.get_added_tokens_decoder().values()}
        theirs.no_truncation()
        theirs.no_padding()
        expected = theirs.encode_batch(TEXTS, add_special_tokens=False)
        same = added == {token.content for token in layer.spec.added}
        if same and host.add_prefix_space == theirs.pre_tokenizer.add_prefix_space:
            if [e.ids for e in expected] != ids:
                return f"graph {ids}, tokenizers {[e.ids for e in expected]}"
            if [e.offsets for e in expected] != on_host["offset_mapping"]:
                return f"offsets {on_host['offset_mapping']}"
    layer.save_pretrained(scratch / "again")
    if TFGPT2Tokenizer.from_pretrained(scratch / "again").spec != layer.spec:
        return "saved and loaded, it is another tokenizer"
    return None


def outcome(folder, scratch):
    """The outcome, `refused`, `loaded` or a kind of failure, and a message."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        difference = find_difference(folder, scratch)
    except TimeoutError as error:
        return "hang", str(error)
    except (ValueError, TypeError, FileNotFoundError) as error:
        explained = "Received: " in str(error)
        message = f"{type(error).__name__}: {error}"[:300]
        return ("refused", "") if explained else ("unexplained", message)
    except BaseException as error:
        return "crash", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return ("difference", difference) if difference else ("loaded", "")


def run(source, case, seed, count):
    """Damages a tokenizer `count` times; returns counts of the outcomes and the failures."""
    with tempfile.TemporaryDirectory() as scratch:
        assert find_difference(source, Path(scratch)) is None
    results, wrong = Counter(), []
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    signal.signal(signal.SIGVTALRM, raise_timeout)
    for number in range(count):
        draw = random.Random(f"{seed}/{case}/{number}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "damaged"
            shutil.copytree(source, folder)
            name, kind = mutate(folder, draw)
            what, message = outcome(folder, Path(scratch))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
        if grown > GROWTH + number * 2**18:  # TensorFlow keeps some memory for each graph
            what, message = "memory", f"{grown / 2**20:.0f} MiB more"
            base += grown
        results[what] += 1
        if what not in ("refused", "loaded"):
            wrong.append([f"{seed}/{case}/{number}", name, kind, what, message])
    return {"results": results, "wrong": wrong}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    whole, seed, count, *cases = sys.argv[1:]
    for one in cases:
        print(json.dumps(run(Path(whole) / one, one, int(seed), int(count))))
