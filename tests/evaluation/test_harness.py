"""lm-evaluation-harness on models and exports, compared to its own `hf` model."""

import json
import shutil

import pytest
import yaml

import tfgpt2
from tfgpt2.evaluation.scoring import ScoringRequest

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402

from tfgpt2.evaluation import harness  # noqa: E402

CLOZE = [
    {"text": "My gracious lord, I do beseech you, hear me speak; my good lord"},
    {"text": "To be, or not to be: that is the question, and not to"},
    {"text": "What is the matter, sir? I know not what the matter is, go to the king"},
]
QUESTIONS = [
    {"query": "My good", "choices": ["lord", "xylophone", "elephants"], "gold": 0},
    {"query": "What news with", "choices": ["you?", "my gracious lord of Gloucester?"], "gold": 1},
]
LONG = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n"
PAGES = [{"page": "JULIET:\nO Romeo, Romeo! wherefore art thou Romeo?\n"}, {"page": LONG * 9}]
SHORT_PAGES = PAGES[:1] + [{"page": LONG * 2}]
PROMPTS = [{"prompt": "KING RICHARD III:\nI"}, {"prompt": "JULIET:\nO"}]

TASKS = {
    "local_lambada": (CLOZE, {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }),
    "local_choices": (QUESTIONS, {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }),
    "local_pages": (PAGES, {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [
            {"metric": "word_perplexity"}, {"metric": "byte_perplexity"},
            {"metric": "bits_per_byte"},
        ],
    }),
    "local_short_pages": (SHORT_PAGES, {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }),
    "local_writing": (PROMPTS, {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match"}],
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task manager with the tasks above, from files on disk."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    for name, (rows, fields) in TASKS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
            "test_split": "test",
            **fields,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets"
    )


def evaluate(model, arguments, names, tasks):
    done = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=list(names), task_manager=tasks, bootstrap_iters=0,
        batch_size=2, log_samples=True,
    )  # fmt: skip
    numbers = {
        (task, name): value
        for task, results in done["results"].items()
        for name, value in results.items()
        if isinstance(value, float)
    }
    samples = {
        name: [sample["resps"] for sample in sorted(rows, key=lambda row: row["doc_id"])]
        for name, rows in done["samples"].items()
    }
    return numbers, samples


def assert_same_results(ours, theirs, figure, label):
    (numbers, samples), (expected, their_samples) = ours, theirs
    assert numbers.keys() == expected.keys() and len(numbers) > 0
    for name, value in expected.items():
        difference = abs(numbers[name] - value) / (abs(value) or 1)
        figure(f"relative difference from the harness' hf: {label}", difference)
        assert numbers[name] == pytest.approx(value, rel=1e-4, abs=1e-9), name
    for name, theirs in their_samples.items():
        for one, other in zip(leaves(samples[name]), leaves(theirs), strict=True):
            if isinstance(other, float):
                assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
            else:
                assert one == other


def leaves(nested):
    """The numbers, flags and texts of nested lists, in order."""
    if isinstance(nested, (list, tuple)):
        return [leaf for part in nested for leaf in leaves(part)]
    return [nested]


@pytest.fixture(scope="module")
def peer(tasks, bundled, tmp_path_factory):
    """Results of the harness for the bundled model in PyTorch."""
    pytest.importorskip("torch").set_num_threads(1)
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("peer") / "model"
    # In transformers, its generation settings would override those of the task.
    shutil.copytree(bundled, folder, ignore=shutil.ignore_patterns("generation_config.json"))
    arguments = {"pretrained": str(folder), "dtype": "float32", "device": "cpu"}
    made = {}

    def run(names):
        if names not in made:
            made[names] = evaluate("hf", arguments, names, tasks)
        return made[names]

    return run


IN_MEMORY = ("local_lambada", "local_choices", "local_pages", "local_writing")


@pytest.mark.long
def test_the_bundled_model_through_the_harness(tasks, peer, figure):
    arguments = {"pretrained": "shakespeare-tiny", "jit_compile": False}
    assert_same_results(
        evaluate("tfgpt2", arguments, IN_MEMORY, tasks), peer(IN_MEMORY), figure, "bundled"
    )


EXPORTED = ("local_lambada", "local_choices", "local_short_pages", "local_writing")


@pytest.mark.long
@pytest.mark.parametrize("signatures", ["all", "score and generate"])
def test_an_export_through_the_harness(tasks, peer, figure, tmp_path, monkeypatch, signatures):
    generator = tfgpt2.TextGenerator.from_pretrained(
        "shakespeare-tiny", on_long_prompt="truncate_left"
    )
    generator.export(tmp_path / "1", jit_compile=False, check=False)
    lm = harness.TFGPT2LM(saved_model=str(tmp_path / "1"), batch_size=2)
    if signatures != "all":
        lm._backend._inspects = False
    assert lm.max_length == 255
    assert_same_results(evaluate(lm, None, EXPORTED, tasks), peer(EXPORTED), figure, "export")


@pytest.mark.long
def test_slm4096_through_the_harness(tasks, shared_data, figure):
    folder = str(shared_data / "checkpoints" / "slm4096")
    names = ("local_lambada", "local_choices")
    theirs = evaluate(
        "hf", {"pretrained": folder, "dtype": "float32", "device": "cpu"}, names, tasks
    )
    ours = evaluate("tfgpt2", {"pretrained": folder, "jit_compile": False}, names, tasks)
    assert_same_results(ours, theirs, figure, "slm4096")


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@pytest.fixture(scope="module")
def lm():
    return harness.TFGPT2LM("shakespeare-tiny", batch_size=2, jit_compile=False)


def test_the_three_kinds_of_requests(lm):
    pairs = requests("loglikelihood", ("My good", " lord"), ("", "ROMEO:"), ("My good ", "lord"))
    one, two, three = lm.loglikelihood(pairs, disable_tqdm=True)
    assert one == three and one[0] < 0 and isinstance(one[1], bool)
    ids = lm.tok_encode("ROMEO:")
    prefixed = lm._backend.score([ScoringRequest([lm.eot_token_id, *ids[:-1]], ids)])[0]
    assert two[0] == pytest.approx(prefixed.total, abs=1e-4)
    rolling = lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("ROMEO:",)), True)
    assert rolling == [pytest.approx(two[0], abs=1e-4)]
    asked = {"until": ["\n"], "max_gen_toks": 8}
    texts = lm.generate_until(requests("generate_until", ("ROMEO:\nI", asked), ("O", asked)), True)
    generator = lm._backend._generator
    assert texts == [
        generator.generate(prompt, stop="\n", temperature=0, max_new_tokens=8)
        for prompt in ("ROMEO:\nI", "O")
    ]


def test_the_name_is_registered():
    from lm_eval.api.registry import get_model

    assert get_model("tfgpt2") is harness.TFGPT2LM and get_model("hf") is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "`batch_size` must be an integer of at least 1"),
        ({"device": "cuda"}, "no option 'device'"),
        ({"max_length": 300}, "must be at most 256"),
        ({"saved_model": "x", "pretrained": "y"}, "cannot be combined with"),
        ({"saved_model": "absent"}, "no SavedModel in this directory"),
    ],
)
def test_bad_arguments_say_what_to_do(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        harness.TFGPT2LM(**({"jit_compile": False} | options))


def test_bad_requests_say_what_to_do(lm):
    for asked, message in (
        ({"num_beams": 4}, "generation option 'num_beams'"),
        ({"max_gen_toks": 256}, "must be less than the context"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.generate_until(requests("generate_until", ("a", asked)), True)
