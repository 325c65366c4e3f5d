#!/usr/bin/env bash
# gpu_check.sh [--emulated]: everything that wants a GPU, in one go: driver and toolkit, the build of preset cuda, its
# tests, compute-sanitizer over the kernels' tests, training runs in every precision and on two GPUs, steps of known
# shapes against the data sheet, and each kernel's share of its roofline. Steps that lack their tool or a second GPU say
# so. Writes build/gpu-check/gpu-check.json beside the logs, and the README's table to table.md there. Exits with 1 if
# a step failed; without a GPU it says what could be checked without one and exits with 77.
#
#   --emulated        the same steps on the emulation, with small data, few tests and no times: a check of this script
#   BUILD=FOLDER      takes the programs that are there and builds nothing
set -euo pipefail
cd "$(dirname "$0")/.."
emulated=false
case ${1:-} in
  "") ;;
  --emulated) emulated=true ;;
  *) echo "gpu_check.sh: usage: gpu_check.sh [--emulated]" >&2; exit 2 ;;
esac
preset=cuda
if $emulated; then
  preset=cuda-emulated
  export CUDA_EMULATION_DEVICES=2
fi
build=${BUILD:-build/$preset}
program=$build/itemloom
out=build/gpu-check
seconds=600  # of one tool over the kernels' tests
kernel_tests="[device]~[e2e]~[gpus]"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rm -rf "$out"
mkdir -p "$out"

# note KEY JSON: a result. Words are quoted by `words`.
note() { printf '%s\t%s\n' "$1" "$2" >>"$out/results"; }
words() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }
# value FILE KEY...: what is there in the last line of a file of JSON objects, or in its one object.
value() {
  python3 - "$@" <<'PYTHON'
import json, sys
text = open(sys.argv[1]).read()
found = json.loads(text.splitlines()[-1] if sys.argv[1].endswith(".jsonl") else text)
for key in sys.argv[2:]:
    found = found[int(key) if isinstance(found, list) else key]
print(json.dumps(found))
PYTHON
}
skip() {
  echo "  skipped: $2"
  note "$1" "$(words "skipped: $2")"
}
# step KEY FUNCTION: runs it; a failure is noted and the next step comes.
step() {
  echo "== $1"
  if ! "$2"; then
    echo "  FAILED; see $out" >&2
    note "$1.failed" true
    failed=true
  fi
}
failed=false

