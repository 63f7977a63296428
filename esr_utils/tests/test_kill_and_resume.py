"""A run that is killed at any moment and started again ends as one that was never disturbed.

Real processes on the tiny Llama, killed with SIGKILL. They fork from a server that has imported everything, so that
each starts at once.
"""

import multiprocessing
import signal
import time
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import trials
from esr_utils.calibration import PROBE_KEY, CalibrationSettings, calibrate, calibration_table
from esr_utils.engines.hf import HFEngine
from esr_utils.judging import Attempt, Verdict, first_scores
from esr_utils.records import PlannedTrial, Run, open_run
from esr_utils.steering import Sampling
from esr_utils.tests.conftest import tiny_pair
from esr_utils.trials import judge_trials, plan_trials, run_trials

LATENTS, LEVELS = (3, 17), (0.0, 0.5, 1.0)
QUESTIONS = ["How do bees find home?", "Why is the sea salt?", "What is tea?", "Who made the first map?"]
SEARCH = CalibrationSettings(
    upper=8.0,
    prior_mean=4.0,
    prior_sd=2.0,
    n_steps=3,
    n_samples=2,
    n_verify=3,
    sampling=Sampling(max_new_tokens=8, temperature=1.0),
)
N_TRIALS = len(LATENTS) * len(LEVELS) * 3
JUDGED_AT_ONCE = 4
PAUSE_S = 0.1  # before each response and each batch of the judge
N_PAUSES = 2 * (3 * 2 + 3) + 4 + N_TRIALS + -(-N_TRIALS // JUDGED_AT_ONCE)
SHORTEST_S = N_PAUSES * PAUSE_S  # no run is over before, on any machine
MOMENTS_S = (np.arange(5) + np.random.default_rng(2).random(5)) / 5 * SHORTEST_S
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "transformers.models.llama.modeling_llama"])


class Slow(HFEngine):
    """Pauses before it hands over a response."""

    def generate(self, rows, *, on_response=None, **rest):
        def slowly(index, response):
            time.sleep(PAUSE_S)
            if on_response:
                on_response(index, response)

        return super().generate(rows, on_response=slowly, **rest)


class Company:
    """A judge whose scores depend on the company of a response, so they tell if a batch was put together otherwise."""

    name = "company"

    def judge(self, cases):
        time.sleep(PAUSE_S)
        company = crc32("".join(case.response for case in cases).encode())
        return [self._verdict(case.response, company) for case in cases]

    def _verdict(self, text, company):
        middle = len(text) // 2
        spans = [(start, end) for start, end in ((0, middle), (middle, len(text))) if start < end]
        scores = [crc32(text[start:end].encode(), company) % 1001 / 10 for start, end in spans]
        attempts = [Attempt(start=a, end=b, score=score) for (a, b), score in zip(spans, scores, strict=True)]
        return Verdict(status="judged" if attempts else "empty", attempts=tuple(attempts))


def calibrated(run: Run, engine: HFEngine, judge: Company) -> pd.DataFrame:
    journal = run.journal("probes", *PROBE_KEY)

    def make() -> pd.DataFrame:
        probes = calibrate(engine, first_scores(judge), LATENTS, QUESTIONS, SEARCH, journal=journal)
        return calibration_table(probes, SEARCH)

    return run.frame("calibration", make)


def planned(table: pd.DataFrame) -> list[PlannedTrial]:
    strengths = dict(zip(table["latent"].tolist(), table["strength"].tolist(), strict=True))
    return plan_trials("tiny", strengths, questions=QUESTIONS, n_questions=3, levels=LEVELS)


def work(folder: Path, begun) -> None:
    """The whole run, in a process of its own."""
    torch.set_num_threads(1)
    trials.JUDGED_AT_ONCE = JUDGED_AT_ONCE
    engine, judge = Slow(tiny_pair("llama")), Company()
    begun.set()
    run = open_run(folder, SEARCH)
    plans = planned(calibrated(run, engine, judge))
    run_trials(engine, run, plans, SEARCH.sampling)
    judge_trials(judge, run, plans)


def start(folder: Path):
    begun = FORKS.Event()
    process = FORKS.Process(target=work, args=(folder, begun), daemon=True)
    process.start()
    while not begun.wait(0.05):
        assert process.is_alive()
    return process


def finish(folder: Path) -> Run:
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    return Run(folder=folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Run:
    return finish(tmp_path_factory.mktemp("uninterrupted"))


def test_the_undisturbed_run_has_everything_that_could_get_lost(uninterrupted):
    table = pd.read_csv(uninterrupted.folder / "calibration.csv")
    plans = planned(table)
    assert table["latent"].tolist() == list(LATENTS)
    assert table["strength"].nunique() == len(LATENTS)
    assert len(plans) == N_TRIALS
    assert uninterrupted.trials().keys() == {plan.id for plan in plans}
    assert len(uninterrupted.judgements("company")) == len(plans)


@pytest.mark.parametrize("moment_s", MOMENTS_S, ids=[f"after {moment:.1f} s" for moment in MOMENTS_S])
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path, uninterrupted, moment_s):
    process = start(tmp_path)
    time.sleep(moment_s)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(Run(folder=tmp_path).judgements("company")) < N_TRIALS  # it was not over
    run = finish(tmp_path)
    assert run.trials() == uninterrupted.trials()
    assert run.judgements("company") == uninterrupted.judgements("company")
    table, expected = (pd.read_csv(folder / "calibration.csv") for folder in (tmp_path, uninterrupted.folder))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert len((tmp_path / "trials.jsonl").read_bytes().splitlines()) == N_TRIALS  # none was made twice
