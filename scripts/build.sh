#!/usr/bin/env bash
# build.sh [PRESET [TARGET...]]: installs what is missing and builds a preset (release by default) under build/PRESET,
# all of it or the targets named.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
case $preset in
  cuda*) scripts/setup.sh --cuda ;;
  *) scripts/setup.sh ;;
esac
configured=$(cmake --preset "$preset")
grep '^-- CUDA' <<<"$configured" || true
cmake --build "build/$preset" ${2:+--target "${@:2}"}