check_toolkit() {
  local compiler
  if [ -e build/cuda-toolkit/complete ]; then
    compiler=build/cuda-toolkit/nvidia/cu13/bin/nvcc
  elif [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then
    compiler=$CUDA_HOME/bin/nvcc
  else
    compiler=$(command -v nvcc) || { echo "toolkit: no nvcc; scripts/setup.sh --cuda installs one"; return 1; }
  fi
  note toolkit "$(words "$("$compiler" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')")"
  echo "toolkit: $("$compiler" --version | sed -n 's/.*release/release/p') ($compiler)"
}

# Sets gpus, their number, and gpu, the name of the first.
check_driver() {
  if $emulated; then
    gpus=2 gpu="CUDA emulation"
    echo "driver: none, the emulation stands for $gpus GPUs"
  else
    local rows
    local asked=name,driver_version,memory.total,compute_cap
    rows=$(nvidia-smi --query-gpu=$asked --format=csv,noheader 2>/dev/null) || return 1
    [ -n "$rows" ] || return 1
    gpus=$(wc -l <<<"$rows")
    gpu=$(head -n 1 <<<"$rows" | cut -d, -f1)
    echo "driver: $gpus GPU(s), the first is $(head -n 1 <<<"$rows")"
    note driver "$(words "$(head -n 1 <<<"$rows" | cut -d, -f2 | tr -d ' ')")"
  fi
  note gpu "$(words "$gpu")"
  note gpus "$gpus"
}

without_gpu() {
  echo "gpu_check.sh: there is no NVIDIA GPU with a working driver here (nvidia-smi names none)"
  if check_toolkit; then
    if cmake --preset cuda -B "$out/configure" >"$out/configure.log" 2>&1; then
      echo "preset cuda configures"
    else
      echo "preset cuda does not configure: $(grep -m 1 -A 2 'CMake Error' "$out/configure.log" | tr '\n' ' ')"
    fi
    rm -rf "$out/configure"
  fi
  exit 77
}

build_preset() {
  if [ -n "${BUILD:-}" ]; then
    echo "  nothing is built; the programs are those of $build"
  else
    scripts/build.sh $preset >"$out/build.log" 2>&1 || return 1
  fi
  "$program" doctor --json >"$out/doctor.json" || return 1
  local found
  found=$(value "$out/doctor.json" ranks 0 cuda)
  echo "  doctor: $found"
  note doctor "$found"
  if [[ $found == *"CUDA emulation"* ]] && ! $emulated; then
    echo "  the programs of $build run on the emulation, not on a GPU" >&2
    return 1
  fi
  note precisions "$("$program" config schema | python3 -c '
import json, sys
key = json.load(sys.stdin)["properties"]["training"]["properties"].get("precision")
print(json.dumps([name for name in key["enum"] if name] if key else ["fp32"]))')"
  precisions=$(awk -F '\t' '$1 == "precisions" { print $2 }' "$out/results" | tr -d '[]",')
}

# Tests that want more GPUs than there are go by their names, because ctest knows no tags.
run_tests() {
  local choice=() excluded=""
  if $emulated; then
    choice=(-R "fill and add touch every element|gather and scatter move exactly")
  elif [ "$gpus" -lt 3 ]; then
    "$build/itemloom_tests" "[gpus]" --list-test-names-only >"$out/excluded-tests" || true
    excluded=$(sed 's/[][().*+?^$|\\]/\\&/g' "$out/excluded-tests" | paste -sd '|')
    choice=(-E "^($excluded)\$")
    echo "  left out, because they want up to 3 GPUs: $(wc -l <"$out/excluded-tests") tests"
  fi
  local status=0 verdict
  ctest --test-dir "$build" --no-tests=error --output-on-failure "${choice[@]}" >"$out/tests.log" 2>&1 || status=1
  verdict=$(grep 'tests passed' "$out/tests.log" || tail -n 1 "$out/tests.log")
  note tests "$(words "$verdict")"
  echo "  $verdict"
  return $status
}

sanitize() {
  if $emulated; then skip sanitizer "compute-sanitizer wants a GPU"; return; fi
  if ! command -v compute-sanitizer >/dev/null; then skip sanitizer "no compute-sanitizer"; return; fi
  local tool status bad=0
  for tool in memcheck racecheck initcheck; do
    status=0
    timeout $seconds compute-sanitizer --tool $tool --error-exitcode 9 "$build/itemloom_tests" "$kernel_tests" \
      >"$out/$tool.log" 2>&1 || status=$?
    case $status in
      0) note "sanitizer.$tool" '"no errors"' ;;
      124) note "sanitizer.$tool" "$(words "no errors within $seconds seconds")" ;;
      *) note "sanitizer.$tool" "$(words "$(tail -n 1 "$out/$tool.log")")"; bad=1 ;;
    esac
    echo "  $tool: $(tail -n 1 "$out/$tool.log")"
  done
  return $bad
}

# make_job FOLDER USERS LENGTH ITEMS HIDDEN HEADS BATCH: data and config of users who all have LENGTH items in training,
# and two more, which leave-one-out takes.
make_job() {
  mkdir -p "$1"
  python3 - "$@" <<'PYTHON'
import json, pathlib, random, sys
folder, (users, length, items, hidden, heads, batch) = pathlib.Path(sys.argv[1]), map(int, sys.argv[2:])
random.seed(1)
lines = (" ".join(map(str, [user] + random.choices(range(items), k=length + 2))) for user in range(users))
(folder / "sequences.txt").write_text("\n".join(lines) + "\n")
config = {"data": {"files": ["sequences.txt"], "format": "sequences", "max_length": length}, "device": "cuda",
          "masking": {"mask_last_share": 0}, "model": {"hidden_size": hidden, "heads": heads},
          "training": {"batch_size": batch, "epochs": 4, "validate_every": 0, "checkpoint_every": 0}}
(folder / "config.json").write_text(json.dumps(config))
PYTHON
}

