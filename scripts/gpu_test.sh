#!/usr/bin/env bash
# All that a machine with GPUs must show, in one call: tests against the CPU and golden values, the
# same bits on every run and after a resume, a short run on every number of GPUs, and the benchmarks.
#
#   scripts/gpu_test.sh [--out FOLDER] [--skip-bench] [--sanitize] [--only GROUP[,GROUP]]
#
# Groups, in this order: kernels (tests against the CPU and golden values), runs (bits, resumes,
# failures, numbers of GPUs, curves), sanitize, and the benchmarks start (of the 1.3B model, to its
# first step), op, step, generate, checkpoint, comm. --only runs these and no others.
# --sanitize adds the kernels' tests (SANITIZE_TESTS: those that match it) under compute-sanitizer's
# memcheck and racecheck (SANITIZE_TOOLS), SANITIZE_AT_ONCE tests at a time (10), each for at most
# SANITIZE_SECONDS (240): what is not done by then is said to be unfinished.
# Builds build/cuda if it must; GSA_BUNDLE names a folder made by scripts/bundle.sh to use instead.
# Prints one table (report.md) and writes results.json beside it; leaves with 1 if a check failed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=.work/gpu_test/out
groups=kernels,runs,start,op,step,generate,checkpoint,comm
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --skip-bench) groups=kernels,runs; shift ;;
    --sanitize) groups+=,sanitize; shift ;;
    --only) groups=$2; shift 2 ;;
    *) die "unknown option $1 (the head of scripts/gpu_test.sh has them all)" ;;
  esac
done
for group in ${groups//,/ }; do
  case $group in
    kernels | runs | sanitize | start | op | step | generate | checkpoint | comm) ;;
    *) die "unknown group $group (the head of scripts/gpu_test.sh has them all)" ;;
  esac
done
wanted() { [[ ,$groups, == *,$1,* ]]; }

gpus=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)
[[ $gpus -gt 0 ]] || die "no GPU here: nvidia-smi lists none"
mkdir -p "$out"
mpi_environment_one_host
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

if [[ -n ${GSA_BUNDLE:-} ]]; then
  programs=$GSA_BUNDLE
  export LD_LIBRARY_PATH=$GSA_BUNDLE/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  gsa=$GSA_BUNDLE/gsa
else
  headline "Building build/cuda"
  scripts/build.sh cuda
  programs=build/cuda
  gsa=build/cuda/bin/gsa
fi
export GSA_GOLDEN_DIR=${GSA_GOLDEN_DIR:-$ROOT/tests/golden}
work=.work/gpu_test
checks=$out/checks.tsv
: >"$checks"

# check NAME COMMAND...: runs it, keeps its output, notes whether it passed.
readonly OUT_OF_TIME=124 # what `timeout` leaves with
check() {
  local name=$1 status=passed code=0 begin=$SECONDS log=$out/log-${1//[ \/]/-}.txt
  shift
  headline "$name"
  "$@" >"$log" 2>&1 || code=$?
  case $code in
    0) ;;
    "$OUT_OF_TIME") status=unfinished ;;
    *) status=FAILED ;;
  esac
  [[ $status == passed ]] || tail -n 40 "$log"
  say "$status in $((SECONDS - begin)) s"
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - begin))" >>"$checks"
}

find_test() { find "$programs" -name "$1" -type f -perm -u+x | head -n 1; }

# train RANKS NAME [key=value ...]: a run of configs/gsa-20m.yaml.
train() {
  local ranks=$1 name=$2
  shift 2
  mpirun --oversubscribe --bind-to none -n "$ranks" "$gsa" train configs/gsa-20m.yaml \
    run.directory="$work/runs" run.name="$name" "$@"
}

# Text of the repository itself, as bytes.
make_shards() {
  rm -rf "$work/runs" "$work/shards"
  mkdir -p "$work"
  python3 - "$work/text.jsonl" <<'PY'
import json, pathlib, sys
with open(sys.argv[1], "w", encoding="utf-8") as out:
    for folder in ("kernels", "trainer", "data", "scripts", "tests", "configs"):
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file() and path.suffix in {".cpp", ".h", ".cu", ".md", ".sh", ".py", ".yaml"}:
                text = path.read_text(encoding="utf-8")
                if text:
                    json.dump({"text": text, "meta": {"redpajama_set_name": "RedPajamaGithub"}}, out)
                    out.write("\n")
PY
  "$gsa" tokenize "$work/text.jsonl" -o "$work/shards" -t bytes
}

