#!/usr/bin/env bash
# emulation_seeds.sh FIRST LAST: the tests of the GPU's kernels, ops and ranks on the emulation, in check mode, under the
# schedules of these seeds one after the other. Ends at the first that fails and says which it was.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -ne 2 ]; then
  echo "emulation_seeds.sh: usage: emulation_seeds.sh FIRST LAST" >&2
  exit 2
fi
scripts/build.sh cuda-emulated
for ((seed = $1; seed <= $2; ++seed)); do
  log=build/cuda-emulated/seed-$seed.log
  if ! CUDA_EMULATION_SEED=$seed CUDA_EMULATION_CHECK=1 CUDA_EMULATION_HOST_PROTECT=0 CUDA_EMULATION_DEVICES=3 \
    build/cuda-emulated/itemloom_tests "[device]~[e2e]" >"$log" 2>&1; then
    echo "emulation_seeds.sh: seed $seed failed; see $log" >&2
    exit 1
  fi
  echo "seed $seed: $(tail -n 2 "$log" | tr -d '\n')"
done
