#!/usr/bin/python3
"""Makes one table of what scripts/gpu_test.sh measured: Markdown on stdout, results.json beside it."""
import datetime
import json
import os
import pathlib
import subprocess
import sys


def commit():
    """That of the bundle which is tested, or of this working tree."""
    kept = pathlib.Path(os.environ.get("GSA_BUNDLE", "."), "commit")
    return kept.read_text().strip() if kept.is_file() else output_of("git", "rev-parse", "--short", "HEAD")


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load(folder, prefix):
    files = sorted(folder.glob(prefix + "*.json"))
    return {path.stem[len(prefix):]: json.loads(path.read_text(encoding="utf-8")) for path in files}


def checks(folder):
    rows = [line.split("\t") for line in (folder / "checks.tsv").read_text(encoding="utf-8").splitlines()]
    return [{"name": name, "result": result, "seconds": int(seconds)} for name, result, seconds in rows]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def number(values, key, digits=4):
    return f"{values[key]:.{digits}g}" if key in values else "-"


def main():
    folder = pathlib.Path(sys.argv[1])
    gpus = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    result = {
        "date": datetime.date.today().isoformat(),
        "gpus": gpus,
        "commit": commit(),
        "checks": checks(folder),
        "op": load(folder, "op-"),
        "step": load(folder, "step-"),
        "comm": load(folder, "comm-"),
        "generate": load(folder, "generate-"),
        "checkpoint": load(folder, "checkpoint-"),
        "start": load(folder, "start-"),
    }
    lines = [f"## {result['date']}: {len(gpus)} x {gpus[0] if gpus else '?'}, commit {result['commit']}", ""]
    lines += table(["check", "result", "s"],
                   [[c["name"], c["result"], str(c["seconds"])] for c in result["checks"]
                    if not c["name"].startswith("bench") or c["result"] != "passed"])
    keys = ["forward_ms", "backward_ms", "forward_backward_ms", "forward_floor_ms", "backward_floor_ms",
            "saved_mib", "workspace_mib"]
    lines += table(["op", *keys], [[name, *(number(v, k) for k in keys)] for name, v in result["op"].items()])
    keys = ["tokens_per_second", "step_ms", "peak_memory_gib", "model_tflops", "reference_gemm_tflops",
            "copy_tb_s"]
    lines += table(["step", *keys], [[name, *(number(v, k, 5) for k in keys)] for name, v in result["step"].items()])
    phases = sorted({phase for v in result["step"].values() for phase in v["phases_ms"]})
    lines += table(["phases, ms", *phases],
                   [[name, *(number(v["phases_ms"], p) for p in phases)] for name, v in result["step"].items()])
    keys = ["tokens_per_second", "step_ms", "floor_ms", "first_token_ms", "peak_memory_gib", "copy_tb_s"]
    if result["generate"]:
        lines += table(["generate", *keys],
                       [[name, *(number(v, k) for k in keys)] for name, v in result["generate"].items()])
    keys = ["gib", "stall_seconds", "write_seconds", "write_gib_s", "plain_write_gib_s", "step_ms",
            "step_ms_while_writing", "slowed_percent"]
    if result["checkpoint"]:
        lines += table(["checkpoint", *keys],
                       [[name, *(number(v, k) for k in keys)] for name, v in result["checkpoint"].items()])
    if result["start"]:
        lines += table(["start of gsa train, 1.3b, to its first step", "seconds"],
                       [[name, number(v, "seconds")] for name, v in result["start"].items()])
    keys = ["reduce_scatter_ms", "all_gather_ms", "reduce_scatter_bus_gb_s", "all_gather_bus_gb_s", "products_ms",
            "products_beside_reduce_scatter_ms", "products_beside_all_gather_ms"]
    if result["comm"]:
        lines += table(["comm", *keys], [[name, *(number(v, k) for k in keys)] for name, v in result["comm"].items()])
    print("\n".join(lines))
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
