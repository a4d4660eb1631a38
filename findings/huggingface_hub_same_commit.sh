#!/bin/sh
# Two repositories in the hub's cache that have a commit in common, as a repository and the copy of it to which its git history
# was pushed do.
#
# A good guess: scan_cache_dir().delete_revisions(commit) finds that commit in both, and frees both (its result is shown before
# anything is deleted), or it asks which one is meant.
# What happens: it plans the deletion of one of them, and which one it is changes from process to process, with the hash seed of
# Python: the caller who wanted to delete the copy may lose the original. There is no warning. (The method takes a commit out of its
# list at the first repository that has it, and iterates over a frozenset of repositories.)
# Its docstring says that "hashes are unique across repos", which a pushed git history is not.
# Seen with huggingface_hub 2.4.0, Python 3.11. Source: huggingface_hub/utils/_cache_manager.py, HFCacheInfo.delete_revisions.
# What helps: dataclasses.replace(info, repos=frozenset({the_one})).delete_revisions(commit), as tfgpt2/cli/models.py does.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0 2>/dev/null
cat > "$folder/program.py" <<'END'
import pathlib, sys
from huggingface_hub import scan_cache_dir

cache, commit = pathlib.Path(sys.argv[1]), "a" * 40
for name in ("original", "copy"):
    snapshot = cache / f"models--me--{name}" / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (snapshot / "config.json").write_text("{}")
plan = scan_cache_dir(cache).delete_revisions(commit)
print(",".join(sorted(path.name for path in plan.repos)))
END
"$folder/venv/bin/python" -c 'import huggingface_hub; print("huggingface_hub", huggingface_hub.__version__)'
for seed in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  PYTHONHASHSEED=$seed "$folder/venv/bin/python" "$folder/program.py" "$folder/cache"
done | sort | uniq -c > "$folder/planned"
cat "$folder/planned"
# Neither both at once nor always the same one.
! grep -q , "$folder/planned" && [ "$(wc -l < "$folder/planned")" = 2 ]
