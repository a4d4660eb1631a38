"""Reference implementation of packing documents into blocks, in plain Python."""


def packed_blocks(documents, eos, block, *, document_mask=False, keep_tail=False):
    """Blocks of joined documents; with `document_mask` also positions, labels and mask."""
    flat = [
        (token, number, place)
        for number, document in enumerate(documents)
        for place, token in enumerate([*document, eos])
    ]
    result = []
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        if len(part) < block and (not keep_tail or len(part) < 2):
            continue
        padding = [(0, -1, None)] * (block - len(part))
        part = part + padding
        row = {"input_ids": [token for token, _, _ in part]}
        row["labels"] = [-100 if n == -1 else token for token, n, _ in part]
        if document_mask:
            row["mask"] = [
                [j <= i and part[j][1] == part[i][1] for j in range(block)] for i in range(block)
            ]
            row["positions"], row["labels"] = [], list(row["labels"])
            for i, (_, number, place) in enumerate(part):
                before = [j for j in range(i) if part[j][1] == number]
                row["positions"].append(len(before))
                if place == 0:
                    row["labels"][i] = -100
        result.append(row)
    return result
