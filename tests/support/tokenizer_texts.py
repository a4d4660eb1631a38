"""Texts for tokenizers, and the comparison of a layer with the `tokenizers` library."""

import random

import tensorflow as tf

NASTY = [
    "", " ", "\n", "\t \r\n", "a", "Hello, world!", "don't  stop...", "ÀÉÎõü ǅ İı ß ẞ Σς",
    "naïve café résumé", "你好,世界。", "我love你 2020年", "日本語のテキスト、カタカナ。",
    "한국어 텍스트", "𠀀𪛖丽",
    "ＡＢＣ１２３ｱｲｳ ①②", "a\u3000b\u00a0c\u2028d\u2029e\u0085f", "x\u200by\u200dz\ufeffw\u00adv",
    "a\x00b\x7fc\x1bd\ufffde", "e\u0301\u0327 o\u0338\u0302 \u0301a", "\u1e69\u0323 \u212b \u2126",
    "👍🏽👨‍👩‍👧 🇨🇳 ☃️", "[UNK] [CLS][SEP] [MASK]", "##ing ## #", "a_b-c/d\\e|f~g`h^i$j",
    "\U000f0000\U0010ffff",
    "a" * 99, "b" * 100, "c" * 101, "é" * 100, "中" * 150, "supercalifragilistic" * 6,
    "\u302e\u1d16d\u0315\u05ae", "\U0001d165\u302e\u0334 \u0f71\u0f72\u0f74", "ไทย عربي",
    "עברית हिन्दी",
    "“引号”‘单’—…《书》", "１，２。３！", "A\u030aB\u0327", "\ud7a3\u1100\u1161\u11a8",
]  # fmt: skip

# Where characters of a fuzzed text come from.
_RANGES = (
    (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0x09, 0x0D), (0xA0, 0x17F), (0x300, 0x36F),
    (0x370, 0x52F), (0x590, 0x8FF), (0x900, 0xDFF), (0x1AB0, 0x1CFF),
    (0x1DC0, 0x20CF), (0x2190, 0x2FFF), (0x3000, 0x33FF), (0x4E00, 0x9FFF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFF), (0x10000, 0x10FFFF),
    (0x1D100, 0x1D1FF), (0x1E000, 0x1E2FF), (0x1F300, 0x1FAFF),
)  # fmt: skip


def fuzzed_texts(count, seed, words=()):
    """Yields texts of characters of all kinds, and of words."""
    rng = random.Random(seed)
    for _ in range(count):
        ranges = [rng.choice(_RANGES) for _ in range(rng.randint(1, 4))]
        parts = []
        for _ in range(rng.randint(0, 24)):
            if words and rng.random() < 0.3:
                parts.append(rng.choice(words))
            else:
                code = rng.randint(*rng.choice(ranges))
                parts.append(chr(code) if not 0xD800 <= code <= 0xDFFF else " ")
            if rng.random() < 0.2:
                parts.append(" ")
        yield "".join(parts)


def all_code_points():
    """Yields each Unicode character."""
    return (chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)


def count_differences(layer, texts, backend=None):
    """Returns how many of the texts get other ids than from `tokenizers`, and the first of them."""
    backend = layer.spec.backend() if backend is None else backend
    ours = layer.tokenize(tf.constant(texts, tf.string)).to_list()
    theirs = [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]
    wrong = [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    return len(wrong), [(texts[i], ours[i], theirs[i]) for i in wrong[:3]]


def batches(texts, size=50_000):
    """Yields lists of texts."""
    batch = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
