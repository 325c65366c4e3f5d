#!/usr/bin/env bash
# two_hosts.sh [plain|delay|cut]: two ranks on two hosts that are network namespaces of this machine, each with a host
# name, /dev/shm and /tmp of its own and a cable between them, so that nothing but messages can join the ranks.
#   plain   the run says that it goes by messages, and ends at the bits of the same run in shared memory
#   delay   the same with a cable that takes 20 ms in each direction (scripts/delayed_cable.py)
#   cut     the cable is cut in mid-run: both hosts' ranks end, with the line that says who was where
# Needs root and iproute2, for delay python3, ping and /dev/net/tun, too; where something is missing it says so and
# exits with 77.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-plain}
program=$PWD/build/release/itemloom
timeout=5  # training.rank_timeout of the run whose cable is cut
limit=20   # seconds within which all of its ranks must have ended
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

skip() {
  echo "two_hosts.sh: $1" >&2
  exit 77
}
case $mode in plain | delay | cut) ;; *) echo "two_hosts.sh: plain, delay or cut, not $mode" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || skip "needs root, to make network namespaces"
for tool in ip nsenter unshare mpirun; do command -v $tool >/dev/null || skip "needs $tool (iproute2, util-linux, openmpi)"; done
if [ "$mode" = delay ]; then
  for tool in python3 ping; do command -v $tool >/dev/null || skip "needs $tool (iputils-ping) for a delay"; done
  [ -c /dev/net/tun ] || skip "needs /dev/net/tun for a delay"
fi

work=$(mktemp -d)
near=loom-a-$$ far=loom-b-$$
declare -A address=([$near]=10.213.77.1 [$far]=10.213.77.2)
launcher="" cable=""

# The processes of a host, which nobody but this script has started.
processes() { ip netns pids "$1" 2>/dev/null || true; }
# Those of its ranks. Ended ones that nobody has collected have no program any more.
ranks() { for pid in $(processes "$1"); do [ "$(readlink "/proc/$pid/exe")" != "$program" ] || echo "$pid"; done; }

clean_up() {
  [ -z "$cable" ] || kill $cable 2>/dev/null || true
  for host in $near $far; do
    kill -9 $(processes $host) 2>/dev/null || true
    ip netns del $host 2>/dev/null || true
  done
  rm -rf "$work"
}
trap clean_up EXIT

failed() {
  echo "two_hosts.sh: $1" >&2
  sed 's/^/  /' "$work/log" >&2 2>/dev/null || true
  exit 1
}

make_host() {
  ip netns add $1 2>"$work/log" || skip "cannot make a network namespace: $(cat "$work/log")"
  ip -n $1 link set lo up
}

make_hosts() {
  make_host $near
  make_host $far
  printf '127.0.0.1 localhost\n%s %s\n%s %s\n' ${address[$near]} $near ${address[$far]} $far >"$work/hosts"
  if [ "$mode" = delay ]; then
    make_delayed_cable
  else
    ip link add eth0 netns $near type veth peer name eth0 netns $far
  fi
  for host in $near $far; do
    ip -n $host address add ${address[$host]}/24 dev eth0
    ip -n $host link set eth0 up
  done
}

make_delayed_cable() {
  scripts/delayed_cable.py $near $far 20 >"$work/cable" 2>"$work/log" &
  cable=$!
  for ((tries = 0; tries < 100; ++tries)); do
    [ ! -s "$work/cable" ] || return 0
    sleep 0.1
  done
  failed "there is no cable with a delay"
}

# What mpirun calls in place of ssh: AGENT HOST COMMAND... The command gets a host name and folders of its own.
make_agent() {
  mkdir "$work/tmp"
  cat >"$work/agent" <<AGENT
#!/usr/bin/env bash
host=\$1
shift
exec ip netns exec "\$host" unshare --uts --mount --ipc bash -c '
  hostname "\$0" && mount --make-rprivate / && mount --bind "$work/hosts" /etc/hosts &&
    mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$work/tmp" && export TMPDIR="$work/tmp" && eval "\$1"
' "\$host" "\$*"
AGENT
  chmod +x "$work/agent"
}

# Trains one rank on each of the hosts $1 (or two on one host) into run folder $2, with the other arguments' settings.
train() {
  local hosts=$1 run=$2
  shift 2
  "$work/agent" $near "exec mpirun --host $hosts --oversubscribe --mca plm_rsh_agent '$work/agent' \
    --mca oob_tcp_if_include 10.213.77.0/24 --mca btl_tcp_if_include 10.213.77.0/24 --output-filename '$run-output' \
    '$program' train configs/tiny.json --run '$run' $*" >"$work/log" 2>&1
}

bits() { "$program" inspect "$1/checkpoint-last.h5" | awk '$1 == "content_sha256:" { print $2 }'; }

compare_with_one_host() {
  train $near:2 "$work/one-host" || failed "the run on one host failed"
  grep -q '2 ranks by shared memory' "$work/log" || failed "the run on one host did not go by shared memory"
  [ "$mode" = plain ] || ip netns exec $near ping -c 3 -q ${address[$far]} | tail -n 1
  train $near:1,$far:1 "$work/two-hosts" || failed "the run on two hosts failed"
  grep -q '2 ranks by messages' "$work/log" || failed "the run on two hosts did not go by messages"
  [ "$(bits "$work/one-host")" = "$(bits "$work/two-hosts")" ] || failed "two hosts end at other bits than one"
  echo "two_hosts.sh $mode: 2 ranks by messages on two hosts end at the bits of 2 ranks by shared memory on one"
  grep 'steps of' "$work/log"
}

now() { echo "${EPOCHREALTIME/[.,]/}"; }  # in microseconds

# Waits until host $1 has no ranks; $2 is when the cable was cut.
wait_for_end() {
  while [ -n "$(ranks $1)" ]; do
    [ $(($(now) - $2)) -lt $((limit * 1000000)) ] || failed "ranks on $1 are there $limit seconds after the cut"
    sleep 0.05
  done
  echo "the rank on $1 ended $((($(now) - $2) / 1000)) ms after the cut:"
  grep -rhs 'so this run ends' "$work/run-output"/*/rank.$3/stderr || failed "the rank on $1 did not say why it ended"
}

cut_cable() {
  train $near:1,$far:1 "$work/run" --set training.epochs=100000 --set training.rank_timeout=$timeout &
  launcher=$!
  for ((tries = 0; tries < 300; ++tries)); do
    [ ! -s "$work/run/metrics.jsonl" ] || break
    sleep 0.1
  done
  [ -n "$(ranks $near)" ] && [ -n "$(ranks $far)" ] || failed "the run has not begun on both hosts"
  ip -n $near link set eth0 down
  local cut
  cut=$(now)
  wait_for_end $near $cut 0
  wait_for_end $far $cut 1
  # Open MPI's launcher itself waits for the other host for minutes.
  kill -9 $(processes $near) $(processes $far) 2>/dev/null || true
  wait $launcher || true
  echo "two_hosts.sh cut: all ranks ended; what was left of mpirun was ended by this script"
}

make_hosts
make_agent
if [ "$mode" = cut ]; then cut_cable; else compare_with_one_host; fi
