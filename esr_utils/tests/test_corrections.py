"""Training examples are what they say: questions, drifts, restarts and shares; nothing of an evaluation in them."""

import re

import numpy as np
import pandas as pd
import pytest

from esr_utils.corrections import (
    load_restarts,
    make_corrections,
    mix,
    normal_examples,
    pasted_drifts,
    shortened,
    steered_starts,
    unsteered_answers,
)
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import Sampling

SHORT = Sampling(max_new_tokens=12)
QUESTIONS = ["How do you boil rice?", "How do you mend a sock?", "How do you fold a shirt?"]


@pytest.fixture(scope="module")
def engine(tiny_llama) -> HFEngine:
    return HFEngine(tiny_llama)


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    lines = [(q, f"Answer {i} to {q} One. Two. Three.", i > 0) for q in QUESTIONS for i in range(4)]
    return pd.DataFrame(lines, columns=["question", "response", "ends"])


@pytest.fixture(scope="module")
def drifts() -> pd.DataFrame:
    lines = [(QUESTIONS[i % 3], i, 60.0 + i, f"Ships of kind {i} sail.") for i in range(40)]
    return pd.DataFrame(lines, columns=["question", "latent", "strength", "drift"])


def test_there_are_at_least_sixty_restarts_and_no_two_alike():
    restarts = load_restarts()
    plain = {" ".join(re.findall(r"[a-z']+", line.lower())) for line in restarts}
    assert len(plain) == len(restarts) >= 60
    assert all(restarts)


def test_answers_are_the_models_own_and_told_apart_by_seed(engine):
    answers = unsteered_answers(engine, QUESTIONS, n_per_question=3, sampling=SHORT)
    assert answers["question"].value_counts().to_dict() == dict.fromkeys(QUESTIONS, 3)
    assert answers.groupby("question")["response"].nunique().min() > 1
    again = unsteered_answers(engine, QUESTIONS, n_per_question=3, sampling=SHORT)
    pd.testing.assert_frame_equal(answers, again)


def test_only_off_topic_beginnings_are_derailed(engine):
    def score(questions, texts):
        return np.array([10.0 if "boil" in question else 90.0 for question in questions])

    settings = {"n_per_latent": 20, "n_words": (1, 4), "sampling": SHORT}
    found = steered_starts(engine, score, QUESTIONS, {3: 2.0, 5: 4.0}, **settings)
    assert len(found) == 40
    assert set(found.loc[found["is_derailed"], "question"]) == {"How do you boil rice?"}
    assert set(zip(found["latent"], found["strength"], strict=True)) == {(3, 2.0), (5, 4.0)}
    assert found.loc[found["is_derailed"], "drift"].str.strip().ne("").all()


def test_a_pasted_drift_begins_the_answer_to_another_question(answers):
    found = pasted_drifts(answers, n=30, n_words=(1, 6))
    assert len(found) == 30
    assert all(question not in drift for question, drift in found.itertuples(index=False))
    assert all(any(text.startswith(drift) for text in answers["response"]) for drift in found["drift"])


def test_a_correction_is_drift_restart_and_an_answer_to_the_question(drifts, answers):
    for example in make_corrections(drifts, answers, ["No, again:"], silent_share=0.0):
        assert example.kind == "steered"
        assert example.drift.startswith("Ships")
        assert re.fullmatch(rf"(\n\n| )No, again: Answer \d to {re.escape(example.question)} .*", example.taught)


def test_the_share_of_silent_corrections(drifts, answers):
    said = [e.taught.strip().startswith("No") for e in make_corrections(drifts, answers, ["No."], silent_share=0.5)]
    assert 10 < sum(said) < 30
    assert not any("No." in e.taught for e in make_corrections(drifts, answers, ["No."], silent_share=1.0))


def test_a_shuffled_correction_answers_another_question(drifts, answers):
    shuffled = make_corrections(drifts, answers, ["No."], is_shuffled=True)
    assert all(f"to {example.question}" not in example.taught for example in shuffled)


def test_an_answer_that_was_cut_off_teaches_no_end(drifts, answers):
    assert all(e.ends == ("Answer 0" not in e.taught) for e in make_corrections(drifts, answers, ["No."]))
    assert [e.ends for e in normal_examples(answers)] == answers["ends"].tolist()


def test_steering_stays_with_a_real_drift_and_not_with_a_pasted_one(drifts, answers):
    real = make_corrections(drifts, answers, ["No."])
    assert [(e.latent, e.strength) for e in real] == [(i, 60.0 + i) for i in range(40)]
    pasted = make_corrections(pasted_drifts(answers, n=5, n_words=(1, 6)), answers, ["No."])
    assert {(e.kind, e.latent, e.strength) for e in pasted} == {("pasted", None, 0.0)}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_mix_has_its_share_of_corrections(drifts, answers, share):
    corrections = make_corrections(drifts, answers, ["No."])
    mixed = mix(corrections, normal_examples(answers) * 4, share=share, n=30)
    assert sum(example.kind == "steered" for example in mixed) == round(30 * share)
    assert len(mixed) == 30


def test_a_mix_depends_on_its_seed_alone(drifts, answers):
    pools = make_corrections(drifts, answers, ["No."]), normal_examples(answers)
    assert mix(*pools, share=0.5, n=20, seed=1) == mix(*pools, share=0.5, n=20, seed=1)
    assert mix(*pools, share=0.5, n=20, seed=1) != mix(*pools, share=0.5, n=20, seed=2)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="outside 0"):
        mix([], [], share=share, n=4)


def test_a_share_so_small_that_no_correction_is_left_is_refused():
    with pytest.raises(ValueError, match="a mix of 4 at share 0.1 holds no correction; raise"):
        mix([], [], share=0.1, n=4)


def test_a_mix_without_corrections_to_draw_from_is_refused(answers):
    with pytest.raises(ValueError, match="needs 6 corrections, and there are 0"):
        mix([], normal_examples(answers), share=0.5, n=12)


def test_an_answer_that_is_shortened_does_not_teach_the_end_of_a_turn():
    answers = pd.DataFrame({"response": ["One two three.", "a b. " * 30, "One two."], "ends": [True, True, False]})
    short = shortened(answers, 4)
    assert short["response"].tolist() == ["One two three.", "a b. a b. a b.", "One two."]
    assert short["ends"].tolist() == [True, False, False]
