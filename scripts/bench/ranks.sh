#!/usr/bin/env bash
# ranks.sh CONFIG [--set KEY=VALUE]...: what several ranks cost and bring on this machine, from real training runs.
#
# Prints, as medians over ROUNDS (3) runs of each kind in turn, the milliseconds of a step (an epoch's seconds over its
# steps, the first epoch left out) for
#   whole     1 rank x 2 threads
#   strong    2 ranks x 1 thread, the same batch           ratio strong / whole
#   single    1 rank x 1 thread, half the batch
#   apart     the same, beside another such run on the other processor, which it has nothing to do with
# and   weak      = single / strong: each rank has the work that `single` has
#       ceiling   = single / apart: what two processors that share caches, memory and perhaps a core leave of it
# and the share of a step of `strong` that is communication which computing does not hide.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=$1
shift
rounds=${ROUNDS:-3}
batch=${BATCH:-256}
program=build/release/itemloom
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# kind ranks threads batch [--set ...]
train() {
  local kind=$1 ranks=$2 threads=$3 size=$4
  shift 4
  local launch=()
  [ "$ranks" -eq 1 ] || launch=(mpirun -n "$ranks" --bind-to core)
  [ "$kind" != apart ] || launch=(taskset -c "$processor")
  "${launch[@]}" "$program" train "$config" --run "$folder/run-$processor" "$@" --set training.epochs=3 \
    --set training.validate_every=1000 --set training.checkpoint_every=0 --set training.threads="$threads" \
    --set training.batch_size="$size" --set optimizer.schedule.warmup_steps=0 2>"$folder/log-$processor" || {
    cat "$folder/log-$processor" >&2
    exit 1
  }
  sed "s/^/$kind /" "$folder/run-$processor/metrics.jsonl" >>"$folder/lines"
  rm -rf "$folder/run-$processor"
}
processors=($(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | awk -F- '{ for (p = $1; p <= ($2 == "" ? $1 : $2); ++p) print p }'))
[ ${#processors[@]} -ge 2 ] || { echo "ranks.sh: needs two processors" >&2; exit 1; }
processor=${processors[0]}
for ((round = 0; round < rounds; ++round)); do
  train whole 1 2 "$batch" "$@"
  train strong 2 1 "$batch" "$@"
  train single 1 1 $((batch / 2)) "$@"
  processor=${processors[1]} train apart 1 1 $((batch / 2)) "$@" &
  train apart 1 1 $((batch / 2)) "$@"
  wait $!
done
python3 - "$folder/lines" <<'PYTHON'
import json, statistics, sys
steps, shares, before = {}, [], {}
for line in open(sys.argv[1]):
    kind, text = line.split(" ", 1)
    epoch = json.loads(text)
    if epoch["epoch"] > 1:
        steps.setdefault(kind, []).append(1e3 * epoch["seconds"] / (epoch["step"] - before[kind]))
        if kind == "strong":
            parts = epoch["step_milliseconds"]
            shares.append(parts["communication"] / sum(parts.values()))
    before[kind] = epoch["step"]
median = {kind: statistics.median(values) for kind, values in steps.items()}
for kind, value in median.items():
    print(f"{kind:8} {value:9.2f} ms a step")
print(f"strong / whole  {median['strong'] / median['whole']:.3f}")
print(f"weak efficiency {median['single'] / median['strong']:.3f}")
print(f"its ceiling     {median['single'] / median['apart']:.3f}")
print(f"exposed communication {100 * statistics.median(shares):.1f} % of a step")
PYTHON
