#!/bin/bash
# sentencepiece: 0.2.2 and 0.2.3 give some texts other ids than 0.2.1 with the same Unigram model.
#
# The guess: ids are a function of the model and the text. A model file that a checkpoint was trained
# with gives the same ids in every release, at least from one patch release to the next.
# What happens: the sums of scores of long texts are rounded otherwise. Where two choices of pieces
# are nearly equally likely, encode() makes another one, so the same word gets other pieces than
# before, and other pieces than at another place of the same text. 0.1.99 to 0.2.1 agree with each
# other and with TF Text 2.21; 0.2.2 and 0.2.3 agree with each other.
# Version: sentencepiece 0.2.1 and 0.2.3. Source: src/unigram_model.cc, EncodeOptimized.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/program.py" <<'PYTHON'
import io
import json
import random
import sys

import sentencepiece

folder, version = sys.argv[1], sentencepiece.__version__
letters = random.Random(0)
words = ["".join(letters.choices("etaoinshrdlu", k=letters.randint(2, 9))) for _ in range(4000)]
texts = [" ".join(letters.choices(words, k=3000)) for _ in range(100)]
if version == "0.2.1":
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(letters.choices(words, k=20)) for _ in range(2000)),
        model_writer=model, vocab_size=1000, minloglevel=2, num_threads=1,
    )
    open(f"{folder}/spiece.model", "wb").write(model.getvalue())
processor = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spiece.model")
ids = [processor.encode(text) for text in texts]
if version == "0.2.1":
    json.dump(ids, open(f"{folder}/ids.json", "w"))
else:
    old = json.load(open(f"{folder}/ids.json"))
    changed = [i for i in range(len(texts)) if ids[i] != old[i]]
    print("sentencepiece", version, "texts with other ids than in 0.2.1:", len(changed), "of", len(texts))
    if changed:
        pairs = zip(*([processor.id_to_piece(j) for j in one[changed[0]]] for one in (old, ids)))
        print("the first:", next((a, b) for a, b in pairs if a != b))
    raise SystemExit(not changed)
PYTHON
for version in 0.2.1 0.2.3; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "sentencepiece==$version"
    "$folder/$version/bin/python" "$folder/program.py" "$folder"
done
