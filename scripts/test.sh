#!/usr/bin/env bash
# test.sh: setup, build and every test; those of the GPU's code run on an emulation (tests/cuda_emulation/README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh release
ctest --preset release -j "$(nproc)"
if ! scripts/setup.sh --cuda; then
  echo "test.sh: SKIPPED the tests of the GPU's code: there is no CUDA toolkit here and none could be installed" >&2
  exit 0
fi
scripts/build.sh cuda-emulated
ctest --preset cuda-emulated -j "$(nproc)"
