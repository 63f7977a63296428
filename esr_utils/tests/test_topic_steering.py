"""Directions of topics in place of latents: made once, calibrated and measured as latents are."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from esr_utils import topic_steering
from esr_utils.catalogue import CATALOGUE
from esr_utils.config import SCALE_NAMES
from esr_utils.corpus import corpus_prompts
from esr_utils.directions import topic_directions
from esr_utils.engines.hf import HFEngine
from esr_utils.metrics import LOST, flow
from esr_utils.prompts import load_prompts
from esr_utils.scales import TOPIC_STEERING, TopicSteeringScale
from esr_utils.study import JUDGE, READER, SECOND_JUDGE
from esr_utils.tests.test_detection import ASKED, Workshop
from esr_utils.topic_steering import TopicSteering, unrelated_topics

TINY = replace(
    TOPIC_STEERING["quick"],
    n_topics=3,
    n_steps=2,
    n_verify=2,
    max_new_tokens=6,
)


def patched(folder, patch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(folder).patch(patch)
    patch.setattr(topic_steering, "load_engine", workshop.load)
    patch.setattr(topic_steering, "load_prompts", ASKED.__getitem__)
    return workshop


@pytest.fixture
def workshop(tmp_path, monkeypatch) -> Workshop:
    return patched(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory) -> tuple[TopicSteering, Workshop]:
    """A run measured once, and what was used for it. Read only."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    workshop = patched(tmp_path_factory.mktemp("topics"), patch)
    return steering().measure(), workshop


def steering(subject: str = READER, **changes: object) -> TopicSteering:
    return TopicSteering(subject, "quick", replace(TINY, **changes))


def test_every_trial_is_made_and_judged_with_and_without_steering(measured):
    trials = measured[0].trials()
    (line,) = flow(trials, []).to_dict("records")
    assert {way: line[way] for way in LOST} == dict.fromkeys(LOST, 0)
    assert line["judged"] == TINY.n_topics * TINY.n_questions * 2
    assert set(trials["level"]) == {0.0, 1.0}
    assert set(trials["latent"]) == set(range(TINY.n_topics))


def test_directions_are_those_of_the_topics_in_order_at_the_steering_layer(measured):
    run, workshop = measured
    pair = workshop.engine.pair
    expected = topic_directions(HFEngine(pair), run.latents()["label"].tolist(), layer=pair.steering_layer)
    torch.testing.assert_close(run.directions(), expected)


def test_a_trial_is_steered_along_its_topic_by_its_strength(measured):
    run, _ = measured
    for plan in [plan for plan in run.plan() if plan.level == 1.0]:
        direction = run.engine.pair.sae.direction(plan.latent)
        own = run.directions()[plan.latent]
        torch.testing.assert_close(direction, own / own.norm())
        assert plan.strength == run.calibration().loc[plan.latent, "strength"]


def test_the_calibration_is_told_with_topic_norm_and_multiplier(measured):
    run, _ = measured
    table = run.calibrated()
    assert table["label"].tolist() == run.latents()["label"].tolist()
    np.testing.assert_allclose(table["norm"], run.directions().norm(dim=1).numpy())
    np.testing.assert_allclose(table["multiplier"] * table["norm"], run.calibration()["strength"])


def test_topics_are_drawn_by_seed_and_fewer_are_the_first_of_more(workshop):
    topics = steering(n_topics=8).latents()["label"].tolist()
    assert steering(n_topics=3).latents()["label"].tolist() == topics[:3]
    assert steering(n_topics=8, seed=1).latents()["label"].tolist() != topics
    assert len(set(topics)) == 8


def test_a_fine_tuned_subject_gets_the_topics_of_its_base(workshop):
    tuned = next(entry.name for entry in CATALOGUE.values() if entry.base == READER)
    pd.testing.assert_frame_equal(steering(tuned).latents(), steering().latents())


