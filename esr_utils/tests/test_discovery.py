"""Discovery end to end on a tiny pair: what is read, what is kept, and that nothing is read twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from esr_utils import detectors, discovery, discovery_tables, latents
from esr_utils.config import SCALE_NAMES
from esr_utils.detection import Detection
from esr_utils.discovery import Discovery
from esr_utils.published import detectors as published_detectors
from esr_utils.scales import DISCOVERY, DetectionScale
from esr_utils.study import READER
from esr_utils.tests.test_detection import ASKED, SCALE, Workshop

TINY = replace(
    DISCOVERY["quick"], n_answers=6, n_derangements=3, n_draws=10, n_shuffles=3, n_phrases=8, n_trials=6, n_checked=2,
    max_new_tokens=8,
)  # fmt: skip
QUESTIONS = {**ASKED, "discovery": [f"How is {thing} made?" for thing in ("tea", "ink", "soap", "ice", "rope", "jam")]}
LENIENT = detectors.Rule(min_superiority=0.5, min_frequency=0.5)  # a random model has no detectors


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(discovery, "load_prompts", QUESTIONS.__getitem__)
    patch.setattr(discovery, "Rule", lambda: LENIENT)
    source = replace_scale(SCALE)
    patch.setattr(discovery, "committed_detection", lambda subject, scale: Detection(subject, "quick", source))
    return workshop


def replace_scale(scale: DetectionScale) -> DetectionScale:
    return replace(scale, levels=(0.0, 1.0))


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[Discovery, Workshop]:
    """A study measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = patched(tmp_path_factory.mktemp("discovery"), patch)
    study = Discovery(READER, "quick", TINY)
    study.source.measure()
    return study.measure(), workshop


def test_the_reading_of_an_answer_under_its_own_question_comes_first(measured):
    study, workshop = measured
    answers = study.answers()
    peaks, means = detectors.read_pairs(workshop.engine, answers["question"].tolist(), answers["response"].tolist())
    np.testing.assert_allclose(study.readings.peaks[0], peaks, rtol=1e-5, atol=1e-5)
    assert study.readings.means.shape == (1 + TINY.n_derangements, len(answers), means.shape[1])
    assert not np.allclose(study.readings.means[1], study.readings.means[0])


def test_both_groups_are_chosen_and_share_no_latent(measured):
    groups = measured[0].groups()
    assert groups["detectors"]
    assert not set(groups["detectors"]) & set(groups["backtracking"])
    frequency = measured[0].statistics().loc[groups["detectors"], "frequency"]
    assert (frequency >= LENIENT.min_frequency).all()
    assert frequency.is_monotonic_decreasing


def test_no_detector_at_all_is_one_clear_sentence(measured, monkeypatch):
    monkeypatch.setattr(discovery, "Rule", lambda: detectors.Rule(min_superiority=1.0, min_frequency=1.0))
    frame = measured[0].statistics().assign(frequency=0.4)
    monkeypatch.setattr(Discovery, "statistics", lambda self: frame)
    with pytest.raises(ValueError, match=r"no latent reaches a superiority of 1.0 in 100% of draws \(the best: 40%\)"):
        measured[0].detectors()


def test_steered_trials_play_no_part_in_the_choice(measured):
    """Whatever the trials were, the same latents are chosen: they are not read before."""
    study, workshop = measured
    chosen = study.groups()
    other = replace(study, scale=replace(TINY, n_trials=1))
    other.__dict__["run"] = study.run
    assert other.groups() == chosen


def test_what_is_kept_is_not_made_again(measured):
    study, workshop = measured
    n_loaded = len(workshop.loaded)
    again = Discovery(READER, "quick", TINY).measure()
    pd.testing.assert_frame_equal(again.statistics(), study.statistics())
    assert len(workshop.loaded) == n_loaded  # no model was asked for


def test_other_settings_are_refused(measured):
    with pytest.raises(ValueError, match="n_answers: 6 there, 5 now"):
        _ = Discovery(READER, "quick", replace(TINY, n_answers=5)).run


def test_every_scale_has_settings_and_no_question_is_shared_with_the_evaluation():
    assert set(DISCOVERY) == set(SCALE_NAMES)
    from esr_utils.prompts import load_prompts

    assert not set(load_prompts("discovery")) & {*load_prompts("evaluation"), *load_prompts("calibration")}
    assert max(scale.n_answers for scale in DISCOVERY.values()) <= len(load_prompts("discovery"))


def test_the_tables_add_up(measured, monkeypatch):
    study = measured[0]
    monkeypatch.setattr(latents, "load_labels", lambda subject: pd.DataFrame({"label": "x"}, index=range(64)))
    stability = discovery_tables.stability(study)
    at_rule = stability.loc[np.isclose(stability["frequency"], LENIENT.min_frequency), "n_chosen"]
    assert at_rule.tolist() == [len(study.detectors())]
    line = discovery_tables.false_discovery(study).iloc[0]
    assert line["false_discovery_rate"] == pytest.approx(line["mean_by_chance"] / line["n_chosen"])
    rules = discovery_tables.rules(study).set_index("rule")
    assert rules.loc[discovery_tables.OURS, "mean"] == len(study.detectors())
    assert (rules["least"] <= rules["most"]).all()


def test_the_published_lists_have_the_sizes_that_were_published():
    table = published_detectors()
    counts = table[["in_paper_26", "in_separability_25", "in_sum_50"]].sum()
    assert counts.tolist() == [26, 25, 50]
    assert table["latent"].is_unique
    signs = discovery_tables.published_signs().set_index("sign")
    paper = table[table["in_paper_26"] == 1]
    assert signs["n"].sum() == 26
    assert signs.loc["more active on topic", "n"] == (paper["cohens_d"] < 0).sum()


def test_published_p_values_are_told_as_they_were_published():
    told, table = discovery_tables.published_detectors(), published_detectors()
    assert told["cohens_d"].is_monotonic_decreasing
    assert len(told) == 26
    is_bound = told["latent"].map(table.set_index("latent")["p_is_bound"]).astype(bool)
    assert set(told.loc[is_bound, "p"]) == {"< 0.001"}
    assert told.loc[~is_bound, "p"].str.fullmatch(r"[01]\.\d{3}").all()


def test_a_stretch_is_told_as_times_the_unsteered_mean():
    known = {"group": "detectors", "ci_low": 1.0, "ci_high": 3.0, "n": 7}
    lines = [known | {"where": "off_topic", "mean": 2.0}, known | {"where": "unsteered", "mean": 0.5}]
    lines.append(lines[0] | {"group": "backtracking", "mean": 9.0})
    assert discovery_tables.times_baseline(pd.DataFrame(lines), "off_topic") == "4.00 [2.00, 6.00], n = 7"
