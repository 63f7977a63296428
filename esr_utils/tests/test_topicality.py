"""Laws of the topicality score: on a scripted likelihood, and on real answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from esr_utils.engines.hf import HFEngine
from esr_utils.prompts import load_prompts
from esr_utils.steering import Row, Sampling
from esr_utils.tests.conftest import byte_tokenizer
from esr_utils.topicality import Topicality, on_topic_information


class Scripted(HFEngine):
    """Stands in for an engine: each token costs 1 nat given a question about the same letter, else 3."""

    def __init__(self):
        tokenizer = byte_tokenizer()
        self.pair = SimpleNamespace(tokenizer=tokenizer, text_ids=lambda text: tuple(tokenizer(text)["input_ids"]))
        self.rows: list = []

    def log_likelihoods(self, rows, *, stretch_tokens):
        self.rows += rows
        text = self.pair.tokenizer.decode
        return [
            np.array([-1.0 if text([t]) == row.messages[0] else -3.0 for t in row.prefill], np.float32) for row in rows
        ]

    def generate(self, rows, **callbacks):
        return [SimpleNamespace(text=row.messages[0] * 40) for row in rows]


DISTRACTORS = ["v?", "w?", "x?", "y?", "z?"]


def scorer(on_topic: float = 2.0) -> Topicality:
    return Topicality(engine=Scripted(), distractors=DISTRACTORS, on_topic=on_topic)


def test_a_response_on_topic_scores_100_and_one_on_something_else_0():
    score = scorer()
    assert score(["a?", "a?"], ["a" * 50, "b" * 50]) == pytest.approx([100.0, 0.0], abs=1e-6)


def test_a_response_that_drifts_half_way_scores_half():
    score = scorer()
    assert score(["a?"], ["a" * 32 + "b" * 32])[0] == pytest.approx(50.0)


def test_an_empty_response_scores_0():
    assert scorer()(["a?"], [""]).tolist() == [0.0]


@pytest.mark.parametrize("n", [1, 33, 100])
def test_a_curve_has_one_value_a_token(n):
    (curve,) = scorer().curves(["a?"], ["a" * n])
    assert len(curve) == n


def test_a_question_does_not_compete_with_itself():
    score = scorer()
    score(["w?"], ["w" * 8])
    assert [row.messages for row in score.engine.rows] == ["w?", "v?", "x?", "y?", "z?"]


def test_what_unsteered_answers_say_is_what_scores_100():
    assert on_topic_information(scorer(1.0), ["a?", "b?", "c?"], Sampling()) == pytest.approx(2.0)


def test_a_model_that_does_not_answer_its_questions_gives_no_scale():
    score = scorer(1.0)
    score.engine.generate = lambda rows: [SimpleNamespace(text="q" * 40) for _ in rows]
    with pytest.raises(ValueError, match="no likelier given their own questions"):
        on_topic_information(score, ["a?", "b?"], Sampling())


def test_real_answers_are_about_their_own_question(embedded_pair):
    engine = HFEngine(embedded_pair)
    questions = load_prompts("evaluation")[:6]
    score = Topicality(engine=engine, distractors=load_prompts("calibration"))
    sampling = Sampling(max_new_tokens=40)
    score = replace(score, on_topic=on_topic_information(score, questions, sampling))
    rows = [Row(messages=question, seed=i, sampling=sampling) for i, question in enumerate(questions)]
    answers = [response.text for response in engine.generate(rows)]
    assert score(questions, answers).min() > 30
    assert score([*questions[1:], questions[0]], answers).max() < 30
