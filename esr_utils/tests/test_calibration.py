"""Laws of probabilistic bisection, and of calibrating many latents at once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from esr_utils.calibration import (
    PROBE_KEY,
    VERIFY,
    Bisection,
    CalibrationSettings,
    belief_table,
    beliefs_after,
    calibrate,
    calibration_table,
    measured_prior,
)
from esr_utils.engines.hf import HFEngine
from esr_utils.journal import Journal
from esr_utils.steering import Row, Sampling
from esr_utils.tests.conftest import tiny_sae

SETTINGS = CalibrationSettings(upper=100.0, prior_mean=50.0, prior_sd=25.0, n_verify=6)
QUESTIONS = [f"question {i}?" for i in range(8)]


class Responder(HFEngine):
    """Stands in for an engine: a response says how strongly it was steered. Interrupted at batch ``killed_at``."""

    def __init__(self, *, killed_at: int | None = None):
        self.pair = SimpleNamespace(sae=tiny_sae("standard"))
        self.killed_at = killed_at
        self.batches: list[int] = []

    def generate(self, rows, **callbacks):
        if len(self.batches) == self.killed_at:
            raise KeyboardInterrupt
        self.batches.append(len(rows))
        return [SimpleNamespace(text=f"{row.steer[0].latent} {row.steer[0].strength} {row.seed}") for row in rows]


def score(questions, responses) -> np.ndarray:
    """Falls as a logistic of strength; latent k crosses 30 at strength 40 + k."""
    scores = []
    for text in responses:
        latent, strength, seed = text.split()
        middle = 40 + int(latent) - 4 * np.log(0.7 / 0.3)
        noise = np.random.default_rng(int(seed)).normal(0, 3)
        scores.append(np.clip(100 / (1 + np.exp((float(strength) - middle) / 4)) + noise, 0, 100))
    return np.array(scores)


def published_rule(density: np.ndarray, grid: np.ndarray, s: float, t: float) -> np.ndarray:
    """The update as the paper's appendix gives it, with its flip, written out step by step."""
    at = int(np.searchsorted(density.cumsum(), 0.5))
    goes_right = s >= t
    q = beta.cdf(t, 0.5 + 5 * s, 0.5 + 5 * (1 - s))
    p = 1 - q if goes_right else q
    if p < 0.5:
        goes_right, p = not goes_right, 1 - p
    new = density.copy()
    new[at + 1 :] *= p if goes_right else 1 - p
    new[:at] *= 1 - p if goes_right else p
    new[at] *= np.sqrt(p * (1 - p))
    return new / new.sum()


def test_update_is_the_published_rule():
    bisection, rng = Bisection(SETTINGS), np.random.default_rng(0)
    for s in rng.uniform(0, 1, 25):
        expected = published_rule(bisection.density, bisection.grid, s, 0.3)
        bisection.update(100 * s)
        np.testing.assert_allclose(bisection.density, expected, rtol=1e-6, atol=1e-12)


def test_a_high_score_moves_the_belief_to_stronger_steering():
    high, low = Bisection(SETTINGS), Bisection(SETTINGS)
    high.update(90.0)
    low.update(5.0)
    assert low.median < 50.0 < high.median


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 101.0])
def test_a_score_outside_its_range_is_an_error(bad):
    with pytest.raises(ValueError, match="is not a number from 0 to 100"):
        Bisection(SETTINGS).update(bad)


def test_every_latent_is_found_at_its_own_strength():
    probes = calibrate(Responder(), score, [0, 10, 20], QUESTIONS, SETTINGS)
    table = calibration_table(probes, SETTINGS).set_index("latent")
    assert (table["strength"] - [40, 50, 60]).abs().max() < 4
    assert table["is_in_window"].all()
    assert (table["n_verified"] == 6).all()


def test_each_step_is_one_batch_of_all_latents():
    engine = Responder()
    calibrate(engine, score, [0, 10, 20], QUESTIONS, SETTINGS)
    assert engine.batches == [3 * SETTINGS.n_samples] * SETTINGS.n_steps + [3 * SETTINGS.n_verify]


def test_a_latent_that_misses_the_window_is_kept_and_flagged():
    probes = calibrate(Responder(), lambda q, r: np.full(len(r), 100.0), [3], QUESTIONS, SETTINGS)
    table = calibration_table(probes, SETTINGS)
    assert table["is_in_window"].tolist() == [False]
    assert table["verified_score"].tolist() == [100.0]


