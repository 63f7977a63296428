"""The comparison of two engines' speed, with a second ``hf`` where the servers would be."""

import json

import pandas as pd
import pytest

from esr_utils import bench_servers
from esr_utils.bench_servers import KINDS, measure, ratios, save
from esr_utils.contenders import BenchSettings, endless
from esr_utils.engines.hf import HFEngine

SETTINGS = BenchSettings(batches=(2, 3), n_tokens=4, n_latents=5, min_rounds=2)


class Elsewhere(HFEngine):
    name = "vllm"


@pytest.fixture(scope="module")
def timings(tiny_llama) -> pd.DataFrame:
    return measure(HFEngine(endless(tiny_llama)), Elsewhere(endless(tiny_llama)), SETTINGS)


def test_both_engines_make_the_same_rows_in_turn(timings):
    first = timings[timings["round"] == 0]["contender"].tolist()
    assert first == [f"{name}, {kind}" for kind in KINDS for name in ("hf", "vllm")]
    assert len(timings) == 8
    assert set(timings["tokens"]) == {12}
    assert (timings["seconds"] > 0).all()


def test_ratios_are_taken_within_rounds(timings):
    seconds = {("hf", 0): 2.0, ("vllm", 0): 1.0, ("hf", 1): 9.0, ("vllm", 1): 3.0}
    made = timings.assign(
        seconds=[seconds[c.split(",")[0], n] for c, n in zip(timings["contender"], timings["round"], strict=True)]
    )
    table = ratios(made)
    assert table.index.tolist() == list(KINDS)
    assert table.loc["steered", ["median", "min", "max"]].tolist() == [2.5, 2.0, 3.0]


def test_the_file_holds_every_timing_and_the_machine(timings, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_servers, "machine", lambda: {"cpu": "Some CPU", "n_cores": 2, "gpu": None})
    path = save(timings, SETTINGS, tmp_path)
    assert path.name == "some-cpu-2-cores-vllm.json"
    assert len(json.loads(path.read_text())["timings"]) == len(timings)
