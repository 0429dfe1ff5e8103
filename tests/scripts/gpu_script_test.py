"""scripts/gpu_test.sh and scripts/gpu_report.py, with stand-ins for the GPU and the programs."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT = 120  # seconds; every case takes some

NVIDIA_SMI = """#!/bin/bash
case $1 in
  --list-gpus) echo "GPU 0"; echo "GPU 1" ;;
  *) echo "Pretended GPU, 1.0"; echo "Pretended GPU, 1.0" ;;
esac
"""

# Runs the program as one rank.
MPIRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
  [[ $1 == -n || $1 == --bind-to ]] && shift
  shift
done
exec "$@"
"""

SANITIZER = """#!/bin/bash
while [[ $1 == -* ]]; do
  [[ $1 == --tool ]] && echo "tool $2"
  shift 2
done
exec "$@"
"""

# Benchmarks write what $FIGURES says; a run writes the event of its first step and goes on.
GSA = r"""#!/bin/bash
echo "gsa $*" >>"$PLAYED"
case $1 in
  tokenize) mkdir -p "$4" ;;
  bench)
    [[ "$*" != *"$FAILING"* || -z $FAILING ]] || exit 4
    while [[ $# -gt 0 ]]; do
      [[ $1 == --json ]] && cp "$FIGURES" "$2"
      shift
    done
    ;;
  train)
    for word in "$@"; do
      [[ $word == run.directory=* ]] && directory=${word#*=}
      [[ $word == run.name=* ]] && name=${word#*=}
    done
    mkdir -p "$directory/$name"
    echo '{"time":1,"event":"first_step","step":1,"seconds":12.5}' >"$directory/$name/events.jsonl"
    exec sleep 60
    ;;
esac
"""

KERNELS = r"""#!/bin/bash
case "$*" in
  *--gtest_list_tests*) printf 'Running main()\nGsaOp.\n  First\nForms/GsaForms.  # TypeParam\n  A/0\nBandwidth.\n  Copy\n' ;;
  *"--gtest_filter=$SLOW"*) [[ -z $SLOW ]] || { echo "$FOUND"; sleep 10; } ;;
esac
[[ -z $GTEST_SHARD_INDEX || $GTEST_SHARD_INDEX != "$BAD_PART" ]] || { echo "wrong in part $BAD_PART"; exit 1; }
"""

FIGURES = {"phases_ms": {"products": 1.0}, "tokens_per_second": 2.0, "stall_seconds": 0.125,
           "write_gib_s": 3.5, "forward_ms": 0.25, "reduce_scatter_ms": 9.0}


class GpuTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        # The script works below the repository that it belongs to: a copy of what it needs.
        self.root = self.folder / "repository"
        (self.root / "scripts").mkdir(parents=True)
        (self.root / "configs").mkdir()
        (self.root / "configs/one.yaml").write_text("run: {name: one}\n")
        for name in ("common.sh", "gpu_test.sh", "gpu_report.py"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts" / name)
        for name, text in {"nvidia-smi": NVIDIA_SMI, "mpirun": MPIRUN, "compute-sanitizer": SANITIZER}.items():
            self.program("bin", name, text)
        passing = "#!/bin/bash\n"
        for name, text in {"gsa": GSA, "kernels_cuda_test": KERNELS, "model_golden_test": passing,
                           "model_generator_test": passing, "nccl_test": passing,
                           "peer_copies_test": passing, "sharded_adamw_cuda_test": passing}.items():
            self.program("bundle", name, text)
        (self.folder / "figures.json").write_text(json.dumps(FIGURES))
        (self.folder / "played").write_text("")

    def program(self, folder, name, text):
        path = self.folder / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run_script(self, *arguments, **variables):
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                       "GSA_BUNDLE": str(self.folder / "bundle"), "PLAYED": str(self.folder / "played"),
                       "FIGURES": str(self.folder / "figures.json"), "FAILING": "", "SLOW": "", "FOUND": "",
                       "BAD_PART": "",
                       **variables}
        environment.pop("GSA", None)
        return subprocess.run(["bash", self.root / "scripts/gpu_test.sh", *arguments], cwd=self.root,
                              env=environment, capture_output=True, text=True, timeout=TIMEOUT)

    def results(self):
        return json.loads((self.root / ".work/gpu_test/out/results.json").read_text())

    def result_of(self, name):
        return {check["name"]: check["result"] for check in self.results()["checks"]}.get(name)

    def test_benchmarks_reach_the_report(self):
        (self.folder / "bundle/commit").write_text("0123abc\n")
        result = self.run_script("--only", "kernels,start,op,step,generate,checkpoint,comm")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        for group in ("op", "step", "generate", "comm"):
            self.assertTrue(self.results()[group], group)
        self.assertEqual(self.results()["start"], {"cold": {"seconds": 12.5}, "warm": {"seconds": 12.5}})
        report = (self.root / ".work/gpu_test/out/report.md").read_text()
        for words in ("| kernel tests | passed |", "| cold | 12.5 |", "2 x Pretended GPU", "commit 0123abc"):
            self.assertIn(words, report)
        if "bench checkpoint wants" not in result.stdout:  # a disk too small for it
            self.assertIn("| 0.125 |", report)
        self.assertNotIn("same bits", report)

    def test_a_benchmark_that_fails_is_told_and_the_rest_goes_on(self):
        result = self.run_script("--only", "op,comm", FAILING="--heads 5")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.result_of("bench op b8-t2048-h5-512"), "FAILED")
        self.assertEqual(self.result_of("bench comm x2"), "passed")

    def test_sanitizers_go_test_by_test_and_say_what_is_unfinished(self):
        result = self.run_script("--only", "sanitize", SANITIZE_SECONDS="1", SLOW="GsaOp.First")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(self.result_of("racecheck GsaOp.First"), "unfinished")
        self.assertEqual(self.result_of("memcheck Forms/GsaForms.A/0"), "passed")
        self.assertIsNone(self.result_of("memcheck Bandwidth.Copy"))

    def test_sanitizers_run_the_tests_and_the_tools_that_are_named(self):
        result = self.run_script("--only", "sanitize", SANITIZE_TESTS="Forms", SANITIZE_TOOLS="racecheck")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(self.result_of("racecheck Forms/GsaForms.A/0"), "passed")
        self.assertIsNone(self.result_of("memcheck Forms/GsaForms.A/0"))
        self.assertIsNone(self.result_of("racecheck GsaOp.First"))

    def test_what_a_sanitizer_found_before_its_time_was_over_counts(self):
        result = self.run_script("--only", "sanitize", SANITIZE_SECONDS="1", SLOW="GsaOp.First",
                                 FOUND="========= Invalid __global__ read of size 4 bytes")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.result_of("racecheck GsaOp.First"), "FAILED")

    def test_races_within_cublas_are_not_ours(self):
        result = self.run_script("--only", "sanitize", SANITIZE_SECONDS="1", SLOW="GsaOp.First",
                                 FOUND="========= Error: Race reported between Read access at nvjet_sm90+0xb00")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(self.result_of("racecheck GsaOp.First"), "unfinished")

    def test_one_part_of_the_kernel_tests_that_fails_fails_them(self):
        result = self.run_script("--only", "kernels", BAD_PART="0")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.result_of("kernel tests"), "FAILED")
        self.assertIn("wrong in part 0", result.stdout)

    def test_a_machine_without_a_gpu_is_told_so(self):
        self.program("bin", "nvidia-smi", "#!/bin/bash\nexit 9\n")
        result = self.run_script()
        self.assertEqual(result.returncode, 1)
        self.assertIn("no GPU here", result.stderr)

    def test_what_it_does_not_know_is_refused(self):
        for arguments in (["--only", "ops"], ["--fast"]):
            result = self.run_script(*arguments)
            self.assertEqual(result.returncode, 1)
            self.assertIn("unknown", result.stderr)


if __name__ == "__main__":
    unittest.main()
