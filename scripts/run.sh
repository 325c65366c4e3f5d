#!/usr/bin/env bash
# run.sh: the main job on the bundled shop data, from raw rows to exports: setup, build, train BERT4Rec on UCI Online
# Retail, evaluate it on held-out purchases, export embeddings and associations. Results land in runs/online-retail.
# Extra arguments go to `itemloom train` (for example: --set training.epochs=5).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh release itemloom
run=runs/online-retail
program=build/release/itemloom
if [ -e "$run/config.resolved.json" ]; then
  "$program" train configs/online-retail.json --run "$run" --resume "$@"
else
  "$program" train configs/online-retail.json --run "$run" "$@"
fi
"$program" evaluate --run "$run"
"$program" evaluate --run "$run" --json > "$run/test.json"
"$program" export --run "$run" --out "$run/export.h5"
"$program" neighbors --run "$run" --item 85123A --top 5
echo "results: $run/metrics.jsonl (training), $run/test.json (held-out purchases), $run/export.h5 (embeddings, neighbours, associations)"
