"""scripts/launch.sh and scripts/slurm.sbatch, with stand-ins for mpirun and Slurm."""

import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT = 60  # seconds; every case takes about one

# Plays the program: start N does what line N of $PLAN says: "STEPS CODE" writes that many steps and
# leaves with that code; "STEPS wait" then waits for SIGUSR1, and leaves with 75 as gsa does; "STEPS
# hang" stays without ranks.
FAKE_MPIRUN = r"""#!/bin/bash
echo "mpirun $*" >>"$PLAYED"
start=$(wc -l <"$PLAYED")
read -r steps code < <(sed -n "${start}p" "$PLAN")
mkdir -p "$RUN"
last=$(wc -l <"$RUN/metrics.jsonl" 2>/dev/null || echo 0)
for ((i = 1; i <= steps; i++)); do
  echo "{\"step\":$((last + i)),\"loss\":1}" >>"$RUN/metrics.jsonl"
done
if [[ $code == hang ]]; then
  exec tail -f /dev/null # as mpirun that is locked up: no children, and no end
fi
if [[ $code == wait ]]; then
  trap 'exit 75' USR1
  trap 'exit 1' TERM
  touch "$RUN/waiting"
  while true; do sleep 0.05; done
fi
exit "$code"
"""


class Launch(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)
        self.program("mpirun", FAKE_MPIRUN)
        self.program("gsa", "#!/bin/bash\n")
        self.config = self.folder / "config.yaml"
        self.config.write_text(
            f'run:\n  directory: "{self.folder}/runs"   # where\n  name: demo\nmodel:\n  name: no\n')
        self.run_folder = self.folder / "runs/demo"

    def program(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, plan):
        (self.folder / "plan").write_text(plan)
        (self.folder / "played").write_text("")
        keep = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return {**keep, "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "GSA": str(self.folder / "bin/gsa"), "PLAN": str(self.folder / "plan"),
                "PLAYED": str(self.folder / "played"), "RUN": str(self.run_folder)}

    def launch(self, plan, *arguments):
        result = subprocess.run(
            ["bash", ROOT / "scripts/launch.sh", "-n", "2", "--wait", "0", *arguments, self.config],
            env=self.environment(plan), capture_output=True, text=True, timeout=TIMEOUT)
        return result.returncode, result.stdout + result.stderr

    def starts(self):
        return (self.folder / "played").read_text().splitlines()

    def start_waiting(self, command, environment):
        """Starts a launcher whose first start waits for a signal, and waits until it does."""
        # Tests that run in the background inherit an ignored SIGINT, which bash could not trap.
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, cwd=ROOT,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.addCleanup(process.stdout.close)
        while not (self.run_folder / "waiting").exists():
            self.assertIsNone(process.poll(), "the launcher ended early")
        return process

    def test_finished_run_starts_once(self):
        code, output = self.launch("5 0\n")
        self.assertEqual(code, 0, output)
        self.assertEqual(len(self.starts()), 1)
        self.assertIn("--resume auto", self.starts()[0])
        self.assertIn("-n 2", self.starts()[0])

    def test_restarts_after_a_stop_and_after_a_failure(self):
        code, output = self.launch("5 75\n3 4\n2 137\n1 0\n")
        self.assertEqual(code, 0, output)
        self.assertEqual(len(self.starts()), 4)
        self.assertIn("exit code 137 at step 10", output)

    def test_a_launcher_that_outlives_its_ranks_is_ended(self):
        os.environ["GSA_OUTLIVED_SECONDS"] = "2"
        self.addCleanup(os.environ.pop, "GSA_OUTLIVED_SECONDS")
        code, output = self.launch("5 hang\n1 0\n")
        self.assertEqual(code, 0, output)
        self.assertIn("mpirun has been without ranks for 2 s", output)
        self.assertIn("exit code 137 at step 5", output)

    def test_gives_up_after_starts_without_a_step(self):
        code, output = self.launch("5 4\n0 4\n0 4\n0 4\n9 0\n")
        self.assertEqual(code, 4)
        self.assertEqual(len(self.starts()), 4)
        self.assertIn("3 starts in a row made no step (still at step 5", output)

    def test_a_new_step_resets_the_count(self):
        code, output = self.launch("0 4\n0 4\n1 4\n0 4\n0 4\n1 0\n")
        self.assertEqual(code, 0, output)

    def test_bad_configuration_and_bad_data_are_not_retried(self):
        for expected in (2, 3):
            code, _ = self.launch(f"0 {expected}\n0 0\n")
            self.assertEqual(code, expected)
            self.assertEqual(len(self.starts()), 1)

    def test_once_leaves_with_the_programs_code(self):
        code, _ = self.launch("1 75\n0 0\n", "--once")
        self.assertEqual(code, 75)
        self.assertEqual(len(self.starts()), 1)

    def test_a_signal_becomes_a_checkpoint_and_exit_code_75(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            with self.subTest(number):
                (self.run_folder / "waiting").unlink(missing_ok=True)
                process = self.start_waiting(
                    ["bash", ROOT / "scripts/launch.sh", "-n", "2", self.config],
                    self.environment("2 wait\n1 0\n"))
                process.send_signal(number)
                output, _ = process.communicate(timeout=TIMEOUT)
                self.assertEqual(process.returncode, 75, output)
                self.assertEqual(len(self.starts()), 1)

    def test_overrides_choose_the_run_folder(self):
        moved = self.folder / "elsewhere"
        self.run_folder = moved / "other"
        result = subprocess.run(
            ["bash", ROOT / "scripts/launch.sh", "-n", "1", self.config,
             f"run.directory={moved}", "run.name=other"],
            env=self.environment("4 0\n"), capture_output=True, text=True, timeout=TIMEOUT)
        self.assertIn("exit code 0 at step 4", result.stdout)

    def test_slurm_requeues_after_the_signal_and_only_then(self):
        self.program("scontrol", '#!/bin/bash\necho "scontrol $*"\n')
        slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17", "SLURM_NTASKS": "4"}
        process = self.start_waiting(["bash", ROOT / "scripts/slurm.sbatch", self.config],
                                     {**self.environment("2 wait\n"), **slurm})
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("scontrol requeue 17", output)
        self.assertIn("-n 4", self.starts()[0])

        process = subprocess.run(["bash", ROOT / "scripts/slurm.sbatch", self.config],
                                 env={**self.environment("1 2\n"), **slurm}, capture_output=True,
                                 text=True, timeout=TIMEOUT)
        self.assertEqual(process.returncode, 2)
        self.assertNotIn("requeue", process.stdout)


if __name__ == "__main__":
    unittest.main()
