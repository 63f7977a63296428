"""The steering panel without a front end."""

import numpy as np
import pytest

from esr_utils.engines.base import Response
from esr_utils.engines.hf import HFEngine
from esr_utils.tests.test_latents import LABELS
from esr_utils.widgets import SteeringPanel


class Echo(HFEngine):
    """Stands in for an engine: a response repeats its question and names the strength."""

    def __init__(self):
        self.pair = None

    def generate(self, rows, **callbacks):
        if not rows[0].messages:
            raise ValueError("the prompt is empty; ask the model something")
        return [
            Response(
                prompt_ids=(1,),
                token_ids=(2, 3),
                n_prefill=0,
                text=f"{row.messages} <{row.steer[0].strength}>",
                stop_reason="stop",
                activations={row.steer[0].latent: np.array([1.0, np.nan])},
            )
            for row in rows
        ]


@pytest.fixture
def panel() -> SteeringPanel:
    return SteeringPanel(Echo(), lambda q, r: np.full(len(r), 50.0), LABELS, max_strength=100.0)


def test_the_list_follows_the_search(panel):
    panel.search.value = "oven"
    assert [latent for _, latent in panel.latent.options] == [5]


def test_answers_come_unsteered_and_steered(panel):
    panel.latent.value = 9
    panel.strength.value = 40
    assert panel.run()[["latent", "strength"]].values.tolist() == [[9, 0.0], [9, 40.0]]


def test_a_click_shows_both_answers_escaped(panel):
    panel.button.click()
    assert "unsteered" in panel.output.value
    assert "&lt;0.0&gt;" in panel.output.value
    assert not panel.button.disabled


def test_a_bad_question_reaches_the_page_as_a_sentence(panel):
    panel.question.value = ""
    panel.button.click()
    assert "the prompt is empty; ask the model something" in panel.output.value
    assert not panel.button.disabled


def test_a_search_without_hits_asks_for_another(panel):
    panel.search.value = "zzz"
    panel.button.click()
    assert "no latent matches" in panel.output.value
