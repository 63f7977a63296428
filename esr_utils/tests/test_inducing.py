"""A fine-tuning sweep is measured once, arm by arm, on the latents and strengths of the detection run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import detection, inducing, study
from esr_utils.engines.hf import HFEngine
from esr_utils.inducing import BASE, Arm, FineTuning, far_from, level_at_target
from esr_utils.prompts import load_prompts
from esr_utils.scales import FINE_TUNING
from esr_utils.tests.conftest import tiny_sae
from esr_utils.tests.test_detection import ASKED, SCALE, Workshop

TINY = replace(
    FINE_TUNING["quick"],
    shares=(0.0, 0.5),
    n_seeds=1,
    n_examples=4,
    n_answers=2,
    control_share=0.5,
    n_drift_latents=4,
    n_drifts=4,
    drift_strengths=(3.0, 5.0),
    drift_words=(1, 4),
    rank=2,
    n_passes=1,
    batch_size=2,
    n_latents=2,
    n_questions=2,
    probed=(1.0, 2.0),
    max_new_tokens=6,
)
QUESTIONS = ASKED | {"fine_tuning": [f"Training question {i}?" for i in range(4)]}


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(detection, "load_prompts", lambda split, stimuli: QUESTIONS[split])
    patch.setattr(inducing, "load_prompts", QUESTIONS.__getitem__)
    patch.setattr(inducing, "DETECTION", {"quick": SCALE})
    patch.setattr(inducing, "ROOT", folder)
    patch.setattr(inducing, "NEAR", 0.6)  # the latents of the tiny model are many in few dimensions
    patch.setattr(inducing, "HFEngine", lambda pair: type(workshop.engine)(pair))
    patch.setattr(HFEngine, "log_likelihoods", None)
    return workshop


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> FineTuning:
    """A sweep measured once. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    patched(tmp_path_factory.mktemp("inducing"), patch)
    return FineTuning("smollm2-135m", "quick", TINY).measure()


def test_the_arms_are_the_shares_and_the_controls():
    names = [arm.name for arm in FineTuning("m", "quick", TINY).arms()]
    assert names == ["normal-seed0", "steered-50%-seed0", "pasted-50%-seed0", "shuffled-50%-seed0"]


def test_every_arm_is_measured_unsteered_and_at_both_strengths(measured):
    trials = measured.trials()
    assert (trials["status"] == "judged").all()
    counts = trials.groupby(["subject", "condition"]).size().unstack(fill_value=0)
    assert counts.loc[BASE].to_dict() == {"baseline": 4, "fixed": 4, "recalibrated": 0}
    for arm in measured.arms():
        assert counts.loc[arm.name].to_dict() == {"baseline": 4, "fixed": 4, "recalibrated": 4}


def test_the_recalibrated_level_is_one_for_all_latents_and_within_what_was_probed(measured):
    levels = measured.trials().query("condition == 'recalibrated'").groupby("subject")["level"].unique()
    for name, (level,) in levels.items():
        assert level == measured.recalibrated_level(name)
        assert TINY.probed[0] <= level <= TINY.probed[-1]


def test_probes_ask_calibration_questions_and_are_counted_nowhere(measured):
    probes = measured.probe_plan("normal-seed0")
    assert {plan.question for plan in probes} <= set(QUESTIONS["calibration"])
    assert not {plan.id for plan in probes} & set(measured.trials()["trial_id"])


def test_arms_share_latents_questions_seeds_and_the_fixed_strengths(measured):
    fixed = measured.trials().query("condition == 'fixed'")
    what = fixed.groupby("subject")[["latent", "question", "seed", "strength"]].apply(
        lambda part: part.to_numpy().tolist()
    )
    assert all(trials == what.iloc[0] for trials in what)
    strengths = measured.detection.calibration()["strength"]
    assert dict(zip(fixed["latent"], fixed["strength"], strict=True)) == strengths.round(4).to_dict()


def test_lines_tell_how_their_arm_was_trained(measured):
    told = measured.trials().groupby("subject")[["share", "source", "training_seed"]].first()
    assert told.loc["shuffled-50%-seed0"].tolist() == [0.5, "shuffled", 0]
    assert told.loc["normal-seed0", "share"] == 0
    assert pd.isna(told.loc[BASE, "share"])


def test_examples_of_an_arm_have_its_share_and_source(measured):
    kinds = [example.kind for example in measured.examples(Arm(share=0.5, source="pasted"))]
    assert sorted(kinds) == ["normal", "normal", "pasted", "pasted"]
    assert {example.kind for example in measured.examples(Arm(share=0.0))} == {"normal"}