# start_training NAME CONFIG [ARGUMENT...]: a run on the GPU; LAUNCH may hold what starts it.
start_training() {
  local name=$1 config=$2
  shift 2
  ${LAUNCH:-} "$program" train "$config" --run "$out/$name" --set device=cuda "$@" >"$out/$name.log" 2>&1
}

# The same, whose epochs become the result NAME.
train() {
  local name=$1
  start_training "$@" || return 1
  note "$name" "$(python3 - "$out/$name/metrics.jsonl" $emulated <<'PYTHON'
import json, statistics, sys
epochs = [json.loads(line) for line in open(sys.argv[1])]
steady = epochs[1:] or epochs  # the first epoch warms up
result = {"epochs": len(epochs), "steps": epochs[-1]["step"], "loss": epochs[-1]["loss"]}
if sys.argv[2] == "false":
    result["tokens_per_second"] = statistics.median(epoch["tokens_per_second"] for epoch in steady)
    result["step_milliseconds"] = statistics.median(sum(epoch["step_milliseconds"].values()) for epoch in steady)
print(json.dumps(result))
PYTHON
)"
}

train_retail() {
  local precision config=configs/online-retail.json
  if $emulated; then
    make_job "$out/retail" 64 10 60 16 2 32
    config=$out/retail/config.json
  fi
  for precision in $precisions; do
    echo "  $precision"
    train "retail.$precision" "$config" --set "training.precision=$precision" || return 1
    "$program" evaluate --run "$out/retail.$precision" --device cuda --json >"$out/retail.$precision.json" \
      2>>"$out/retail.$precision.log" || return 1
    note "retail.$precision.ndcg@10" "$(value "$out/retail.$precision.json" metrics ndcg@10)"
  done
}

# The same few epochs with one rank and with two, whose gradients travel in fp32 and in bf16, which must agree.
train_ranks() {
  if [ "$gpus" -lt 2 ]; then skip ranks "one GPU"; return; fi
  if ! command -v mpirun >/dev/null; then skip ranks "no mpirun"; return; fi
  local job=$out/ranks
  if $emulated; then make_job "$job" 64 10 60 16 2 32; else make_job "$job" 4096 200 3416 64 2 256; fi
  train ranks.1 "$job/config.json" || return 1
  LAUNCH="mpirun -n 2" train ranks.2 "$job/config.json" || return 1
  LAUNCH="mpirun -n 2" train ranks.2.bf16 "$job/config.json" --set training.gradient_exchange=bf16 || return 1
  python3 - "$out/results" <<'PYTHON'
import json, sys
losses = [json.loads(line.split("\t")[1])["loss"] for line in open(sys.argv[1]) if line.startswith("ranks.")]
print(f"  loss {losses[0]:.5f} with one rank, {losses[1]:.5f} with two, {losses[2]:.5f} with gradients in bf16")
sys.exit(any(abs(loss / losses[0] - 1) > 0.01 for loss in losses))
PYTHON
}

# Shapes of kernel_formulas.py, whose FLOPs are known.
bench() {
  local shape hidden heads precision
  while read -r shape hidden heads; do
    local job=$out/bench-$shape
    if $emulated; then make_job "$job" 64 10 60 16 2 32; else make_job "$job" 4096 200 3416 "$hidden" "$heads" 256; fi
    for precision in $precisions; do
      echo "  $shape $precision"
      train "bench.$shape.$precision" "$job/config.json" --set "training.precision=$precision" || return 1
      [ "$shape" = ml-1m-d64 ] || continue
      # Its kernels are the shortest.
      train "bench.$shape.$precision.graphs" "$job/config.json" --set "training.precision=$precision" \
        --set training.cuda_graphs=true || return 1
    done
  done <<<"ml-1m-d64 64 2
ml-1m-d256 256 4"
}

