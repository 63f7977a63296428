"""Steering along what sets a topic apart, in place of a latent: does resistance need an SAE's directions?"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.catalogue import find_entry
from esr_utils.corpus import corpus_prompts
from esr_utils.detection import Detection
from esr_utils.directions import ASKED, load_directions, topic_directions, with_directions
from esr_utils.engines.base import Engine, with_pair
from esr_utils.files import digest, write_whole
from esr_utils.prompts import load_prompts
from esr_utils.records import Run
from esr_utils.scales import TopicSteeringScale
from esr_utils.study import load_engine

LITTLE_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "how", "in", "is", "of", "on", "or", "the", "their", "to", "with")
)
STEM_LETTERS = 4
DIRECTIONS = "directions.npy"


def unrelated_topics(questions: Sequence[str]) -> pd.DataFrame:
    """Topics of the SAE's corpus that no question is about, in alphabetical order: label (the topic), group.

    A question is about a topic if they share a word. Words are compared by their first four letters, little ones left
    out. So a topic is dropped too often rather than too seldom, but not where only the meaning is shared.
    """
    asked = set().union(*map(_stems, questions))
    groups = {prompt.topic: prompt.group for prompt in corpus_prompts()}
    kept = sorted(topic for topic in groups if not _stems(topic) & asked)
    return pd.DataFrame({"label": kept, "group": [groups[topic] for topic in kept]})


def _stems(text: str) -> set[str]:
    return {word[:STEM_LETTERS] for word in re.findall(r"[a-z]+", text.lower()) if word not in LITTLE_WORDS}


@dataclass(frozen=True, eq=False)
class TopicSteering(Detection):
    """Of notebook 04: ``Detection`` with a direction a topic for each latent; a "latent" is a topic's number.

    Directions are scaled to length 1, as the SAE's decoder directions are, so that both are searched alike, from the
    prior of the pair's latents, and a strength is a distance in the residual stream. A fine-tuned subject gets the
    topics of its base, and directions of its own; some topics may be near ones it was trained to leave.

    Source: the paper's later control with Wikipedia articles. Differs from the paper: directions are added at the
    layer at which the SAE's are (there 48, and 33 for the SAE's), and calibrated with the effort of ``scale``.
    """

    scale: TopicSteeringScale

    @cached_property
    def run(self) -> Run:
        texts = [load_prompts("calibration"), load_prompts("evaluation"), ASKED, self.latents()["label"].tolist()]
        layer = find_entry(self.subject).steering_layer
        return self._open("topic_directions", search=asdict(self.search()), layer=layer, texts_sha256=digest(texts))

    def latents(self) -> pd.DataFrame:
        """The topics, drawn by seed from those that no question is about: label, group. Indexed by number.

        Raises:
            ValueError: there are fewer than asked for.
        """
        topics, n = unrelated_topics(load_prompts("calibration") + load_prompts("evaluation")), self.scale.n_topics
        if n > len(topics):
            raise ValueError(f"{n} topics asked for, and no question is about {len(topics)} of them; ask for fewer")
        drawn = np.random.default_rng(self.scale.seed).permutation(len(topics))[:n]
        return topics.iloc[drawn].reset_index(drop=True).rename_axis("latent")

    def directions(self) -> Float[Tensor, "topic d_model"]:
        """One direction a topic, not normalised, in the order of ``latents``: read from the run, or made."""
        path = next(iter(self.run.files(DIRECTIONS)), self.run.own / DIRECTIONS)
        if not path.exists():
            topics, layer = self.latents()["label"].tolist(), self._model.pair.steering_layer
            made = topic_directions(self._model, topics, layer=layer).numpy()
            write_whole(path, lambda file: np.save(file, made))
        return torch.stack(list(load_directions(path).values()))

    @cached_property
    def _model(self) -> Engine:
        return load_engine(self.subject)

    @cached_property
    def engine(self) -> Engine:
        """The engine on the subject, whose latents are the topics."""
        units = torch.nn.functional.normalize(self.directions(), dim=1)
        pair = with_directions(self._model.pair, units, name=f"topics of {self.subject}")
        return with_pair(self._model, pair)

    def calibrated(self) -> pd.DataFrame:
        """``calibration`` with the topic, its ``norm`` before scaling, and ``multiplier``: strength over norm.

        The multiplier is what the paper calls the strength of such a direction.
        """
        table = self.latents().assign(norm=self.directions().norm(dim=1).numpy()).join(self.calibration())
        return table.assign(multiplier=table["strength"] / table["norm"])
