#!/usr/bin/env bash
# Puts a build's programs and the libraries that a GPU node may lack into one folder that can be
# copied there:  scripts/bundle.sh BUILD FOLDER
# On the node: FOLDER/gsa train ..., or GSA_BUNDLE=FOLDER scripts/gpu_test.sh. CUDA, NCCL, MPI, HDF5
# and the C and C++ runtimes are the node's own: they must fit its driver and network.
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: scripts/bundle.sh BUILD FOLDER" >&2
  exit 2
fi
build=$1
folder=$2
mkdir -p "$folder/lib"
programs=("$build/bin/gsa")
for test in kernels_cuda_test model_golden_test model_generator_test nccl_test peer_copies_test \
  sharded_adamw_cuda_test; do
  found=$(find "$build" -name "$test" -type f | head -n 1)
  [ -z "$found" ] || programs+=("$found")
done
for program in "${programs[@]}"; do
  name=$(basename "$program")
  [ "$name" = gsa ] && name=gsa.bin
  strip -o "$folder/$name" "$program"
  ldd "$program" | awk '$2 == "=>" { print $3 }' |
    grep -E 'lib(fmt|spdlog|openblas|yaml-cpp|simdjson|xxhash|sentencepiece|gomp|gfortran|quadmath|zstd)\.so' |
    while read -r library; do cp -Lu "$library" "$folder/lib/"; done
done
cat > "$folder/gsa" <<'RUN'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/gsa.bin" "$@"
RUN
chmod +x "$folder/gsa"
git -C "$(dirname "$0")" describe --always --dirty >"$folder/commit" 2>/dev/null || rm -f "$folder/commit"
du -sh "$folder"