def test_nothing_of_an_evaluation_is_trained_on(measured):
    evaluated = set(measured.detection.latents().index)
    directions = measured.engine.pair.sae.W_dec
    for arm in measured.arms():
        examples = measured.examples(arm)
        used = sorted({example.latent for example in examples} - {None})
        cosines = torch.nn.functional.cosine_similarity(
            directions[used][:, None], directions[sorted(evaluated)], dim=-1
        )
        assert (cosines < inducing.NEAR).all()
        assert {example.question for example in examples} <= set(QUESTIONS["fine_tuning"])
        assert not evaluated & {example.latent for example in examples}


def test_measuring_again_changes_nothing_and_loads_nothing(measured, monkeypatch):
    before = {path: path.read_bytes() for path in measured.run.folder.iterdir()}
    monkeypatch.setattr(study, "load_engine", None)
    again = FineTuning("smollm2-135m", "quick", TINY).measure()
    assert {path: path.read_bytes() for path in again.run.folder.iterdir()} == before


def test_an_arm_that_is_not_probed_has_no_level_yet(tmp_path, monkeypatch):
    patched(tmp_path, monkeypatch)
    assert pd.isna(FineTuning("smollm2-135m", "quick", TINY).recalibrated_level("normal-seed0"))


def test_latents_near_an_evaluated_one_are_left_out():
    sae = tiny_sae("standard")
    direction = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    cosine = direction[1:] @ direction[0]
    kept = far_from(sae, list(range(1, 64)), [0], near=0.2)
    assert kept == (torch.nonzero(cosine < 0.2)[:, 0] + 1).tolist()
    assert 0 < len(kept) < 63


def test_a_sweep_killed_within_an_arm_goes_on_to_the_same_trials(measured, tmp_path, monkeypatch):
    workshop = patched(tmp_path, monkeypatch)
    generate, n = type(workshop.engine).generate, 0

    def stopping(self, rows, *, on_response=None, **rest):
        def kept(i, response):
            nonlocal n
            n += 1
            if n > 30:
                raise KeyboardInterrupt
            on_response(i, response)

        return generate(self, rows, on_response=kept if on_response else None, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(workshop.engine), "generate", stopping)
        with pytest.raises(KeyboardInterrupt):
            FineTuning("smollm2-135m", "quick", TINY).measure()
    stopped = FineTuning("smollm2-135m", "quick", TINY)
    assert 0 < len(stopped.run.trials()) < len(measured.run.trials())
    again = stopped.measure().trials()
    columns = ["subject", "condition", "latent", "question", "level", "response", "first_score"]
    pd.testing.assert_frame_equal(again[columns], measured.trials()[columns])


def test_an_adapter_that_was_trained_again_is_not_mixed_with_the_first(measured):
    arm = measured.arms()[0]
    with pytest.raises(ValueError, match=f"the adapter of {arm.name} is not the one whose trials this run holds"):
        measured._bind(arm.name, "another")


@pytest.mark.parametrize("name", FINE_TUNING)
def test_every_scale_makes_answers_and_steered_starts_enough_for_its_mixes(name):
    scale = FINE_TUNING[name]
    n_answers = scale.n_answers * len(load_prompts("fine_tuning"))
    assert n_answers >= scale.n_examples * (1 - min(scale.shares))
    n_starts = scale.n_drift_latents * scale.n_drifts
    assert 0.6 * n_starts >= scale.n_examples * max(scale.shares)  # of the starts drawn so far 70% had derailed


@pytest.mark.parametrize(
    ("scores", "level"),
    [
        ([60.0, 40.0, 20.0], 1.5),  # between the second and the third
        ([40.0, 60.0, 20.0], 1.667),  # the first two are pooled to 50
        ([20.0, 10.0, 5.0], 0.5),  # passed from the start
        ([90.0, 80.0, 70.0], 2.0),  # not reached
        ([60.0, np.nan, 20.0], 1.625),  # no score at the second level
    ],
)
def test_level_at_target_is_where_the_falling_mean_crosses(scores, level):
    levels = pd.Series([0.5, 1.0, 2.0])
    assert level_at_target(levels, pd.Series(scores), target=30.0) == level


def test_a_subject_whose_weights_are_on_a_server_is_not_trained(tmp_path, monkeypatch):
    workshop = patched(tmp_path, monkeypatch)
    away = replace(workshop.engine.capabilities(), has_weights=False)
    monkeypatch.setattr(workshop.engine, "capabilities", lambda: away)
    sweep = FineTuning("smollm2-135m", "quick", TINY)
    monkeypatch.setattr(FineTuning, "_strengths", lambda self: {1: 4.0})
    with pytest.raises(ValueError, match=r"runs on a server \(hf\), and trainings need its weights here; unset ESR_S"):
        sweep.measure()
