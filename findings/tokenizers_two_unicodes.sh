#!/bin/sh
# The normal forms of `tokenizers` (NFC, NFD, NFKC, NFKD), which KoGPT2's and GPT-NeoX's tokenizer.json ask for.
#
# A good guess: one library has one Unicode version, so its normalizers know the characters that its regular expressions know; and
# NFKC of a text is what Python's unicodedata gives, unless a character is newer than both.
# What happens: the regular expressions are of Unicode 16 (U+1C89, of 16.0, is a letter; U+A7CE, of 17.0, is not), the normal forms
# of Unicode 9 (2016). U+32FF, the sign of the Japanese era since 2019, stays as it is, where NFKC makes two characters of it;
# marks added since 2017 (U+1DF6 of 10.0 ...) are not sorted and block composition: the text differs from any current NFC.
# So a tokenizer in another runtime that normalizes with ICU or unicodedata gives other ids on such texts.
# Seen with tokenizers 0.23.3. Source: its normalizers use the crate unicode-normalization-alignments 0.1, whose tables are older
# than those of the regular expressions (onig).
# What helps: keep the characters that the old tables do not know out of the newer normalizer, and normalize what lies between, as
# tfgpt2/tokenizers/normal_form.py does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3 2>/dev/null
"$folder/venv/bin/python" - <<'END'
import unicodedata

import tokenizers

nfkc, nfd = tokenizers.normalizers.NFKC(), tokenizers.normalizers.NFD()
letters = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+"), "isolated")
print("tokenizers", tokenizers.__version__, "Python's Unicode", unicodedata.unidata_version)


def is_letter(character):
    return len(letters.pre_tokenize_str(f"a{character}b")) == 1


def is_sorted(mark):  # a mark of a higher class moves behind U+0334, of class 1
    return nfd.normalize_str(f"{mark}\u0334") == f"\u0334{mark}"


era = nfkc.normalize_str("\u32ff"), unicodedata.normalize("NFKC", "\u32ff")
found = {
    "NFKC of U+32FF, and Python's": era,
    "letters of Unicode 16 and 17": (is_letter("\u1c89"), is_letter("\ua7ce")),
    "marks of Unicode 8, 9, 10, 11 are sorted": tuple(map(is_sorted, "\u08e3\u08d4\u1df6\u09fe")),
    "e, mark of 2018, acute: composed": len(tokenizers.normalizers.NFC().normalize_str("e\u07fd\u0301")) == 2,
    "the same by Python": len(unicodedata.normalize("NFC", "e\u07fd\u0301")) == 2,
}
for name, value in found.items():
    print(f"{name}: {value}")
expected = [("\u32ff", "\u4ee4\u548c"), (True, False), (True, True, False, False), False, True]
raise SystemExit(list(found.values()) != expected)
END
