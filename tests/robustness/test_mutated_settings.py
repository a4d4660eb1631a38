"""Damaged settings files of a training: an explained error, or settings that are right."""

import random
import time

import pytest

from tests.support.mutated_files import damage
from tests.support.mutated_tokenizers import mutate_lines
from tfgpt2.training.settings import TrainSettings, read_yaml, write_yaml

SECONDS = 5  # of processor time
WHOLE = TrainSettings(
    texts=("poems/*.txt", "songs.jsonl"), output="out", model="shakespeare-tiny", lora_rank=2,
    steps=20, separator="<|endoftext|>", validation="held out.txt", freeze=("wte", "h.0-5"),
)  # fmt: skip
ODD = [
    *("", "~", "yes", "off", "0", "-1", ".nan", ".inf", "1e400", "3e-4", "1_0", "0x1f", "017"),
    *("1:30", "2024-01-02", "2024-13-41", "'2024'", "é😀", "'", '"\\ud800"', "[", "{", "[]"),
    *("{a: b}", "[1, a]", "*a", "&a 1", "!!binary aGk=", "!!set {a}", "!!python/name:os.getcwd"),
    *("!!float x", "|", "? a", "9" * 400, "1" + ":1" * 400, "[" * 50, "a" * 5000, "- a", "nan"),
    *("null", "- - - a", "<<: 1"),
]


def mutate(text, draw):
    """A settings file with one or two changes, as bytes."""
    for _ in range(draw.choice([1, 1, 2])):
        kind = draw.choice(["value", "value", "name", "lines", "bytes"])
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        name, _, value = lines[at].partition(":")
        if kind == "value":
            lines[at] = f"{name}: {draw.choice(ODD)}"
        elif kind == "name":
            lines[at] = f"{draw.choice(ODD)}:{value}"
        elif kind == "lines":
            lines = mutate_lines(text, draw)[0].split("\n")
        else:
            return damage("\n".join(lines).encode(), draw)[0]
        text = "\n".join(lines)
    return text.encode()


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_damaged_settings(seed, tmp_path, generator, amount, count):
    draw, path, again = random.Random(), tmp_path / "a.yaml", tmp_path / "b.yaml"
    write_yaml(WHOLE, path)
    whole = path.read_text(encoding="utf-8")
    refused, number = 0, amount(40 if seed == 0 else 200)
    for case in range(number):
        draw.seed(f"{amount(1)}/{seed}/{case}")
        content = mutate(whole, draw)
        path.write_bytes(content)
        where = f"{amount(1)}/{seed}/{case}: {content[:2000]}"
        start = time.process_time()
        try:
            found = TrainSettings.from_dict(read_yaml(path))
        except (ValueError, TypeError) as error:
            assert "Received: " in str(error) and len(str(error)) < 3000, f"{where}\n{error}"
            refused += 1
        except Exception as error:
            raise AssertionError(where) from error
        else:
            write_yaml(found, again)
            assert TrainSettings.from_dict(read_yaml(again)) == found, where
        assert time.process_time() - start < SECONDS, where
    assert 0 < refused < number
    count("damaged settings of a training, refused", refused)
    count("damaged settings of a training, loaded", number - refused)
