#!/usr/bin/env bash
# Trains with mpirun and keeps the run going: starts it, and starts it again from its newest
# checkpoint when it was stopped by a signal (exit code 75) or failed, until it is done.
#
#   scripts/launch.sh -n RANKS [--hostfile FILE] [options] CONFIG [group.key=value ...]
#
# Paths are relative to the repository, as the data folders of configs/ are.
#
#   -n RANKS             ranks in all, one a GPU (on the CPU: one a socket or two)
#   --hostfile FILE      hosts for mpirun: lines like "node1 slots=8"; without it, this host alone
#   --max-failures N     give up after N starts in a row without a new step (default 3)
#   --wait SECONDS       between a failure and the next start (default 10)
#   --once               do not start again; leave with the program's exit code
#   --run-folder DIR     where the run's metrics.jsonl lies, if not as CONFIG and overrides say
#
# To stop a run with a checkpoint: Ctrl-C, or SIGTERM or SIGUSR1 to this script. It hands the ranks
# SIGUSR1 through mpirun (mpirun itself would kill them a second after a SIGTERM), waits for the
# checkpoint, and leaves with 75; the same command goes on later. A second signal ends it at once.
#
# Exit codes: those of `gsa train` (0 done, 2 bad configuration, 3 bad data, 4 failed, 75 stopped).
# 2 and 3 are not retried: a second start would fail the same way.
#
# GSA=PATH chooses the program; variables named NCCL_* and OMP_* reach the ranks on every host.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly BAD_CONFIGURATION=2 BAD_DATA=3 STOPPED=75

usage() {
  sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit "$1"
}

ranks='' hostfile='' max_failures=3 wait_seconds=10 once='' run_folder=''
while [[ ${1:-} == -* ]]; do
  option=$1
  case $option in
    --once) once=1 ;;
    -h | --help) usage 0 ;;
    -n | --hostfile | --max-failures | --wait | --run-folder)
      [[ $# -ge 2 ]] || die "$option needs a value"
      case $option in
        -n) ranks=$2 ;;
        --hostfile) hostfile=$2 ;;
        --max-failures) max_failures=$2 ;;
        --wait) wait_seconds=$2 ;;
        --run-folder) run_folder=$2 ;;
      esac
      shift
      ;;
    *) die "unknown option $option (--help shows them)" ;;
  esac
  shift
