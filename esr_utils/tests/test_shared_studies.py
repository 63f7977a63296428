"""Every study that is a plan of trials is made in shards as by one worker: killed, cut otherwise, read together."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import shard
from esr_utils.detection import Detection
from esr_utils.engines.base import Engine
from esr_utils.judging import Case, Verdict
from esr_utils.study import READER, Study
from esr_utils.tests import (
    test_ablation,
    test_detection,
    test_following,
    test_inducing,
    test_meta_prompting,
    test_topic_steering,
)
from esr_utils.tests.test_detection import SCALE, Reading, Workshop, Writing
from esr_utils.topic_steering import DIRECTIONS

MADE_IN_SHARDS = "this run is made in shards; wait for those at work"


@dataclass(frozen=True)
class Kind:
    """A study at a tiny scale: what it takes from outside, and the detection that it is made from."""

    patched: Callable[[Path, pytest.MonkeyPatch], Workshop]
    scale: object
    source: object = SCALE
    tables: tuple[str, ...] = ("trials",)


KINDS = {
    "ablation": Kind(test_ablation.patched, test_ablation.TINY, tables=("trials", "damage", "removed", "profiles")),
    "following": Kind(
        test_following.patched, replace(test_following.TINY, n_repeats=1), test_following.MAIN, ("cells", "arms")
    ),
    "topic_steering": Kind(
        test_topic_steering.patched, test_topic_steering.TINY, None, ("trials", "calibrated", "placebo_parts")
    ),
    "meta_prompting": Kind(test_meta_prompting.patched, test_meta_prompting.TINY),
    "fine_tuning": Kind(test_inducing.patched, replace(test_inducing.TINY, shares=(), n_questions=1)),
}


class Company(Reading):
    """Scores depend on what else is scored at once, so they tell if another worker put it together otherwise."""

    def judge(self, cases: list[Case]) -> list[Verdict]:
        company = [case.response for case in cases]
        attempts = [[replace(a, score=moved(a.score, company)) for a in v.attempts] for v in super().judge(cases)]
        return [Verdict(status="judged", attempts=tuple(scored)) for scored in attempts]

    def scores(self, questions: list[str], texts: list[str]) -> np.ndarray:
        return np.array([moved(score, texts) for score in super().scores(questions, texts)])


def moved(score: float, company: list[str]) -> float:
    return (score + crc32("".join(company).encode()) % 1001 / 10) % 100


@pytest.fixture(params=KINDS)
def name(request) -> str:
    return request.param


@pytest.fixture
def kind(name, monkeypatch) -> Kind:
    """Of the study called ``name``, which the command line then finds at its tiny scale."""
    found = KINDS[name]
    tiny = replace(shard.STUDIES[name], scales={"quick": found.scale})
    monkeypatch.setitem(shard.STUDIES, name, tiny)
    monkeypatch.setattr(test_detection, "Reading", Company)
    monkeypatch.setattr(Writing, "generate", shortened(Writing.generate))
    return found


def shortened(generate: Callable) -> Callable:
    """``Writing.generate`` with a token or two a row: what it hands over is not the model's text anyway."""

    def brief(self: Engine, rows: list, **rest: object) -> list:
        samplings = [replace(row.sampling, max_new_tokens=min(2, row.sampling.max_new_tokens)) for row in rows]
        return generate(self, [replace(row, sampling=s) for row, s in zip(rows, samplings, strict=True)], **rest)

    return brief


def prepared(kind: Kind, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    kind.patched(folder, patch)
    if kind.source:
        Detection(READER, "quick", kind.source).measure()
    return folder


def a_study(name: str) -> Study:
    return replace(shard.find_part([name, READER, "quick", "1/1"])[1], shard=None)


def start(name: str, part: str) -> int:
    return shard.main([name, READER, "quick", part])


def killed_in(generate: Callable) -> Callable:
    """``Writing.generate`` that is interrupted once it has handed over two responses."""

    def interrupted(self: Engine, rows: list, *, on_response: Callable | None = None, **rest: object) -> list:
        if on_response is None or len(rows) < 3:
            return generate(self, rows, on_response=on_response, **rest)
        generate(self, rows[:2], on_response=on_response, **rest)
        raise KeyboardInterrupt

    return interrupted


def tables(kind: Kind, study: Study) -> Iterator[pd.DataFrame]:
    return (getattr(study, table)() for table in kind.tables)


def test_shards_killed_and_cut_otherwise_end_as_one_worker(name, kind, tmp_path, monkeypatch):
    shutil.copytree(prepared(kind, tmp_path / "one", monkeypatch), tmp_path / "many")
    one = a_study(name).measure()
    expected = list(tables(kind, one))
    kind.patched(tmp_path / "many", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Writing, "generate", killed_in(Writing.generate))
        assert [start(name, f"{k}/3") for k in (1, 2)] == [130, 130]
    with pytest.raises(
        RuntimeError, match=rf"(trials|calibrations) of \d of \d .*s are not there yet \(.*\): {MADE_IN_SHARDS}"
    ):
        a_study(name).measure()
    assert [start(name, part) for part in ("2/2", "1/2")] == [0, 0]
    many = a_study(name).measure()
    assert not list(many.run.folder.glob("*.jsonl"))  # whoever reads made no trial and no judgement
    assert not one.run.has_shards
    assert many.run.judges() == one.run.judges()
    assert many.run.trials() == one.run.trials()
    n_made = sum(len(path.read_bytes().splitlines()) for path in many.run.folder.glob("**/trials.jsonl"))
    assert n_made == len(one.run.trials())  # none was made twice
    for judge in one.run.judges():
        assert many.run.judgements(judge) == one.run.judgements(judge)
    for ours, theirs in zip(tables(kind, many), expected, strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].source], indirect=True)
def test_what_a_study_is_made_from_is_not_made_by_its_shards(name, kind, tmp_path, monkeypatch, capsys):
    kind.patched(tmp_path, monkeypatch)
    assert start(name, "1/2") == 1
    assert "detection" in capsys.readouterr().err.lower()
    assert not list(tmp_path.glob("**/esr_detection/*.jsonl"))


@pytest.mark.parametrize("name", ["meta_prompting"], indirect=True)
def test_more_shards_than_latents_leave_some_without_work(name, kind, tmp_path, monkeypatch, capsys):
    prepared(kind, tmp_path / "one", monkeypatch)
    assert start(name, "3/3") == 0
    assert "3of3: nothing to do, the run has 2 latents in all" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["topic_steering"], indirect=True)
def test_directions_come_with_the_shards_that_made_them(name, kind, tmp_path, monkeypatch):
    prepared(kind, tmp_path / "1", monkeypatch)
    first = a_study(name).sharded("1/2")
    made, directions = first.run.own, first.directions()
    assert (made / DIRECTIONS).exists()
    prepared(kind, tmp_path / "2", monkeypatch)
    second = a_study(name).sharded("2/2")
    shutil.copytree(made, second.run.folder / "shards" / "1of2")
    monkeypatch.setattr("esr_utils.topic_steering.topic_directions", lambda *asked, **how: pytest.fail("made again"))
    assert torch.equal(second.directions(), directions)
    assert torch.equal(a_study(name).directions(), directions)