same_bits() {
  train 1 first && train 1 second && python3 scripts/compare_runs.py "$work/runs/first" "$work/runs/second"
}

same_bits_after_resume() {
  train 1 parts train.stop_after_steps=37
  train 1 parts --resume auto && python3 scripts/compare_runs.py "$work/runs/first" "$work/runs/parts"
}

# The checkpoint remembers the products' algorithms: a run of first proposals goes on with them where
# others would be measured, and one of measured algorithms where nothing may be measured.
same_bits_elsewhere() {
  GSA_PRODUCT_CACHE=off train 1 proposals
  GSA_PRODUCT_CACHE=off train 1 proposals-parts train.stop_after_steps=37
  GSA_PRODUCT_CACHE=$work/no-choices train 1 proposals-parts --resume auto &&
    python3 scripts/compare_runs.py "$work/runs/proposals" "$work/runs/proposals-parts" || return 1
  train 1 moved train.stop_after_steps=37
  GSA_PRODUCT_CACHE=off train 1 moved --resume auto &&
    python3 scripts/compare_runs.py "$work/runs/first" "$work/runs/moved"
}

same_curve() { # RANKS NAME: bfloat16 rounding in other orders of summation, over 100 steps
  train "$1" "$2" && train "$1" "$2-again" &&
    python3 scripts/compare_runs.py "$work/runs/$2" "$work/runs/$2-again" &&
    python3 scripts/compare_runs.py --curve 0.02 "$work/runs/first" "$work/runs/$2"
}

# A run of two ranks goes on with one, and with two again: the same data, the same curve.
same_curve_at_other_numbers() {
  train 2 numbers train.stop_after_steps=37
  train 1 numbers --resume auto train.stop_after_steps=70
  train 2 numbers --resume auto && python3 scripts/compare_runs.py --curve 0.02 "$work/runs/first" "$work/runs/numbers"
}

# The same run without a GPU goes on in the background while the GPU is tested. Eight threads: more
# wait for each other longer than products this small take.
begin_cpu_run() {
  train 1 cpu distributed.device=cpu distributed.threads=8 >"$out/log-cpu-run.txt" 2>&1 &
  cpu_run=$!
}

cpu_and_gpu() {
  train 1 gpu-float32 precision.compute=float32
  wait "$cpu_run" || cat "$out/log-cpu-run.txt"
  python3 scripts/compare_runs.py --curve 0.02 "$work/runs/cpu" "$work/runs/first" &&
    python3 scripts/compare_runs.py --curve 0.005 "$work/runs/cpu" "$work/runs/gpu-float32"
}

too_many_ranks() { # more ranks than GPUs: one clear message, not a hang
  local log=$out/too-many.txt code=0
  timeout 60 mpirun --oversubscribe --bind-to none -n $((gpus + 1)) "$gsa" train configs/gsa-20m.yaml \
    run.directory="$work/runs" run.name=many >"$log" 2>&1 || code=$?
  cat "$log"
  [[ $code -ne 0 && $code -ne 124 ]] && grep -qi 'gpu' "$log"
}

out_of_memory() { # a model that does not fit: one message that says what to change
  local log=$out/out-of-memory.txt code=0
  timeout 60 "$gsa" train configs/gsa-1.3b.yaml train.micro_batch=512 train.batch_tokens=1048576 \
    data.train="$work/shards" data.validation= train.validate_every=0 \
    run.directory="$work/runs" run.name=large >"$log" 2>&1 || code=$?
  cat "$log"
  [[ $code -eq 4 ]] && grep -qi 'memory' "$log" && grep -q 'micro-batch' "$log"
}

# One of two ranks is sent a signal in the middle of a run: within a minute all have left, none with 0.
lost_rank() { # SIGNAL
  local name=lost-$1 code=0 run
  rm -rf "$work/runs/$name"
  train 2 "$name" train.tokens=1B distributed.timeout=20 >"$out/$name.txt" 2>&1 &
  run=$!
  for ((i = 0; i < 300; ++i)); do
    [[ $(wc -l 2>/dev/null <"$work/runs/$name/metrics.jsonl") -ge 5 ]] && break
    sleep 0.1
  done
  pkill "-$1" --newest --full "run.name=$name" || return 1
  for ((i = 0; i < 60; ++i)); do
    kill -0 "$run" 2>/dev/null || break
    sleep 1
  done
  if kill -0 "$run" 2>/dev/null; then
    pkill -KILL --full "run.name=$name"
    echo "still running a minute later"
    return 1
  fi
  wait "$run" || code=$?
  cat "$out/$name.txt"
  [[ $code -ne 0 ]]
}

