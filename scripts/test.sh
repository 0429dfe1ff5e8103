#!/usr/bin/env bash
# Tests everything, from nothing: installs packages, builds, and runs every check there is.
#
#   scripts/test.sh                      all stages
#   scripts/test.sh --only unit[,tidy]   these stages and what they need
#   scripts/test.sh --list               the stages and what they do
#
# Each stage's output goes to build/test-logs/STAGE.log, and to the terminal when the stage fails. The
# last line is "N passed, N failed, N skipped": tests of all stages, where a check that is no test
# suite (format, tidy, a build) counts as one. Leaves with 1 when anything failed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

STAGES=(
  "install   install the packages that are missing"
  "format    clang-format over every C++ and CUDA file"
  "shell     shellcheck over every shell script"
  "build     build/release, warnings as errors"
  "scripts   tests of the scripts themselves"
  "unit      every test on the CPU, ranks under mpirun included"
  "cuda      build/cuda where nvcc is; its tests, which skip without a GPU"
  "sanitize  build and run the tests with address and undefined-behaviour sanitizers"
  "tidy      clang-tidy over every C++ file of the program and its libraries"
)
LOGS=build/test-logs
readonly UNIT_TIMEOUT=600 # seconds for one test program; the slowest takes a tenth of it

passed=0 failed=0 skipped=0
summary=()

run_ctest() { # FOLDER [ctest options]: runs the tests of a build folder
  local folder=$1
  shift
  ctest --test-dir "$folder" --output-on-failure --no-tests=error -j "$(cores)" \
    --timeout "$UNIT_TIMEOUT" "$@"
}

cpp_files() { git ls-files '*.cpp' '*.h' '*.cu' '*.cuh'; }

stage_install() { scripts/install.sh --tests; }

stage_format() {
  command -v clang-format-14 >/dev/null || skip "no clang-format-14 here"
  cpp_files | xargs -r clang-format-14 --dry-run -Werror
}

stage_shell() {
  command -v shellcheck >/dev/null || skip "no shellcheck here"
  git ls-files '*.sh' '*.sbatch' .ci/run | xargs -r shellcheck -x -P SCRIPTDIR
}

stage_scripts() { /usr/bin/python3 -m unittest discover -v -s tests/scripts -p '*_test.py'; }

stage_build() { scripts/build.sh release; }

stage_unit() {
  scripts/build.sh release
  run_ctest build/release
}

stage_cuda() {
  nvcc_path >/dev/null || skip "no nvcc here"
  scripts/build.sh cuda
  has_gpu || skip "built; no GPU here to run its tests"
  run_ctest build/cuda
}

stage_sanitize() {
  scripts/build.sh sanitize
  export UBSAN_OPTIONS=print_stacktrace=1
  # OpenMPI keeps what it allocates at start: leaks are looked for in tests without ranks alone.
  ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=$ROOT/scripts/leaks.supp \
    run_ctest build/sanitize --label-exclude mpi
  ASAN_OPTIONS=detect_leaks=0 run_ctest build/sanitize --label-regex mpi
}

stage_tidy() {
  command -v clang-tidy-14 >/dev/null || skip "no clang-tidy-14 here"
  # A folder of its own, configured and never built: commands without ccache and -march, which the
  # linter does not need.
  cmake -S . -B build/tidy -G Ninja -DGSA_CUDA=OFF -DCCACHE=OFF -DGSA_NATIVE=OFF >/dev/null
  scripts/tidy.py build/tidy --jobs "$(cores)"
}

# Ends the stage's subshell with the code that says "skipped", and why.
readonly SKIPPED=77
skip() {
  echo "skipped: $*"
  exit "$SKIPPED"
}

count_stage() { # NAME CODE LOG: how many tests the stage passed, failed, skipped
  local name=$1 code=$2 log=$3 ran bad
  # ctest closes with "98% tests passed, 1 tests failed out of 50", once a call.
  local totals='s/.*tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p'
  stage_passed=0 stage_failed=0 stage_skipped=0
  if [[ -n $(sed -n "$totals" "$log") ]]; then
    while read -r bad ran; do
      stage_failed=$((stage_failed + bad))
      stage_passed=$((stage_passed + ran - bad))
    done < <(sed -n "$totals" "$log")
    stage_skipped=$(grep -c '\*\*\*Skipped' "$log" || true)
    stage_passed=$((stage_passed - stage_skipped))
  elif [[ $name == scripts ]] && ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$log") && [[ -n $ran ]]; then
    bad=$(grep -cE '^(FAIL|ERROR): ' "$log" || true)
    stage_failed=$bad
    stage_skipped=$(sed -n 's/^[A-Z]* (.*skipped=\([0-9]*\).*/\1/p' "$log")
    stage_passed=$((ran - bad - ${stage_skipped:=0}))
  elif [[ $code == "$SKIPPED" ]]; then
    stage_skipped=1
  elif [[ $code == 0 ]]; then
    stage_passed=1
  fi
  # A stage that failed outside its tests (a build, say) failed once.
  [[ $code == 0 || $code == "$SKIPPED" || $stage_failed != 0 ]] || stage_failed=1
}

run_stage() {
  local name=$1 what=$2 log=$LOGS/$1.log code=0 begin=$SECONDS state
  headline "$name: $what"
  # A subshell of its own keeps `set -e` in force inside and the environment clean outside.
  set +e
  (
    set -e
    "stage_$name"
  ) >"$log" 2>&1
  code=$?
  set -e
  count_stage "$name" "$code" "$log"
  case $code in
    0) state=passed ;;
    "$SKIPPED") state="skipped ($(sed -n 's/^skipped: //p' "$log" | tail -1))" ;;
    *)
      state=FAILED
      tail -n 200 "$log"
      ;;
  esac
  passed=$((passed + stage_passed)) failed=$((failed + stage_failed)) skipped=$((skipped + stage_skipped))
  say "$state in $((SECONDS - begin)) s: $stage_passed passed, $stage_failed failed, $stage_skipped skipped (log: $log)"
  summary+=("$(printf '%-9s %5d s  %4d passed %3d failed %3d skipped  %s' \
    "$name" $((SECONDS - begin)) "$stage_passed" "$stage_failed" "$stage_skipped" "$state")")
}

only=''
case ${1:-} in
  '') ;;
  --list)
    printf '%s\n' "${STAGES[@]}"
    exit 0
    ;;
  --only)
    only=,${2:?--only needs the names of stages, with commas between},
    for name in ${2//,/ }; do
      printf '%s\n' "${STAGES[@]}" | grep -q "^$name " || die "unknown stage $name (--list shows them)"
    done
    ;;
  *) die "unknown option $1 (known: --only STAGES, --list)" ;;
esac

mkdir -p "$LOGS"
mpi_environment_one_host
for stage in "${STAGES[@]}"; do
  read -r name what <<<"$stage"
  [[ -z $only || $only == *,$name,* ]] || continue
  run_stage "$name" "$what"
done

headline "summary"
printf '    %s\n' "${summary[@]}"
printf '    %-9s %5d s\n\n' total "$SECONDS"
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed == 0 ]]