def test_a_latents_result_does_not_depend_on_the_others():
    alone = calibrate(Responder(), score, [10], QUESTIONS, SETTINGS)
    among = calibrate(Responder(), score, [0, 10, 20], QUESTIONS, SETTINGS)
    among = among[among["latent"] == 10].reset_index(drop=True)
    assert alone.equals(among)


def test_verification_draws_fresh_responses():
    probes = calibrate(Responder(), score, [0], QUESTIONS, SETTINGS)
    verified, searched = probes[probes["stage"] == VERIFY], probes[probes["stage"] != VERIFY]
    assert not set(verified["seed"]) & set(searched["seed"])
    assert verified["strength"].nunique() == 1


def test_beliefs_worked_out_again_are_densities():
    probes = calibrate(Responder(), score, [0, 10], QUESTIONS, SETTINGS)
    for belief in beliefs_after(probes, SETTINGS).values():
        assert belief.density.sum() == pytest.approx(1.0)
    assert belief_table(probes, SETTINGS).groupby("latent")["density"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_a_latent_out_of_range_stops_before_anything_is_generated():
    engine = Responder()
    with pytest.raises(ValueError, match=r"latent 64 is not in tiny standard SAE: it has 64 latents \(0 to 63\)"):
        calibrate(engine, score, [1, 64], QUESTIONS, SETTINGS)
    assert engine.batches == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"upper": 0.0}, "the search range is empty"),
        ({"target": 100.0}, "target 100.0 is outside 0 to 100"),
        ({"n_steps": 0}, "must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        CalibrationSettings(**{"upper": 100.0, "prior_mean": 50.0, "prior_sd": 25.0, **change})


def test_a_prior_far_outside_the_range_is_refused():
    with pytest.raises(ValueError, match="lies too far outside"):
        Bisection(CalibrationSettings(upper=1.0, prior_mean=1e6, prior_sd=1.0))


LATENTS = [0, 10, 20]
STAGE = len(LATENTS) * SETTINGS.n_samples  # lines of the journal


def a_journal(tmp_path) -> Journal:
    return Journal(path=tmp_path / "probes.jsonl", key=PROBE_KEY)


def gappy_score(questions, responses) -> np.ndarray:
    """As ``score``, but a third of the responses holds no attempt."""
    is_lost = np.array([int(text.split()[2]) % 3 == 0 for text in responses])
    return np.where(is_lost, np.nan, score(questions, responses))


@pytest.mark.parametrize("scoring", [score, gappy_score])
@pytest.mark.parametrize("killed_at", [0, 3, SETTINGS.n_steps])
def test_a_search_killed_between_stages_goes_on_there_and_ends_the_same(tmp_path, scoring, killed_at):
    expected = calibrate(Responder(), scoring, LATENTS, QUESTIONS, SETTINGS)
    killed, resumed = Responder(killed_at=killed_at), Responder()
    with pytest.raises(KeyboardInterrupt):
        calibrate(killed, scoring, LATENTS, QUESTIONS, SETTINGS, journal=a_journal(tmp_path))
    probes = calibrate(resumed, scoring, LATENTS, QUESTIONS, SETTINGS, journal=a_journal(tmp_path))
    pd.testing.assert_frame_equal(probes, expected, check_exact=True)
    assert len(killed.batches) == killed_at
    assert len(killed.batches) + len(resumed.batches) == SETTINGS.n_steps + 1


def test_a_finished_search_is_read_without_an_engine_or_a_judge(tmp_path):
    journal = a_journal(tmp_path)
    expected = calibrate(Responder(), gappy_score, LATENTS, QUESTIONS, SETTINGS, journal=journal)
    assert expected["score"].isna().any()
    engine = Responder()
    again = calibrate(engine, lambda q, r: pytest.fail("scored again"), LATENTS, QUESTIONS, SETTINGS, journal=journal)
    pd.testing.assert_frame_equal(again, expected, check_exact=True)
    assert engine.batches == []


def test_a_stage_of_which_half_was_written_is_made_again_for_the_latents_that_lack_some(tmp_path):
    journal = a_journal(tmp_path)
    expected = calibrate(Responder(), gappy_score, LATENTS, QUESTIONS, SETTINGS, journal=journal)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[: 2 * STAGE + 5]) + lines[2 * STAGE + 5][:30])
    engine = Responder()
    probes = calibrate(engine, gappy_score, LATENTS, QUESTIONS, SETTINGS, journal=journal)
    pd.testing.assert_frame_equal(probes, expected, check_exact=True)
    n_lacking = STAGE - 5 // SETTINGS.n_samples * SETTINGS.n_samples
    assert engine.batches == [n_lacking, *[STAGE] * (SETTINGS.n_steps - 3), len(LATENTS) * SETTINGS.n_verify]
    assert len(journal.read()) == len(lines)


