# shellcheck shell=bash
# What the scripts of this folder share; sourced by them, never run.
#
# Sets ROOT (the repository) and goes there, so that every path in the scripts is relative to it.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

# Headline of a stage: what happens now.
headline() { printf '\n=== %s\n' "$*"; }

# One line below a headline: a detail, or where a result lies.
say() { printf '    %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Cores that this process may use (a container may own fewer than the machine has).
cores() { nproc; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "needs root to run: $* (become root or install sudo)"
  fi
}

# Quotes arguments so that a shell reads them back as they were: what a message shows can be pasted.
quoted() {
  local text
  printf -v text '%q ' "$@"
  printf '%s' "${text% }"
}

# Environment for mpirun on one host: as root, in containers, with no network but loopback, with
# no ssh client. Variables that the user has set win.
mpi_environment_one_host() {
  mpi_environment
  # No other host: nothing to reach through ssh, and shared memory instead of the network.
  export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
  export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"
  # Containers forbid the system call behind it; messages are copied through shared memory instead.
  export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"
}

# Environment for mpirun anywhere.
mpi_environment() {
  if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

# The gsa program to run: $GSA, or the newest of the CUDA and the CPU build.
gsa_binary() {
  local found
  if [[ -n ${GSA:-} ]]; then
    found=$GSA
  elif [[ -x build/cuda/bin/gsa ]] && has_gpu; then
    found=build/cuda/bin/gsa
  else
    found=build/release/bin/gsa
  fi
  [[ -x $found ]] || command -v "$found" >/dev/null ||
    die "no program at $found: run scripts/build.sh first, or set GSA to the program's path"
  printf '%s' "$found"
}

nvcc_path() { command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null; }

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
