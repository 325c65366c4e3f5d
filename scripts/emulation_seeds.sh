#!/usr/bin/env bash
# emulation_seeds.sh FIRST LAST: all tests of the GPU's code on the emulation, in check mode, under the schedules of these
# seeds, as many at a time as there are processors. Begins no more of them after one has failed, and says which it was.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -ne 2 ]; then
  echo "emulation_seeds.sh: usage: emulation_seeds.sh FIRST LAST" >&2
  exit 2
fi
scripts/build.sh cuda-emulated
export CUDA_EMULATION_CHECK=1 CUDA_EMULATION_HOST_PROTECT=0 CUDA_EMULATION_DEVICES=3
test_seed() {
  local log=build/cuda-emulated/seed-$1.log
  if ! CUDA_EMULATION_SEED=$1 build/cuda-emulated/itemloom_tests "[device]" >"$log" 2>&1; then
    echo "emulation_seeds.sh: seed $1 failed; see $log" >&2
    exit 255  # which ends xargs
  fi
  echo "seed $1: $(tail -n 2 "$log" | tr -d '\n')"
}
export -f test_seed
seq "$1" "$2" | xargs -P "$(nproc)" -I SEED bash -c 'test_seed SEED' || exit 1
