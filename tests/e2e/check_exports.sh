#!/usr/bin/env bash
# check_exports.sh PROGRAM WORK_FOLDER: trains the tiny config, exports in every format, and reads the files with h5py,
# numpy, pandas and gensim from a virtual environment of its own. Exits with 77 (skipped) where Python or the network is
# missing.
set -euo pipefail
program=$1
work=$2
source=$(cd "$(dirname "$0")/../.." && pwd)

skip() {
  echo "skipped: $1"
  exit 77
}
command -v python3 >/dev/null || skip "python3 is not installed"
venv=$work/python
if [ ! -e "$venv/complete" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv" >"$work/venv.log" 2>&1 || skip "python3 cannot make a virtual environment (python3-venv)"
  "$venv/bin/pip" install -q --disable-pip-version-check h5py numpy pandas gensim >>"$work/venv.log" 2>&1 ||
    skip "h5py, numpy, pandas and gensim cannot be installed (see $work/venv.log)"
  touch "$venv/complete"
fi

run=$work/exports
rm -rf "$run"
"$program" train "$source/configs/tiny.json" --run "$run" 2>"$work/exports.log"
"$program" export --run "$run" --out "$run/export.h5"
"$program" export --run "$run" --out "$run/npy" --format npy
"$program" export --run "$run" --out "$run/vectors.txt" --format word2vec
"$program" export --run "$run" --out "$run/vectors.bin" --format word2vec --binary
"$program" export --run "$run" --out "$run/export.csv" --format csv
"$venv/bin/python" "$source/tests/e2e/check_exports.py" "$run"
"$venv/bin/python" "$source/scripts/read_export.py" "$run/export.h5" 85123A
