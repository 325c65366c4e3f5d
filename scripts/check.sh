#!/usr/bin/env bash
# check.sh: what a change must pass beside the tests: format, include directions, the tests under ASan and UBSan.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v clang-format >/dev/null; then
  echo "check.sh: clang-format is missing; install it with: apt-get install clang-format" >&2
  exit 1
fi
git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
scripts/check_includes.sh
if command -v python3 >/dev/null; then
  python3 scripts/scaling_model.py --check
  python3 scripts/kernel_report.py --check
fi
scripts/build.sh asan
ctest --preset asan -j "$(nproc)"