def test_a_topic_that_shares_a_word_with_a_question_is_left_out():
    all_topics = {prompt.topic: prompt.group for prompt in corpus_prompts()}
    dropped = dropped_by(["How do you bake a loaf of bread in Kenya?"], all_topics)
    assert dropped == {"bread", "baking sourdough bread", "breakfast", "opening a bakery", "Kenya"}
    assert dropped_by(["How to? On the Moon."], all_topics) == {"the moon", "the moon landing"}
    kept = unrelated_topics(["Who?"])
    assert dict(zip(kept["label"], kept["group"], strict=True)) == all_topics


def dropped_by(questions: Sequence[str], topics: dict[str, str]) -> set[str]:
    return set(topics) - set(unrelated_topics(questions)["label"])


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_every_scale_finds_its_topics_and_questions(scale):
    run = TopicSteering(READER, scale, TOPIC_STEERING[scale])
    assert len(run.latents()) == run.scale.n_topics
    assert run.scale.n_questions <= len(load_prompts("evaluation"))


def test_more_topics_than_there_are_is_refused(workshop):
    with pytest.raises(ValueError, match=r"1000 topics asked for, and no question is about \d+ of them; ask for fewer"):
        steering(n_topics=1000).latents()


def test_measuring_again_loads_nothing_and_changes_nothing(measured, monkeypatch):
    before = {path: path.read_bytes() for path in measured[0].run.folder.iterdir()}
    monkeypatch.setattr(topic_steering, "load_engine", None)
    again = steering().measure()
    again.calibrated()
    assert {path: path.read_bytes() for path in again.run.folder.iterdir()} == before


def test_a_killed_run_goes_on_and_makes_nothing_twice(measured, tmp_path, monkeypatch):
    patched(tmp_path, monkeypatch)
    run, asked = steering(), []
    run.calibration()
    generate = run.engine.generate

    def killed(rows, **rest):
        generate(rows[:5], **rest)
        raise KeyboardInterrupt

    def counted(rows, **rest):
        asked.extend(rows)
        return generate(rows, **rest)

    run.engine.generate = killed
    with pytest.raises(KeyboardInterrupt):
        run.measure()
    again = steering()
    monkeypatch.setattr(topic_steering, "topic_directions", lambda *a, **k: pytest.fail("directions are made again"))
    again.engine.generate = counted
    trials = again.measure().trials()
    assert len(asked) == len(run.plan()) - 5
    pd.testing.assert_frame_equal(trials, measured[0].trials())


@pytest.mark.parametrize("name", [field.name for field in fields(TopicSteeringScale)])
def test_a_folder_made_at_another_scale_is_refused_by_the_field_that_differs(measured, name):
    value = getattr(TINY, name)
    changed = (*value, 1.75) if isinstance(value, tuple) else value + type(value)(1)
    with pytest.raises(ValueError, match=rf"was made with other settings \((.*; )?{name}: .* there, .* now"):
        _ = steering(**{name: changed}).run


def test_another_layer_other_questions_and_another_wording_are_refused(measured, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(CATALOGUE, READER, replace(CATALOGUE[READER], steering_layer=3))
        with pytest.raises(ValueError, match=r"other settings \(layer: 18 there, 3 now"):
            _ = steering().run
    for name, value in (("ASKED", "Tell: {topic}"), ("load_prompts", lambda split: ASKED[split][::-1])):
        with monkeypatch.context() as patch:
            patch.setattr(topic_steering, name, value)
            with pytest.raises(ValueError, match=r"other settings \(texts_sha256: "):
                _ = steering().run


def test_placebo_and_second_judge_work_as_for_latents(workshop):
    run = steering().measure().check_methods()
    assert set(run.placebo_parts()["index"]) == {0, 1}
    assert len(run.run.judgements(SECOND_JUDGE)) == TINY.n_compared
    assert run.calibration(n_samples=1).index.tolist() == list(range(TINY.n_topics))


def test_the_judges_see_questions_alone(measured):
    assert {case.question for case in measured[1].judges[JUDGE].seen} <= {q for part in ASKED.values() for q in part}
