#!/usr/bin/env bash
# test.sh: setup, build and every test.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh release
ctest --preset release -j "$(nproc)"
