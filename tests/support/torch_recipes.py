"""Perplexity and log-likelihood computed with PyTorch and transformers."""

import functools

import torch
import transformers

torch.set_num_threads(1)  # its threads would compete with TensorFlow's


@functools.cache
def load(folder):
    # The default of transformers 5 is the dtype of the file.
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    return transformers.GPT2LMHeadModel.from_pretrained(folder, **options).eval()


@functools.cache
def tokenizer(folder):
    return transformers.GPT2TokenizerFast.from_pretrained(folder)


@torch.no_grad()
def perplexity(folder, text, max_length, stride):
    """The average of transformers' guide, and the exact average over the same logits."""
    model, ids = load(folder), torch.tensor([tokenizer(folder)(text)["input_ids"]])
    total, previous = ids.shape[1], 0
    weighted, weights, nll, scored = 0.0, 0, 0.0, 0
    for begin in range(0, total, stride):
        end = min(begin + max_length, total)
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - previous)] = -100
        output = model(window, labels=labels)
        count = int((labels != -100).sum()) - 1
        if count:
            weighted += float(output.loss) * count
            weights += count
        logprobs = output.logits[0, :-1].double().log_softmax(-1)
        for row, label in zip(logprobs, labels[0, 1:], strict=True):
            if label != -100:
                nll -= float(row[label])
                scored += 1
        previous = end
        if end == total:
            break
    return {
        "recipe": float(torch.tensor(weighted / weights).exp()),
        "exact": float(torch.tensor(nll / scored, dtype=torch.float64).exp()),
        "nll": nll,
        "scored": scored,
    }


@torch.no_grad()
def continuation(folder, context, rest):
    """Log-likelihood of a continuation, whether it is the greedy one, and its number of tokens."""
    encode, model = tokenizer(folder), load(folder)
    whole, before = encode(context + rest)["input_ids"], encode(context)["input_ids"]
    whole = whole[-(model.config.n_positions + 1) :]
    count = len(encode(context + rest)["input_ids"]) - len(before)
    logprobs = model(torch.tensor([whole[:-1]])).logits[0, -count:].log_softmax(-1)
    targets = torch.tensor(whole[-count:])
    total = float(logprobs.gather(1, targets[:, None]).double().sum())
    return total, bool((logprobs.argmax(-1) == targets).all()), count