def test_a_journal_does_not_change_what_is_found(tmp_path):
    kept = calibrate(Responder(), score, LATENTS, QUESTIONS, SETTINGS, journal=a_journal(tmp_path))
    pd.testing.assert_frame_equal(kept, calibrate(Responder(), score, LATENTS, QUESTIONS, SETTINGS), check_exact=True)


def test_responses_without_a_score_are_kept_and_left_out_of_the_mean():
    probes = calibrate(Responder(), gappy_score, LATENTS, QUESTIONS, SETTINGS)
    assert len(probes) == STAGE * SETTINGS.n_steps + len(LATENTS) * SETTINGS.n_verify
    for latent in LATENTS:
        belief, mine = Bisection(SETTINGS), probes[probes["latent"] == latent]
        for step in range(SETTINGS.n_steps):
            stage = mine[mine["stage"] == step]
            assert stage["strength"].tolist() == [belief.median] * SETTINGS.n_samples
            if stage["score"].notna().any():
                belief.update(float(np.nanmean(stage["score"])))
    table = calibration_table(probes, SETTINGS)
    verified = probes[probes["stage"] == VERIFY].groupby("latent")["score"]
    assert table["n_verified"].tolist() == verified.count().tolist()
    assert table["verified_score"].tolist() == verified.mean().tolist()


def test_a_step_without_any_score_leaves_the_belief_as_it_was():
    def unscored(questions, responses) -> np.ndarray:
        return np.full(len(responses), np.nan)

    probes = calibrate(Responder(), unscored, LATENTS, QUESTIONS, SETTINGS)
    untouched = Bisection(SETTINGS)
    assert set(probes["strength"]) == {untouched.median, round(untouched.median, 2)}
    for belief in beliefs_after(probes, SETTINGS).values():
        np.testing.assert_array_equal(belief.density, untouched.density)


def test_a_latent_that_was_never_scored_is_kept_outside_the_window():
    def scored_but_for_ten(questions, responses) -> np.ndarray:
        return np.where([text.startswith("10 ") for text in responses], np.nan, score(questions, responses))

    table = calibration_table(calibrate(Responder(), scored_but_for_ten, LATENTS, QUESTIONS, SETTINGS), SETTINGS)
    assert table["n_verified"].tolist() == [6, 0, 6]
    assert table["is_in_window"].tolist() == [True, False, True]
    assert table["verified_score"].isna().tolist() == [False, True, False]


def test_the_table_and_the_verified_responses_have_the_same_strength():
    probes = calibrate(Responder(), gappy_score, LATENTS, QUESTIONS, SETTINGS)
    verified = probes[probes["stage"] == VERIFY].groupby("latent")["strength"].unique()
    assert [list(v) for v in verified] == [[s] for s in calibration_table(probes, SETTINGS)["strength"]]


def test_a_prior_is_measured_in_units_of_a_decoder_direction(tiny_llama):
    sae = replace(tiny_llama.sae, W_dec=4.0 * tiny_llama.sae.W_dec)
    plain, longer = (HFEngine(pair) for pair in (tiny_llama, replace(tiny_llama, sae=sae)))
    sampling = Sampling(max_new_tokens=48)
    rows = [Row(messages=q, seed=i, sampling=sampling, record_resid=(2,)) for i, q in enumerate(QUESTIONS)]
    norm = np.median(np.concatenate([r.resid[2].norm(dim=1).numpy() for r in plain.generate(rows) if r.resid]))
    (prior,) = measured_prior(plain, QUESTIONS).to_dict("records")
    assert prior == pytest.approx({"mean": 0.7 * norm, "sd": 0.5 * norm, "upper": 2 * norm}, rel=1e-3)
    assert measured_prior(longer, QUESTIONS).loc[0, "mean"] == pytest.approx(prior["mean"] / 4, rel=1e-3)
