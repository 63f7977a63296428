"""What the explorer knows of a subject: its engine, its labels, and what the other notebooks found for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.catalogue import with_fine_tuned
from esr_utils.config import results_dir
from esr_utils.engines.hf import HFEngine
from esr_utils.judging import Judge
from esr_utils.latents import load_contexts, load_labels
from esr_utils.models import load_pair
from esr_utils.steering import READING, Row
from esr_utils.topicality import Topicality

READ_AT_ONCE = 128  # prompt tokens, so that the steered answer is the same beside two others and in a sweep
N_READ = 16  # committed answers that are read for norms and histograms
NEUTRAL_QUESTION = "Tell me something."  # under which a searched sentence is read, as an answer


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A pair that the explorer can steer.

    Attributes:
        labels: as ``latents.load_labels`` gives them.
        groups: ``detectors`` and ``backtracking`` latents; empty where none were looked for.
        calibrated: latent -> strength in raw units, of those that notebook 02 calibrated.
        texts: questions and answers that are read, unsteered, for the median norm and the histograms.
        has_contexts: whether strongest contexts of its latents are on disk.
    """

    engine: HFEngine
    judge: Judge
    topicality: Topicality
    labels: pd.DataFrame
    texts: Sequence[tuple[str, str]]
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    calibrated: Mapping[int, float] = field(default_factory=dict)
    has_contexts: bool = True

    @property
    def name(self) -> str:
        return self.engine.pair.name

    def has(self, latent: int) -> bool:
        """Whether its SAE has this latent."""
        return 0 <= latent < self.engine.pair.sae.d_sae

    def label(self, latent: int) -> str:
        """The label, or words that say that there is none."""
        self.engine.pair.sae.check_latent(latent)
        return str(self.labels["label"].get(latent, "no label: it never fired in the corpus"))

    def contexts(self, latent: int) -> list[dict]:
        """Strongest contexts; none of a latent that never fired."""
        return load_contexts(self.name, latent) if self.has_contexts and latent in self.labels.index else []

    @cached_property
    def read(self) -> dict[int, Float[Tensor, "pos d_model"]]:
        """Residual stream at the steering and the reading layer, over the tokens of ``texts``; read once."""
        pair = self.engine.pair
        layers = tuple({pair.steering_layer, pair.reading_layer})
        rows = [Row(messages=q, prefill=a, sampling=READING, record_resid=layers) for q, a in self.texts]
        responses = self.engine.generate(rows)
        return {layer: torch.cat([r.resid[layer] for r in responses]).float() for layer in layers}

    @cached_property
    def median_norm(self) -> float:
        """Median norm of the residual stream at the steering layer: what a relative strength of 1 means."""
        return float(self.read[self.engine.pair.steering_layer].norm(dim=1).median())

    def relative(self, latent: int, strength: float) -> float:
        """A strength as a share of the median norm, whatever the length of the decoder direction."""
        return strength * float(self.engine.pair.sae.direction(latent).norm()) / self.median_norm


def load_subject(name: str) -> Subject:
    """A pair of the catalogue with everything that the committed results say of it."""
    from esr_utils.detection import committed_detection
    from esr_utils.discovery import Discovery
    from esr_utils.judges.offline import offline_judge
    from esr_utils.prompts import load_prompts
    from esr_utils.scales import DISCOVERY
    from esr_utils.study import READER, load_engine

    reader = load_engine(READER)
    studied = with_fine_tuned(READER)[-1]  # the subject whose groups are known; its base has the same SAE
    discovery = Discovery(studied, "standard", DISCOVERY["standard"])
    return Subject(
        engine=HFEngine(load_pair(name), prefill_tokens=READ_AT_ONCE),
        judge=offline_judge(reader),
        topicality=Topicality(engine=reader, distractors=load_prompts("calibration"), on_topic=_on_topic()),
        labels=load_labels(name),
        texts=list(discovery.answers().head(N_READ).itertuples(index=False, name=None)),
        groups=discovery.groups(),
        calibrated=committed_detection(name, "standard").strengths(),
    )


def _on_topic() -> float:
    """Nats a token that score 100, as notebook 01 measured them."""
    from esr_utils.study import READER

    return float(pd.read_csv(results_dir(READER, "steering", "standard") / "on_topic.csv")["nats"].iloc[0])
