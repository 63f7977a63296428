"""Ablation: the same trials in every arm, sets that are what they say, and tables counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import ablation, ablation_tables
from esr_utils.ablation import BACKTRACKING, DETECTORS, DIRECTIONS, HELD_OUT, NONE, SETS, Ablation, Arm, replay
from esr_utils.config import SCALE_NAMES
from esr_utils.detection import Detection
from esr_utils.frames import score_measures
from esr_utils.plots import ablation as figures
from esr_utils.scales import ABLATION
from esr_utils.steering import Sampling
from esr_utils.study import READER
from esr_utils.tests.test_detection import ASKED, SCALE, Workshop

TINY = replace(
    ABLATION["quick"],
    n_latents=2,
    n_questions=2,
    n_sets=3,
    n_set_questions=1,
    n_near=3,
    n_read=3,
    n_damage=3,
    max_new_tokens=6,
)
QUESTIONS = {**ASKED, HELD_OUT: ["Held-out question 0?", "Held-out question 1?"]}
CHOSEN = {DETECTORS: [3, 8, 21, 40], BACKTRACKING: [5, 30]}


def an_ablation(chosen: dict[str, list[int]] = CHOSEN, **changes: object) -> Ablation:
    study = Ablation(READER, "quick", replace(TINY, **changes))
    study.__dict__["discovery"] = SimpleNamespace(groups=lambda: chosen, detectors=lambda: chosen[DETECTORS])
    return study


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    """What an ablation takes from outside, but for the trials of its detection."""
    workshop = Workshop(folder).patch(patch)
    patch.setattr(ablation, "load_prompts", QUESTIONS.__getitem__)
    patch.setattr(ablation.Discovery, "groups", lambda self: CHOSEN)
    patch.setattr(ablation.Discovery, "detectors", lambda self: CHOSEN[DETECTORS])
    source = Detection(READER, "quick", SCALE)
    patch.setattr(ablation, "committed_detection", lambda subject, scale: source)
    return workshop


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[Ablation, Workshop]:
    """A study measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = patched(tmp_path_factory.mktemp("ablation"), patch)
    Detection(READER, "quick", SCALE).measure()
    return an_ablation().measure(), workshop


def test_every_arm_replays_the_same_trials_and_arms_take_turns(measured):
    study = measured[0]
    trials = study.trials()
    assert (trials["status"] == "judged").all()
    keys = ["latent", "question", "level", "seed", "strength"]
    arms = {condition: mine[keys].to_numpy().tolist() for condition, mine in trials.groupby("condition")}
    assert len(arms) == 6 + TINY.n_sets + TINY.n_directions
    drawn = {arm.condition for arm in study.arms if arm.number is not None}
    for condition, arm in arms.items():
        assert arm == (arms[f"{SETS} 0"] if condition in drawn else arms[NONE])
    assert len(arms[NONE]) == TINY.n_latents * TINY.n_questions
    assert len(arms[f"{SETS} 0"]) == TINY.n_latents * TINY.n_set_questions
    assert all(trial in arms[NONE] for trial in arms[f"{SETS} 0"])
    conditions = trials["condition"].tolist()
    assert conditions[: len(arms)] == [arm.condition for arm in study.arms]
    assert conditions[len(arms) : len(arms) + 6] == [arm.condition for arm in study.arms[:6]]


def test_with_nothing_ablated_the_trials_of_detection_come_out_again(measured):
    study = measured[0]
    again = study.trials()[lambda trials: trials["condition"] == NONE].set_index(["latent", "question"])["response"]
    before = study.source.trials()[lambda trials: trials["level"] == 1.0].set_index(["latent", "question"])["response"]
    pd.testing.assert_series_equal(again, before.loc[again.index])


def test_arms_differ_in_what_is_ablated_alone(measured):
    study = measured[0]
    plans = [plan for plan in study.plan() if plan.question == study.plan()[0].question]
    rows = {plan.condition: study.row(plan, study.sampling) for plan in plans if plan.latent == plans[0].latent}
    plain = rows[NONE]
    assert plain.ablate == ()
    for row in rows.values():
        assert (row.messages, row.seed, row.sampling) == (plain.messages, plain.seed, plain.sampling)
        assert [(s.latent, s.strength) for s in row.steer] == [(s.latent, s.strength) for s in plain.steer]
    edits = {name: rows[name].ablate[0] for name in rows if name != NONE}
    assert edits["detectors"].latents == edits["detectors by half"].latents == edits[f"{DIRECTIONS} 0"].latents
    assert (edits["detectors by half"].share, edits["detectors before steering"].order) == (0.5, "before_steering")


