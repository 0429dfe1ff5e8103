"""scripts/plot.py on small metrics.jsonl files."""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import plot  # noqa: E402
import tensorboard_events  # noqa: E402

PNG = b"\x89PNG\r\n"


def step(number):
    line = {"step": number, "tokens_seen": 1000 * number, "loss": 7.0 / number,
            "learning_rate": 1e-3, "gradient_norm": None if number == 2 else 1.5}
    if number % 2 == 0:
        line["validation"] = {"loss": 6.0, "sources": {"RedPajamaC4": 6.5}}
    line["timing"] = {"seconds": 0.5, "tokens_per_second": 2000.0}
    return line


class Plot(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)

    def run_folder(self, name, text=None):
        folder = self.folder / name
        folder.mkdir()
        text = text or "".join(json.dumps(step(n)) + "\n" for n in range(1, 11)) + '{"step":11,"lo'
        (folder / "metrics.jsonl").write_text(text)
        return folder

    def plot(self, *arguments):
        return subprocess.run([ROOT / "scripts/plot.py", *arguments], capture_output=True, text=True)

    def test_draws_one_run_and_several(self):
        a, b = self.run_folder("a"), self.run_folder("b")
        self.assertEqual(self.plot(a, "--entropy", "6.1").stdout.strip(), str(a / "loss.png"))
        self.assertTrue((a / "loss.png").read_bytes().startswith(PNG))
        result = self.plot(a, b, "--output", self.folder / "out/both.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue((self.folder / "out/both.png").read_bytes().startswith(PNG))

    def test_a_torn_last_line_and_nulls_are_left_out(self):
        run = plot.Run(self.run_folder("a"))
        self.assertEqual(len(run.steps), 10)
        self.assertEqual(len(run.series("gradient_norm")[1]), 9)
        self.assertEqual(run.series("validation", "sources", "RedPajamaC4"),
                         ([2000, 4000, 6000, 8000, 10000], [6.5] * 5))

    def test_messages_name_file_and_line(self):
        broken = self.run_folder("broken", '{"step":1,"tokens_seen":1}\nnonsense\n')
        result = self.plot(broken)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("metrics.jsonl:2: not a JSON object", result.stderr)
        self.assertIn("No such file", self.plot(self.folder / "none").stderr)

    def test_smoothing_keeps_a_straight_line(self):
        line = [float(i) for i in range(500)]
        for smooth, raw in zip(plot.smoothed(line), line):
            self.assertAlmostEqual(smooth, raw, places=9)

    def test_event_files_hold_every_point(self):
        run = self.run_folder("a")
        self.assertEqual(self.plot(run, "--tensorboard", self.folder / "tb").returncode, 0)
        data = (self.folder / "tb/a/events.out.tfevents.gsa").read_bytes()
        records, position = 0, 0
        while position < len(data):
            length, crc = struct.unpack_from("<QI", data, position)
            self.assertEqual(crc, tensorboard_events.masked_crc(data[position:position + 8]))
            body = data[position + 12:position + 12 + length]
            self.assertEqual(struct.unpack_from("<I", data, position + 12 + length)[0],
                             tensorboard_events.masked_crc(body))
            position += 16 + length
            records += 1
        # The version, then loss, rate and speed of 10 steps, 9 norms, 5 validations and 5 by source.
        self.assertEqual(records, 1 + 30 + 9 + 5 + 5)

    def test_crc_is_castagnolis(self):
        # The check value of CRC-32C, for "123456789", is 0xE3069283; masked as TFRecord does.
        crc = 0xE3069283
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        self.assertEqual(tensorboard_events.masked_crc(b"123456789"), masked)


if __name__ == "__main__":
    unittest.main()
