#!/usr/bin/env bash
# check_includes.sh: includes go one way. Every `#include "room/..."` outside of tests and scripts must point to a room
# the including one may use.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A allowed=(
  [core]="core"
  [kernels]="kernels core"
  [layers]="layers kernels core"
  [optim]="optim kernels core"
  [data]="data core"
  [train]="train optim layers data kernels core"
)
# Of core, kernels know only what a kernel is made of.
kernel_core='core/(view|bf16|device|check|memory|parallel|rng|simd-inl|cuda/context)\.h'

failed=0
for room in "${!allowed[@]}"; do
  while IFS=: read -r file line include; do
    target=${include#*\"}
    target=${target%%\"*}
    case " ${allowed[$room]} " in
      *" ${target%%/*} "*) ;;
      *)
        echo "$file:$line: $room must not include $target" >&2
        failed=1
        ;;
    esac
    if [ "$room" = kernels ] && [[ $target == core/* ]] && ! [[ $target =~ ^$kernel_core$ ]]; then
      echo "$file:$line: kernels must not include $target" >&2
      failed=1
    fi
  done < <(grep -rnE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' '^#include "' "$room" || true)
done
exit $failed
