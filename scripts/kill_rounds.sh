#!/usr/bin/env bash
# kill_rounds.sh [ROUNDS] [LATEST]: does a run of two ranks survive kill -9? Trains configs/tiny.json undisturbed, then
# once more while a random rank is killed ROUNDS times (100), each time at a random moment up to LATEST seconds after
# its start (the length of the undisturbed run), and resumed. After each kill mpirun must have failed within 10 seconds,
# no rank may be left, and every checkpoint must open and be no older than before. A finished run must hold the bits of
# the undisturbed one; the next round then begins a new run. KILL_SEED repeats the kills of an earlier call.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-100}
program=build/release/itemloom
ranks=2
limit=10
seed=${KILL_SEED:-$$}
RANDOM=$seed
# For those who are root in a container, and for machines of one core.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
log=$work/log
run=""
launcher=""
kills=0 resumes=0 restarts=0 finished=0 longest=0

ranks_of() { pgrep -P "$1" || true; }

stop_ranks() {
  [ -n "$launcher" ] || return 0
  kill -9 $(ranks_of "$launcher") "$launcher" 2>/dev/null || true
}
trap stop_ranks EXIT

failed() {
  echo "kill_rounds.sh: $1 (seed $seed, after $kills kills; see $work)" >&2
  tail -n 5 "$log" >&2 || true
  exit 1
}

now() { echo "${EPOCHREALTIME/[.,]/}"; }  # in microseconds

# Starts the run, or goes on with it where it has got as far as to hold one.
start() {
  local mode=()
  [ ! -e "$run/config.resolved.json" ] || mode=(--resume)
  mpirun --oversubscribe -n $ranks "$program" train configs/tiny.json --run "$run" --set training.epochs=6 \
    --set training.checkpoint_every=1 --set training.validate_every=1 "${mode[@]}" >"$log" 2>&1 &
  launcher=$!
  while [ "$(ranks_of $launcher | wc -l)" -lt $ranks ] && [ -e /proc/$launcher ]; do sleep 0.002; done
}

# Waits for mpirun, at most $limit seconds where $1 says that a rank was killed, and gives its exit code in $code.
wait_for_end() {
  local begin watchdog=""
  begin=$(now)
  if [ "$1" = killed ]; then
    local waited=$launcher
    { sleep $limit && kill -9 $waited && touch "$work/hung"; } 2>/dev/null &
    watchdog=$!
  fi
  code=0
  wait $launcher || code=$?
  launcher=""
  [ -n "$watchdog" ] || return 0
  kill "$watchdog" 2>/dev/null || true
  wait "$watchdog" 2>/dev/null || true
  [ ! -e "$work/hung" ] || failed "mpirun had not ended $limit seconds after a rank was killed"
  local took=$(($(now) - begin))
  [ $took -le $longest ] || longest=$took
}

# The ranks of this run carry its folder in their command line; ended ones that nobody has collected do not.
check_nobody_left() {
  local tries
  for ((tries = 0; tries < limit * 10; ++tries)); do
    [ -n "$(pgrep -f -- "--run $work")" ] || return 0
    sleep 0.1
  done
  failed "ranks are left: $(pgrep -af -- "--run $work")"
}

field() { "$program" inspect "$1" | awk -v name="$2:" '$1 == name { print $2 }'; }

# Every checkpoint opens, and the last one stands at step $1 or later; gives its step in $step.
check_checkpoints() {
  local file
  step=0
  for file in "$run"/checkpoint-*.h5; do
    [ -e "$file" ] || continue
    "$program" inspect "$file" >"$work/inspected" 2>&1 || failed "$file is damaged: $(cat "$work/inspected")"
  done
  [ ! -e "$run/checkpoint-last.h5" ] || step=$(field "$run/checkpoint-last.h5" step)
  [ "$step" -ge "$1" ] || failed "the last checkpoint stands at step $step, the one before it stood at $1"
}

check_bits() {
  local bits
  bits=$(field "$run/checkpoint-last.h5" content_sha256)
  [ "$bits" = "$reference" ] || failed "$run ended with bits $bits, the undisturbed run with $reference"
  finished=$((finished + 1))
}

run=$work/reference
begin=$(now)
start
wait_for_end undisturbed
duration=$(($(now) - begin))
[ $code = 0 ] || failed "the undisturbed run failed"
reference=$(field "$run/checkpoint-last.h5" content_sha256)
latest=$(awk -v latest="${2:-0}" -v duration=$duration 'BEGIN { printf "%d", latest ? latest * 1e6 : duration }')

step=0 number=1
run=$work/run-$number
while [ $kills -lt "$rounds" ]; do
  if [ -e "$run/config.resolved.json" ]; then resumes=$((resumes + 1)); else restarts=$((restarts + 1)); fi
  start
  moment=$(((RANDOM * 32768 + RANDOM) % latest))
  sleep "$(printf '%d.%06d' $((moment / 1000000)) $((moment % 1000000)))"
  victims=($(ranks_of $launcher))
  before=$step outcome=undisturbed
  if [ ${#victims[@]} -gt 0 ] && kill -9 "${victims[RANDOM % ${#victims[@]}]}" 2>/dev/null; then outcome=killed; fi
  wait_for_end $outcome
  check_nobody_left
  check_checkpoints "$before"
  [ $code = 0 ] || kills=$((kills + 1))
  [ $code = 0 ] || [ $outcome = killed ] || failed "a run that nobody killed failed with $code"
  [ $code = 0 ] || continue
  check_bits
  number=$((number + 1)) step=0
  run=$work/run-$number
done
start
wait_for_end undisturbed
[ $code = 0 ] || failed "the last run failed with $code"
check_checkpoints "$step"
check_bits
rm -rf "$work"
printf '%d rounds: %d kills, %d resumes, %d new starts, %d runs finished, 0 checkpoints lost or damaged, bits equal; ' \
  "$rounds" $kills $resumes $((restarts)) $finished
printf 'mpirun failed at most %d ms after a kill (run %d ms, kills up to %d ms, seed %d)\n' $((longest / 1000)) \
  $((duration / 1000)) $((latest / 1000)) "$seed"
