"""Slow twins in plain numpy and Python of what the package does with tensors."""

import numpy as np

MASK_VALUE = -1e30


def threefry(key, counter):
    """Threefry-2x32 with 20 rounds, written with Python integers after the paper."""
    word = 2**32 - 1
    schedule = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = (counter[0] + schedule[0]) & word, (counter[1] + schedule[1]) & word
    for number in range(20):
        distance = ((13, 15, 26, 6), (17, 29, 16, 24))[number // 4 % 2][number % 4]
        x = (x + y) & word
        y = ((y << distance | y >> (32 - distance)) & word) ^ x
        if number % 4 == 3:
            group = number // 4 + 1
            x = (x + schedule[group % 3]) & word
            y = (y + schedule[(group + 1) % 3] + group) & word
    return x, y


def softmax(scores):
    exp = np.exp(scores.astype(np.float64) - scores.max())
    return exp / exp.sum()


def keep_top_k(scores, k):
    return scores >= np.sort(scores)[::-1][min(k, len(scores)) - 1] if k else scores == scores


def keep_top_p(scores, p):
    if p >= 1:
        return scores == scores
    order = np.argsort(-scores, kind="stable")
    enough = np.cumsum(softmax(scores)[order]) >= p
    last = order[np.argmax(enough)] if enough.any() else order[-1]
    return scores >= scores[last]


def keep_min_p(scores, p):
    probabilities = softmax(scores)
    return probabilities >= p * probabilities.max()


def filtered(scores, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Logits `[V]` after temperature and filters, -1e30 where a token is ruled out."""
    scores = (scores / np.float32(temperature)).astype(np.float32)
    for keep, setting in ((keep_top_k, top_k), (keep_top_p, top_p), (keep_min_p, min_p)):
        scores = np.where(keep(scores, setting), scores, np.float32(MASK_VALUE))
    return scores


def uniform_bits(seed, step, index, count):
    """The random word of one token."""
    half = (count + 1) // 2
    words = threefry((seed & 0xFFFFFFFF, seed >> 32), (index % half, step))
    return words[index // half]


def gumbel(seed, step, count):
    bits = np.array([uniform_bits(seed, step, index, count) for index in range(count)])
    return -np.log(-np.log(((bits >> 9) + 0.5) * 2.0**-23))


def decode(score, prompt, *, eos=(), context, max_new_tokens, min_new_tokens=0, temperature=0.0,
           top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0):  # fmt: skip
    """One row, one token at a time, the whole text read anew for each: `score(ids) -> [V]`."""
    ids, logprobs = list(prompt), []
    for step in range(min(max_new_tokens, context - len(prompt))):
        logits = score(ids)
        scores = logits.copy()
        seen = sorted(set(ids))
        hit = scores[seen]
        scores[seen] = np.where(hit > 0, hit / repetition_penalty, hit * repetition_penalty)
        if step < min_new_tokens:
            scores[list(eos)] = MASK_VALUE
        if temperature > 0:
            scores = filtered(
                scores, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
            )
            scores = scores + gumbel(seed, step, len(scores))
        token = int(np.argmax(scores))
        logprobs.append(float(np.log(softmax(logits)[token])))
        ids.append(token)
        if token in eos:
            return ids[len(prompt) :], logprobs, "eos"
    return ids[len(prompt) :], logprobs, "length"