# The data sheet's name of the GPU, or nothing.
sheet() { grep -owE 'A100|H100|H200|B200' <<<"$gpu" || true; }

profile() {
  if $emulated; then skip profile "nsys wants a GPU"; return; fi
  if ! command -v nsys >/dev/null; then skip profile "no nsys"; return; fi
  local precision name of
  of=$(sheet)
  [ -n "$of" ] || echo "  no data sheet of '$gpu' in kernel_formulas.py: times without shares"
  for precision in $precisions; do
    name=profile.$precision
    LAUNCH="nsys profile --force-overwrite true --trace cuda --output $out/$name" \
      start_training "$name.run" "$out/bench-ml-1m-d64/config.json" --set "training.precision=$precision" || return 1
    nsys stats --report cuda_gpu_kern_sum --format csv --output - "$out/$name.nsys-rep" 2>"$out/$name.log" |
      sed -n '/^Time (%)/,$p' >"$out/$name.csv"
    echo "  $precision"
    scripts/kernel_report.py --measured "$out/$name.csv" --shape ml-1m-d64 --precision "$precision" ${of:+--gpu "$of"} \
      --steps "$(value "$out/$name.run/metrics.jsonl" step)" --json "$out/$name.json" || return 1
    note "$name" "$(tr -d '\n' <"$out/$name.json")"
  done
}

report() {
  local commit
  commit=$(git rev-parse HEAD 2>/dev/null || true)
  PYTHONPATH=scripts PYTHONDONTWRITEBYTECODE=1 python3 - "$out" $emulated "$(sheet)" "$commit" <<'PYTHON'
import json, pathlib, sys
from kernel_formulas import DATA_SHEETS, SHAPES, model_flops
out, emulated, sheet, commit = pathlib.Path(sys.argv[1]), sys.argv[2] == "true", sys.argv[3], sys.argv[4]
results = dict(line.rstrip("\n").split("\t") for line in open(out / "results"))
results = {"emulated": emulated, "commit": commit} | {key: json.loads(value) for key, value in results.items()}
shapes = {shape.name: shape for shape in SHAPES}
rows = []
for key, value in results.items():
    kind, _, rest = key.partition(".")
    if kind == "bench" and not emulated:
        shape, precision = rest.split(".")[:2]
        value["model_tflops_per_second"] = model_flops(shapes[shape]) / value["step_milliseconds"] * 1e-9
        if sheet:
            value["model_flop_use"] = value["model_tflops_per_second"] / DATA_SHEETS[sheet][precision]
    if isinstance(value, dict) and "loss" in value:
        speed = f"{value['tokens_per_second']:,.0f}" if "tokens_per_second" in value else ""
        use = f"{100 * value['model_flop_use']:.1f} %" if "model_flop_use" in value else ""
        ndcg = results.get(f"{key}.ndcg@10")
        quality = f"{value['loss']:.4f}" + (f", NDCG@10 {ndcg:.4f}" if ndcg is not None else "")
        rows.append(f"| {key} | {speed} | {use} | {quality} |")
(out / "gpu-check.json").write_text(json.dumps(results, indent=1) + "\n")
print(f"\n{results['gpus']} x {results['gpu']}, CUDA {results['toolkit']}; {results['tests']}")
if emulated:
    print("EMULATED: nothing of this was on a GPU, and no times were taken")
table = "| run | tokens/s | model FLOP use | loss |\n|---|---|---|---|\n" + "\n".join(rows)
(out / "table.md").write_text(table + "\n")
print(table)
for key in results:
    if key.endswith(".failed"):
        print(f"FAILED: {key[:-7]}")
print(f"written: {out}/gpu-check.json, {out}/table.md")
PYTHON
}

check_driver || without_gpu
check_toolkit || exit 1
step build build_preset
if $failed; then
  tail -n 20 "$out/build.log" >&2 2>/dev/null || true
  exit 1
fi
step tests run_tests
step sanitizer sanitize
step retail train_retail
step ranks train_ranks
step bench bench
step profile profile
report
! $failed