done
[[ -n $ranks && $# -ge 1 ]] || usage "$BAD_CONFIGURATION" >&2
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "-n needs a number of ranks, not '$ranks'"
[[ $max_failures =~ ^[0-9]+$ ]] || die "--max-failures needs a number, not '$max_failures'"
config=$1
[[ -r $config ]] || die "cannot read the configuration $config"
[[ -z $hostfile || -r $hostfile ]] || die "cannot read the hostfile $hostfile"

# The value of run.KEY: the last override, or the line in the YAML file, or the default.
run_value() {
  local key=$1 default=$2 argument value=''
  for argument in "${@:3}"; do
    [[ $argument == "run.$key="* ]] && value=${argument#*=}
  done
  [[ -n $value ]] || value=$(awk -v key="$key" '
    /^[^[:space:]#]/ { inside = /^run:/ }
    inside && match($0, "(^|[{,[:space:]])" key ":[[:space:]]*") {
      value = substr($0, RSTART + RLENGTH)
      sub(/[[:space:]]+#.*$/, "", value)
      sub(/[,}].*$/, "", value)
      gsub(/^["\x27]|["\x27]?[[:space:]]*$/, "", value)
      print value
      exit
    }' "$config")
  printf '%s' "${value:-$default}"
}
if [[ -z $run_folder ]]; then
  run_folder=$(run_value directory runs "${@:2}")/$(run_value name run "${@:2}")
fi

# The newest step in metrics.jsonl; 0 without one.
newest_step() {
  local step=''
  if [[ -f $run_folder/metrics.jsonl ]]; then
    step=$(tail -n 2 "$run_folder/metrics.jsonl" | sed -n 's/^{"step": *\([0-9]*\).*}$/\1/p' | tail -n 1)
  fi
  printf '%s' "${step:-0}"
}

binary=$(gsa_binary)
one_host=''
command=(mpirun -n "$ranks" --bind-to none)
if [[ -n $hostfile ]]; then
  mpi_environment
  command+=(--hostfile "$hostfile")
elif [[ -n ${SLURM_JOB_ID:-} ]]; then
  mpi_environment # mpirun takes the hosts from the allocation
else
  mpi_environment_one_host
  one_host=1
  command+=(--oversubscribe) # more ranks than cores is slow, not wrong
fi
while IFS='=' read -r name _; do
  command+=(-x "$name")
done < <(env | grep -E '^(NCCL|OMP)_[A-Z0-9_]+=' | grep -v '^OMPI_' || true)
command+=("$binary" train "$@")

signals=0 child=''
stop() {
  signals=$((signals + 1))
  if ((signals == 1)); then
    say "asked to stop: waiting for a checkpoint (a second signal ends the run at once)" >&2
    [[ -z $child ]] || kill -USR1 "$child" 2>/dev/null || true
  else
    say "second signal: ending the run without waiting for a checkpoint" >&2
    [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
  fi
}
trap stop INT TERM USR1

# Open MPI 4 can lock up on its way out when a rank dies while it connects: the ranks are gone, and
# mpirun stays. Where it has them all as children, one that is without any for so long is ended.
readonly OUTLIVED_SECONDS=${GSA_OUTLIVED_SECONDS:-60}

has_living_child() { # PID
  local children=() process state
  read -ra children 2>/dev/null <"/proc/$1/task/$1/children" || true # the line has no end
  for process in "${children[@]}"; do
    state=$(sed 's/.*) \(.\) .*/\1/' "/proc/$process/stat" 2>/dev/null) || continue
    [[ $state == [ZX] ]] || return 0
  done
  return 1
}

end_if_outlived() { # PID
  local alone=0
  while sleep 1 && kill -0 "$1" 2>/dev/null; do
    if has_living_child "$1"; then
      alone=0
    elif ((++alone >= OUTLIVED_SECONDS)); then
      say "mpirun has been without ranks for $OUTLIVED_SECONDS s: ending it" >&2
      kill -KILL "$1" 2>/dev/null || true
      return
    fi
  done
}

# Runs a command in the background and waits for it, signals or not; its exit code is in `code`. It
# gets a process group of its own, so that a Ctrl-C of the terminal reaches this script alone.
run_to_end() {
  local seen status guard=''
  set -m
  "$@" &
  child=$!
  set +m
  if [[ $1 == mpirun && -n $one_host ]]; then
    end_if_outlived "$child" &
    guard=$!
  fi
  code=0
  while true; do
    seen=$signals status=0
    wait "$child" || status=$?
    # 127: the wait before this one has already told how it ended.
    [[ $status == 127 && $code != 0 ]] || code=$status
    # A signal ends `wait` early, with a status that is the signal's.
    [[ $seen != "$signals" ]] || break
  done
  [[ -z $guard ]] || kill "$guard" 2>/dev/null || true
  child=''
}

failures=0 before=$(newest_step)
while true; do
  headline "starting at step $before: $(quoted "${command[@]}" --resume auto)"
  run_to_end "${command[@]}" --resume auto
  after=$(newest_step)
  if [[ $code == 0 || $code == "$BAD_CONFIGURATION" || $code == "$BAD_DATA" || -n $once ]] ||
    ((signals > 0)); then
    headline "exit code $code at step $after"
    exit "$code"
  fi
  if ((after > before)); then
    failures=0
  else
    failures=$((failures + 1))
  fi
  if ((failures >= max_failures)); then
    headline "giving up: $failures starts in a row made no step (still at step $after, exit code $code)"
    exit "$code"
  fi
  before=$after
  headline "exit code $code at step $after; starting again"
  # Nothing is wrong after a stop by signal: no reason to wait.
  [[ $code == "$STOPPED" ]] || run_to_end sleep "$wait_seconds"
  ((signals == 0)) || exit "$STOPPED"
done
