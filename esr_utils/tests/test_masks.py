"""What each token sees: the laws of the attention masks, and the readings that rest on them."""

import numpy as np
import torch

from esr_utils.engines import masks
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import Row, Sampling

READ_ONLY = Sampling(max_new_tokens=0)
QUESTION, ANSWER = "why is the sky blue?", tuple(range(70, 140))


def test_a_stretch_sees_the_prompt_and_itself():
    visible = masks.windowed(torch.tensor([[0, 0, 1, 1, 2]]))[0]
    assert visible.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_every_stretch_stands_right_after_the_prompt():
    assert masks.stretch_positions(torch.tensor([[0, 0, 1, 1, 2, 2, 3]])).tolist() == [[0, 1, 2, 3, 2, 3, 2]]


def test_likelihoods_are_those_of_transformers(tiny):
    prompt = list(tiny.chat_ids([{"role": "user", "content": QUESTION}]))
    with torch.no_grad():
        logits = tiny.model(torch.tensor([[*prompt, *ANSWER]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(ANSWER)[:, None])[:, 0]
    rows = [Row(messages=QUESTION, prefill=ANSWER, sampling=READ_ONLY), Row(messages="x", sampling=READ_ONLY)]
    found, empty = HFEngine(tiny).log_likelihoods(rows)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len(empty) == 0


def test_a_stretch_is_read_as_if_it_were_the_whole_answer(tiny):
    engine = HFEngine(tiny)
    row = Row(messages=QUESTION, prefill=ANSWER, sampling=READ_ONLY)
    (found,) = engine.log_likelihoods([row], stretch_tokens=35)
    halves = [Row(messages=QUESTION, prefill=part, sampling=READ_ONLY) for part in (ANSWER[:35], ANSWER[35:])]
    np.testing.assert_allclose(found, np.concatenate(engine.log_likelihoods(halves)), atol=1e-4)