# All tests of kernels, in parts side by side: most of their time is the CPU's, which computes what is expected.
kernel_tests() {
  local parts=$(($(cores) / 3)) part code=0 running=()
  ((parts >= 1)) || parts=1
  for ((part = 0; part < parts; ++part)); do
    GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part OMP_NUM_THREADS=$(($(cores) / parts)) \
      "$(find_test kernels_cuda_test)" --gtest_brief=1 >"$out/kernel-tests-$part.txt" 2>&1 &
    running+=($!)
  done
  for part in "${!running[@]}"; do
    wait "${running[part]}" || code=1
    cat "$out/kernel-tests-$part.txt"
  done
  return "$code"
}

# Collectives as copies, and the optimizer over them; the ranks share the GPUs that there are.
peer_copies() {
  local ranks test
  for ranks in 2 3 4 8; do
    for test in peer_copies_test sharded_adamw_cuda_test; do
      mpirun --oversubscribe --bind-to none -n "$ranks" "$(find_test "$test")" --gtest_brief=1 || return 1
    done
  done
}

# Races within cuBLASLt's own kernels (nvjet), whose barriers racecheck does not follow, are not ours.
# They cannot be excluded: then the tool itself fails. Calls that are meant to fail are no errors.
under_sanitizer() { # TOOL TEST
  local found=$out/sanitizer-$1-${2//[\/.]/-}.txt code=0 options=()
  local threads=$(($(cores) / ${SANITIZE_AT_ONCE:-10}))
  [[ $1 != memcheck ]] || options=(--report-api-errors no)
  OMP_NUM_THREADS=$((threads > 0 ? threads : 1)) timeout "${SANITIZE_SECONDS:-240}" \
    compute-sanitizer --tool "$1" "${options[@]}" \
    "$(find_test kernels_cuda_test)" --gtest_brief=1 --gtest_filter="$2" >"$found" 2>&1 || code=$?
  cat "$found"
  # Out of time is no excuse for what was found before.
  ! grep '^=========.*\(Error\|Invalid\|Race\|Uninitialized\|Leaked\)' "$found" | grep -qv ' at nvjet_' || code=9
  return "$code"
}

# All tests (SANITIZE_TESTS: those that match it) under the tools named by SANITIZE_TOOLS,
# several at a time, spread over the GPUs.
sanitize() {
  local test tool next=0
  for test in $(kernel_tests_by_name | grep -e "${SANITIZE_TESTS:-.}"); do
    for tool in ${SANITIZE_TOOLS:-memcheck racecheck}; do
      [[ $(jobs -rp | wc -l) -lt ${SANITIZE_AT_ONCE:-10} ]] || wait -n || true
      CUDA_VISIBLE_DEVICES=$((next % gpus)) check "$tool $test" under_sanitizer "$tool" "$test" &
      next=$((next + 1))
    done
  done
  wait
}

kernel_tests_by_name() { # those that measure nothing
  "$(find_test kernels_cuda_test)" --gtest_list_tests |
    awk '/^[^ ]+\.( |$)/ { suite = $1; next } /^  / { print suite $1 }' | grep -v '^Bandwidth'
}

# Seconds from the start of `gsa train` on the 1.3B model to the end of its first step. The run is
# killed there: its checkpoint is of no use.
first_step() { # NAME
  local run="$work/runs/start-$1" seconds='' process
  rm -rf "$run"
  "$gsa" train configs/gsa-1.3b.yaml train.batch_tokens=16384 data.train="$work/shards" data.validation= \
    train.validate_every=0 run.directory="$work/runs" run.name="start-$1" &
  process=$!
  for ((i = 0; i < 1200; ++i)); do
    seconds=$(sed -n 's/.*"first_step".*"seconds":\([0-9.e+-]*\).*/\1/p' "$run/events.jsonl" 2>/dev/null || true)
    if [[ -n $seconds ]] || ! kill -0 "$process" 2>/dev/null; then
      break
    fi
    sleep 0.1
  done
  kill -KILL "$process" 2>/dev/null || true
  wait "$process" 2>/dev/null || true
  [[ -n $seconds ]] || return 1
  echo "{\"seconds\":$seconds}" | tee "$out/start-$1.json"
}

# What a checkpoint takes on the disk, twice: the plain writes beside it take as much.
readonly CHECKPOINT_KIB=$((40 * 1024 * 1024))
bench_checkpoint() {
  local room
  room=$(df --output=avail "$work" | tail -n 1)
  if [[ $room -lt $CHECKPOINT_KIB ]]; then
    say "skipped: bench checkpoint wants $((CHECKPOINT_KIB / 1024 / 1024)) GiB of disk, $((room / 1024 / 1024)) are free"
    return
  fi
  check "bench checkpoint" "$gsa" bench checkpoint configs/gsa-1.3b.yaml --directory "$work" \
    --json "$out/checkpoint-1.3b.json"
}

bench_step() { # NAME RANKS CONFIG [options]
  local name=$1 ranks=$2 config=$3
  shift 3
  check "bench $name" mpirun --oversubscribe --bind-to none -n "$ranks" "$gsa" bench step "$config" \
    --json "$out/step-$name.json" "$@"
}

headline "Making shards of the repository's own text"
make_shards >"$out/log-shards.txt" 2>&1 || { cat "$out/log-shards.txt"; die "no shards"; }
if wanted runs; then
  begin_cpu_run
fi
if wanted kernels; then
  check "kernel tests" kernel_tests
  check "golden model tests" "$(find_test model_golden_test)" --gtest_brief=1
  check "generator's tests" "$(find_test model_generator_test)" --gtest_brief=1
  check "copies between ranks" peer_copies
fi
if wanted runs; then
  check "same bits twice" same_bits
  check "same bits after a resume" same_bits_after_resume
  check "same bits after a resume elsewhere" same_bits_elsewhere
  check "more ranks than GPUs" too_many_ranks
  check "a model larger than the GPU" out_of_memory
  for ranks in 2 4; do
    [[ $ranks -le $gpus ]] || continue
    check "collectives on $ranks GPUs" mpirun --bind-to none -n "$ranks" "$(find_test nccl_test)" --gtest_brief=1
    check "$ranks GPUs" same_curve "$ranks" "gpus-$ranks"
    GSA_PEER_COPIES=on check "$ranks GPUs, by copies" same_curve "$ranks" "copies-$ranks"
  done
  if [[ $gpus -ge 2 ]]; then
    check "resumed at other numbers of GPUs" same_curve_at_other_numbers
    check "a rank is killed" lost_rank KILL
    check "a rank is stopped" lost_rank STOP
    GSA_PEER_COPIES=on check "a rank is stopped, by copies" lost_rank STOP
  fi
  check "CPU and GPU curves" cpu_and_gpu
fi
if wanted sanitize; then
  sanitize
fi
if wanted start; then
  # No algorithms of products are known on the first start, all of them on the second.
  rm -rf "$work/products"
  export GSA_PRODUCT_CACHE=$work/products
  check "start cold" first_step cold
  check "start warm" first_step warm
  unset GSA_PRODUCT_CACHE
fi
if wanted op; then
  op() { check "bench op $1" "$gsa" bench op --json "$out/op-$1.json" "${@:2}"; }
  op b8-t2048-h4-512
  op b8-t2048-h4-512-projected --projected
  op b1-t16384-h4-512 --batch 1 --length 16384
  op b8-t2048-h5-512 --heads 5
  op b8-t2048-h32-8-128 --heads 32 --kv-heads 8 --head-dim 128
fi
if wanted step; then
  bench_step 1.3b 1 configs/gsa-1.3b.yaml
  bench_step 1.3b-accumulated 1 configs/gsa-1.3b.yaml --accumulation 8 --steps 2
  bench_step 2.7b 1 configs/gsa-2.7b.yaml
fi
if wanted generate; then
  for batch in 1 8 64; do
    check "bench generate b$batch" "$gsa" bench generate configs/gsa-1.3b.yaml --batch "$batch" \
      --json "$out/generate-1.3b-b$batch.json"
  done
fi
if wanted checkpoint; then
  bench_checkpoint
fi
if wanted comm; then
  for ranks in 2 4; do
    [[ $ranks -le $gpus ]] || continue
    for copies in off on; do
      name=x$ranks
      [[ $copies == off ]] || name+=-copies
      export GSA_PEER_COPIES=$copies
      bench_step "1.3b-$name" "$ranks" configs/gsa-1.3b.yaml
      check "bench comm $name" mpirun --oversubscribe --bind-to none -n "$ranks" "$gsa" bench comm \
        configs/gsa-1.3b.yaml --json "$out/comm-$name.json"
    done
    unset GSA_PEER_COPIES
  done
fi
python3 scripts/gpu_report.py "$out" | tee "$out/report.md"
! grep -q FAILED "$checks"
