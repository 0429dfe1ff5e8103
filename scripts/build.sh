#!/usr/bin/env bash
# Configures and builds gsa in a folder of its own; later calls build only what changed.
#
#   scripts/build.sh [release|cuda|sanitize] [TARGET...]
#
#   release    build/release: optimized for this machine's processor, no CUDA (the default)
#   cuda       build/cuda: the same with the CUDA kernels and NCCL; needs the CUDA toolkit
#   sanitize   build/sanitize: address and undefined-behaviour sanitizers, for the tests
#
# Without a TARGET everything is built, tests included; `gsa` is the program, build/release/bin/gsa.
# JOBS=N compiles N files at once (default: one a core).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

kind=${1:-release}
[[ $# == 0 ]] || shift
case $kind in
  release) options=(-DCMAKE_BUILD_TYPE=Release -DGSA_CUDA=OFF) ;;
  cuda) options=(-DCMAKE_BUILD_TYPE=Release -DGSA_CUDA=ON) ;;
  sanitize)
    # -O1: fast enough to run all tests, and stack traces still tell the line.
    options=(-DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DGSA_CUDA=OFF -DGSA_SANITIZE=ON)
    ;;
  *) die "unknown build $kind (known: release, cuda, sanitize)" ;;
esac

# Paths below the repository do not count for ccache: a fresh clone finds what another one compiled.
export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1

folder=build/$kind
log=$folder/configure.log
mkdir -p "$folder"
cmake -S . -B "$folder" -G Ninja "${options[@]}" >"$log" 2>&1 || {
  cat "$log" >&2
  die "configuring $folder failed (the messages above are in $log)"
}
ninja -C "$folder" -j "${JOBS:-$(cores)}" "$@"