def test_no_set_holds_a_steered_latent_or_one_of_the_chosen(measured):
    study = measured[0]
    steered = set(study._strengths())
    kept = {latent for chosen in study.groups().values() for latent in chosen}
    assert not steered & kept
    for mine in study.sets():
        assert len(mine) == len(study.groups()[DETECTORS])
        assert not set(mine) & {*steered, *CHOSEN[DETECTORS], *CHOSEN[BACKTRACKING]}


def test_steered_latents_leave_the_sets_and_an_empty_set_is_told(measured):
    steered = list(measured[0]._strengths())
    one, other = [latent for latent in range(4) if latent not in steered][:2]
    some = an_ablation({DETECTORS: [*steered, one], BACKTRACKING: [other]})
    assert some.groups() == {DETECTORS: [one], BACKTRACKING: [other]}
    with pytest.raises(ValueError, match="no latent is left in backtracking: nothing to ablate"):
        an_ablation({DETECTORS: [one], BACKTRACKING: steered}).groups()


def test_a_latent_both_steered_and_ablated_is_refused(measured):
    plan = measured[0].plan()[0]
    with pytest.raises(ValueError, match=rf"latent {plan.latent} is both steered and ablated \(mine\)"):
        replay(plan, Arm(name="mine", latents=(3, plan.latent)), Sampling())


def test_random_directions_have_the_norms_of_the_detectors_and_nothing_else_turns(measured):
    study, workshop = measured
    W_dec, latents = workshop.engine.pair.sae.W_dec, study.groups()[DETECTORS]
    first, second = (study._directions(Arm(name=DIRECTIONS, latents=tuple(latents), number=i)) for i in (0, 1))
    torch.testing.assert_close(first.norm(dim=1), W_dec.norm(dim=1))
    others = [latent for latent in range(len(W_dec)) if latent not in latents]
    assert torch.equal(first[others], W_dec[others])
    cosines = torch.nn.functional.cosine_similarity(first[latents], W_dec[latents])
    assert cosines.abs().max() < 0.8
    assert not torch.allclose(first[latents], second[latents])


def test_damage_of_no_ablation_is_none_and_half_an_ablation_removes_half(measured):
    study = measured[0]
    table = ablation_tables.side_effects(study).set_index("condition")
    assert table.loc[NONE, "perplexity_ratio"] == 1.0
    assert table.loc[DETECTORS, "perplexity_ratio"] != 1.0
    whole, half = (
        table.loc[name, ["removed_norm", "steering_removed"]].astype(float) for name in (DETECTORS, "detectors by half")
    )
    np.testing.assert_allclose(half, whole / 2, rtol=1e-5)
    assert whole["removed_norm"] > 0


def test_the_share_of_steering_removed_is_one_where_the_ablation_undoes_it(measured):
    study, workshop = measured
    sae, plan = workshop.engine.pair.sae, study.plan()[0]
    acts = torch.zeros(4, sae.d_sae)
    acts[:, plan.latent] = plan.strength
    arm = Arm(name="its own", latents=(plan.latent,))
    taken = study._taken(arm, [(plan, acts)])
    assert taken["steering_removed"] == pytest.approx(1.0, abs=1e-5)
    assert taken["removed_norm"] == pytest.approx(plan.strength * float(sae.W_dec[plan.latent].norm()), rel=1e-5)


def test_held_out_questions_are_asked_in_three_arms_and_kept_apart(measured):
    study = measured[0]
    held_out = study.trials(HELD_OUT)
    assert set(held_out["condition"]) == {NONE, DETECTORS, BACKTRACKING}
    assert set(held_out["question"]) <= set(QUESTIONS[HELD_OUT])
    assert not set(held_out["trial_id"]) & set(study.trials()["trial_id"])


def test_an_engine_that_scores_no_text_is_refused_before_any_trial(tmp_path, monkeypatch):
    workshop = patched(tmp_path, monkeypatch)
    Detection(READER, "quick", SCALE).measure()
    study = an_ablation()
    silent = replace(workshop.engine.capabilities(), scores_text=False)
    monkeypatch.setattr(workshop.engine, "capabilities", lambda: silent)
    with pytest.raises(ValueError, match="the engine hf does not say how likely a text is, .*; run ablations on hf"):
        study.measure()
    assert not study.run.trials()


def test_a_finished_study_asks_for_no_model_and_other_latents_are_another_study(measured):
    study, workshop = measured
    n_loaded = len(workshop.loaded)
    pd.testing.assert_frame_equal(an_ablation().measure().trials(), study.trials())
    assert len(workshop.loaded) == n_loaded
    with pytest.raises(ValueError, match="latents_sha256"):
        _ = an_ablation({**CHOSEN, DETECTORS: [3, 8]}).run
    with pytest.raises(ValueError, match="n_sets: 3 there, 2 now"):
        _ = an_ablation(n_sets=2).run


