#!/usr/bin/env bash
# build.sh [PRESET]: installs what is missing and builds a preset (release by default) under build/PRESET.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
scripts/setup.sh
cmake --preset "$preset" >/dev/null
cmake --build "build/$preset"
