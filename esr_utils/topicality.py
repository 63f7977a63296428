"""How much a response is about its question: its pointwise mutual information with the question, 0 to 100.

Each stretch of a response is read on its own, as the answer to its question and to others: what is on topic is
likelier as an answer to its own. Needs no judge and no key, only the model that answers. It measures topic, not
quality: fluent nonsense about the right thing scores high.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from esr_utils.engines.hf import HFEngine
from esr_utils.steering import READING, Row, Sampling

N_DISTRACTORS = 4
READ_TOKENS = 2048  # of a response, from its start: a longer one is judged by these
STRETCH_TOKENS = 32  # read without the text before it, given which any continuation is likely under any question


@dataclass(frozen=True, eq=False, kw_only=True)
class Topicality:
    """Scores responses by likelihood under ``engine``'s unsteered model.

    Args:
        distractors: questions that compete with the true one; the true one itself is passed over.
        on_topic: information, in nats a token, that scores 100; ``on_topic_information`` measures it.
    """

    engine: HFEngine
    distractors: Sequence[str]
    on_topic: float = 1.0

    def __call__(self, questions: Sequence[str], responses: Sequence[str]) -> Float[np.ndarray, " response"]:
        """One score a response: 0 if it says no more of its question than of others, 100 as an unsteered answer."""
        return 100 * np.clip(self.information(questions, responses) / self.on_topic, 0.0, 1.0)

    def information(self, questions: Sequence[str], responses: Sequence[str]) -> Float[np.ndarray, " response"]:
        """Mean information about the question in each response, in nats a token."""
        return np.array([curve.mean() if len(curve) else 0.0 for curve in self.curves(questions, responses)])

    def curves(self, questions: Sequence[str], responses: Sequence[str]) -> list[Float[np.ndarray, " pos"]]:
        """Information about the question in each response token, in nats: log p(token | question) less the log of
        its mean probability given the distractors, from what went before in its stretch."""
        asked = [self._competitors(question) for question in questions]
        rows = [
            Row(messages=question, prefill=self.engine.pair.text_ids(response)[:READ_TOKENS], sampling=READING)
            for competitors, response in zip(asked, responses, strict=True)
            for question in competitors
        ]
        read = iter(self.engine.log_likelihoods(rows, stretch_tokens=STRETCH_TOKENS))
        return [_information([next(read) for _ in competitors]) for competitors in asked]

    def _competitors(self, question: str) -> list[str]:
        return [question, *[other for other in self.distractors if other != question][:N_DISTRACTORS]]


def _information(log_likelihoods: list[Float[np.ndarray, " pos"]]) -> Float[np.ndarray, " pos"]:
    """The first question against the mean of the others, token by token."""
    true, others = log_likelihoods[0], np.stack(log_likelihoods[1:])
    return true - (np.logaddexp.reduce(others, axis=0) - np.log(len(others)))


def on_topic_information(topicality: Topicality, questions: Sequence[str], sampling: Sampling) -> float:
    """Mean information, in nats a token, of unsteered answers about their own questions: what scores 100.

    Raises:
        ValueError: the answers are no likelier given their own questions than given the distractors.
    """
    rows = [Row(messages=question, seed=i, sampling=sampling) for i, question in enumerate(questions)]
    responses = [response.text for response in topicality.engine.generate(rows)]
    mean = float(np.concatenate(topicality.curves(questions, responses)).mean())
    if mean <= 0:
        raise ValueError(
            f"unsteered answers are no likelier given their own questions than given others ({mean:.2f} nats a token); "
            "topicality needs a model that answers its questions"
        )
    return mean