def test_every_scale_has_settings():
    assert set(ABLATION) == set(SCALE_NAMES)


# tables


def a_trial(name: str, number: int | None, latent: int, *scores: float) -> dict:
    condition = name if number is None else f"{name} {number}"
    known = {"subject": "s", "question": f"q{latent % 3}", "latent": latent, "repeat": 0, "status": "judged"}
    return known | {"name": name, "condition": condition, **score_measures(scores, recovery=1.0)}


@pytest.fixture
def trials() -> pd.DataFrame:
    """Twelve trials an arm: six restart untouched, two with the detectors ablated, six, five and one in the sets."""
    n_multi = {(NONE, None): 6, (DETECTORS, None): 2, (SETS, 0): 6, (SETS, 1): 5, (SETS, 2): 1, (DIRECTIONS, 0): 6}
    lines = [
        a_trial(name, number, latent, 20.0 + latent, *[80.0] * (latent < n))
        for (name, number), n in n_multi.items()
        for latent in range(12)
    ]
    return pd.DataFrame(lines)


def test_the_place_among_sets_counts_the_arm_itself(trials):
    place = ablation_tables.place_among_sets(trials).set_index(["condition", "quantity"])
    line = place.loc[(DETECTORS, "multi_attempt")]
    assert line["difference"] == pytest.approx(-4 / 12)
    assert (line["sets_least"], line["sets_most"]) == pytest.approx((-5 / 12, 0.0))
    assert line["p"] == pytest.approx(2 / 4)  # one set of three changes it as much


def test_trials_that_some_arm_lacks_play_no_part_among_the_sets(trials):
    more = pd.DataFrame([a_trial(name, None, latent, 5.0) for name in (NONE, DETECTORS) for latent in range(20, 30)])
    both = pd.concat([trials, more], ignore_index=True)
    pd.testing.assert_frame_equal(ablation_tables.place_among_sets(both), ablation_tables.place_among_sets(trials))
    pd.testing.assert_frame_equal(ablation_tables.less_sets(both), ablation_tables.less_sets(trials))
    assert ablation_tables.contrasts(both)["n_pairs"].max() == 22


def test_detectors_less_the_sets_is_the_difference_of_their_means(trials):
    line = ablation_tables.less_sets(trials).set_index("quantity").loc["multi_attempt"]
    assert line[DETECTORS] == pytest.approx(2 / 12)
    assert line[SETS] == pytest.approx(12 / 36)
    assert line["difference"] == pytest.approx(2 / 12 - 12 / 36)
    assert line["ci_low"] < line["difference"] < line["ci_high"]


def test_trials_that_begin_on_topic_are_left_out(trials):
    moved = trials.assign(first_score=trials["first_score"].mask(trials["latent"] == 0, 90.0))
    moved["gain"] = moved["last_score"] - moved["first_score"]
    line = ablation_tables.begun_off_topic(moved, [DETECTORS]).iloc[0]
    assert (line["n_pairs"], line["rate_first"]) == (11, pytest.approx(5 / 11))


def test_what_could_be_seen_needs_more_trials_than_twelve(trials):
    contrasts = ablation_tables.contrasts(trials)
    line = contrasts[(contrasts["condition"] == DETECTORS) & (contrasts["quantity"] == "multi_attempt")].iloc[0]
    seen = ablation_tables.what_could_be_seen(trials, line).iloc[0]
    assert (seen["n_pairs"], seen["base_rate"]) == (12, 0.5)
    assert 0 < seen["pair_correlation"] < 1
    assert seen["n_for_a_quarter"] > 12


def test_the_papers_numbers_stand_beside_ours(trials):
    contrasts = ablation_tables.contrasts(trials)
    table = ablation_tables.beside_paper(contrasts, ablation_tables.place_among_sets(trials)).set_index("quantity")
    assert table.loc["multi_attempt", "paper, Llama-3.3-70B"] == "7.4 to 5.5"
    assert table.loc["multi_attempt", "ours"] == "50.0 to 16.7"


def test_figures_show_every_arm(trials):
    by_arm = ablation_tables.by_arm(trials)
    figure = figures.arms(by_arm)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [NONE, DETECTORS, SETS, DIRECTIONS]
    dots = figures.contrasts(ablation_tables.contrasts(trials)).axes[1].lines
    assert any(len(line.get_xdata()) == 3 for line in dots)
