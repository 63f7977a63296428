"""Notebook 02 from a made-up folder of any size: ``python -m esr_utils.tests.large_notebook FOLDER N_TRIALS``.

Every cell is run, and its seconds and its peak memory are told (on Linux, which counts them). Figures and tables go
into FOLDER.
"""

import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jupytext
import numpy as np
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from esr_utils.config import ROOT
from esr_utils.detection import Detection
from esr_utils.plots import committed_folder
from esr_utils.records import Run
from esr_utils.scales import DETECTION
from esr_utils.study import SECOND_JUDGE
from esr_utils.tests.large_runs import QUESTIONS, STRENGTHS, SUBJECT, judged_lines, write_run

SCALE = "paper"
PARAMETERS = f'PAIR, SCALE = "{SUBJECT}", "{SCALE}"'
DRAWN = re.compile(r'(?:draw_result|run\.table|run\.frame)\("(\w+)"')


@dataclass(frozen=True, eq=False)
class LargeDetection(Detection):
    """A detection whose calibrations, trials and judgements are made up; what is drawn from them is the kit's."""

    folder: Path = field(kw_only=True)

    @cached_property
    def run(self) -> Run:
        return Run(folder=self.folder)

    @cached_property
    def judges(self) -> dict:
        rng = np.random.default_rng(0)
        judge = SimpleNamespace(scores=lambda questions, texts: rng.uniform(0, 100, len(texts)).round(1))
        return dict.fromkeys(("offline", SECOND_JUDGE), judge)

    def calibration(self, *, n_samples: int | None = None) -> pd.DataFrame:
        latents, strengths = list(STRENGTHS), np.array(list(STRENGTHS.values()))
        scores = np.random.default_rng(n_samples or 0).normal(30, 8, len(latents))
        frame = pd.DataFrame({"latent": latents, "strength": strengths, "verified_score": scores, "verified_sd": 9.0})
        beliefs = {"strength_p10": 0.9 * strengths, "strength_p90": 1.1 * strengths}
        window = {"target": 30.0, "window_low": 20.0, "window_high": 40.0}
        frame = frame.assign(**beliefs, **window, is_in_window=frame["verified_score"].between(20, 40))
        return frame.set_index("latent", drop=False)

    def questions(self, split: str) -> list[str]:
        return QUESTIONS

    def write(self) -> None:
        """Make up what the folder lacks."""
        if not (self.folder / "trials.jsonl").exists():
            write_run(self.folder, self.plan())
        path = self.folder / f"judgements.{SECOND_JUDGE}.jsonl"
        if not path.exists():
            path.write_text("".join(judged_lines(self._compared(self.plan()))))
        shutil.copy(committed_folder("detection_coverage") / "coverage.csv", self.folder)  # of simulated trials alone


def cells() -> Iterator[tuple[str, str]]:
    """What each code cell of the notebook makes, and its source."""
    heading = ""
    for cell in jupytext.read(ROOT / "notebooks" / "02_esr_detection.py").cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^##? (.*)", cell.source, flags=re.M)), heading)
        elif "parameters" in cell.metadata.get("tags", []):
            yield "parameters", PARAMETERS
        else:
            yield f"{heading}: {', '.join(DRAWN.findall(cell.source)) or 'shown'}", cell.source


def run_notebook(folder: Path, n_trials: int) -> pd.DataFrame:
    """Run every cell; a line each: what it makes, seconds by the clock and of the processor, peak_gib
    while it ran, characters shown."""
    made = partial(LargeDetection, folder=folder)
    n_repeats = n_trials // (len(STRENGTHS) * DETECTION[SCALE].n_questions * len(DETECTION[SCALE].levels))
    scale = replace(DETECTION[SCALE], n_repeats=n_repeats)
    made(SUBJECT, SCALE, scale).write()
    shell, lines = InteractiveShell.instance(), []
    with (
        mock.patch("esr_utils.detection.Detection", made),
        mock.patch.dict("esr_utils.scales.DETECTION", {SCALE: scale}),
        mock.patch("esr_utils.plots.style.figures_dir", return_value=folder / "figures"),
    ):
        for name, source in cells():
            forget_peak()
            begun, used = time.perf_counter(), time.process_time()
            with capture_output() as shown:
                result = shell.run_cell(source)
            result.raise_error()
            took = {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - used}
            lines.append({"cell": name, **took, "peak_gib": peak_gib(), "n_shown": len(shown.stdout)})
    return pd.DataFrame(lines)


def forget_peak() -> None:
    """Count peak memory from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(told.group(1)) / 2**20


def main(folder: Path, n_trials: int) -> None:
    table = run_notebook(folder, n_trials)
    sys.stdout.write(table.round(2).to_string(index=False) + "\n")
    seconds, cpu_s, peak = table["seconds"].sum(), table["cpu_s"].sum(), table["peak_gib"].max()
    sys.stdout.write(f"{seconds:.0f} s, {cpu_s:.0f} of the processor, peak {peak:.2f} GiB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
