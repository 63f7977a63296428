"""Meta-prompts: suffixes to the question, each kind with and without steering, beside a neutral one about as long."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache

import pandas as pd

from esr_utils import latents, reference
from esr_utils.config import DATA, KIT, PAPER, check_stimuli, run_name
from esr_utils.detection import Detection
from esr_utils.files import digest
from esr_utils.prompts import load_prompts
from esr_utils.published import META_PROMPTS
from esr_utils.records import PlannedTrial, Run
from esr_utils.scales import DETECTION, MetaPromptingScale
from esr_utils.scales.meta_prompting import KINDS, NEUTRAL, NONE
from esr_utils.steering import Row, Sampling
from esr_utils.study import MAIN_LEVEL, Study
from esr_utils.trials import make_row, plan_trials

LEVELS = (0.0, MAIN_LEVEL)
PRIMARY = ("self_monitor", NEUTRAL)  # declared: several attempts under steering, the first less the second


@lru_cache(maxsize=2)
def load_meta_prompts(stimuli: str = KIT) -> dict[str, list[str]]:
    """Wordings of each kind of suffix; ``{label}`` stands for the label of the steered latent.

    ``stimuli="paper"``: the authors' one wording of each kind. They have no neutral suffix, so the kit's stay, which
    are longer than most of theirs.

    Raises:
        ReferenceFileError: the paper's meta-prompts could not be had.
    """
    table = pd.read_csv(DATA / "meta_prompts.csv")
    texts = {kind: mine["text"].tolist() for kind, mine in table.groupby("kind", sort=False)}
    if check_stimuli(stimuli) == PAPER:
        theirs = reference.meta_prompts()
        names = {kind: name.removeprefix("meta-prompt ") for kind, name in META_PROMPTS.items() if kind != NONE}
        texts |= {kind: [theirs[name]] for kind, name in names.items()}
    return texts


def with_suffix(question: str, kind: str, *, wording: int, label: str, stimuli: str = KIT) -> str:
    """``question`` followed, in the same turn, by a meta-prompt.

    Args:
        wording: any number; wordings are taken in turn.
        label: of the steered latent, which the kind ``label`` names.
        stimuli: whose meta-prompts, the kit's or the paper's.

    Raises:
        ValueError: an unknown kind, or no label for the kind that names it.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of meta-prompt {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == NONE:
        return question
    texts = load_meta_prompts(stimuli)[kind]
    text = texts[wording % len(texts)]
    if "{label}" in text and not label.strip():
        raise ValueError(f"a meta-prompt of kind {kind!r} names the latent's label, and this latent has none")
    return f"{question} {text.replace('{label}', label)}"


@dataclass(frozen=True, eq=False)
class MetaPrompting(Study):
    """Of notebook 05: the same trials under each kind of suffix.

    The ``condition`` of a trial is the kind of its suffix, its ``level`` says whether it was steered. Which wording it
    gets depends on its seed, so one latent and question gets the same number of wording in every arm.

    ``stimuli="paper"`` takes the paper's questions and meta-prompts, and strengths found with its questions.

    Differs from the paper, also then: a neutral suffix, arms without steering, and a judge that sees no suffix.
    """

    scale: MetaPromptingScale
    stimuli: str = field(default=KIT, kw_only=True)

    def __post_init__(self) -> None:
        check_stimuli(self.stimuli)

    @cached_property
    def run(self) -> Run:
        texts = [load_prompts("evaluation", stimuli=self.stimuli), self.meta_prompts(), self._labels()]
        return self._open(
            run_name("meta_prompting", self.stimuli),
            texts_sha256=digest(texts),
            base_run=asdict(self.detection.scale),
            strengths_sha256=digest(sorted(self._strengths().items())),
        )

    @cached_property
    def detection(self) -> Detection:
        """The subject's run of notebook 02, whose latents and strengths are used."""
        how = {"stimuli": self.stimuli, "is_read_only": self.shard is not None}
        return Detection(self.subject, self.scale_name, DETECTION[self.scale_name], **how)

    def parts(self) -> list[int]:
        return list(self._strengths())

    def meta_prompts(self) -> dict[str, list[str]]:
        """Wordings of each kind of suffix that this run tries."""
        return load_meta_prompts(self.stimuli)

    def _strengths(self) -> dict[int, float]:
        return self.detection.strengths(self.scale.n_latents)

    def _labels(self) -> dict[int, str]:
        return latents.load_labels(self.subject)["label"].loc[list(self._strengths())].to_dict()

    def plan(self) -> list[PlannedTrial]:
        """Every trial of every arm; arms take turns, so that none is made at another time than the others."""
        plans = plan_trials(
            self.subject,
            self._strengths(),
            questions=load_prompts("evaluation", stimuli=self.stimuli),
            n_questions=self.scale.n_questions,
            levels=LEVELS,
            seed=self.scale.seed,
        )
        return [replace(plan, condition=kind) for plan in plans for kind in KINDS]

    def asked(self, plan: PlannedTrial) -> str:
        """What the model is asked in a trial; the judge is shown the question alone."""
        label = self._labels()[plan.latent]
        return with_suffix(plan.question, plan.condition, wording=plan.seed, label=label, stimuli=self.stimuli)

    def row(self, plan: PlannedTrial, sampling: Sampling) -> Row:
        return replace(make_row(plan, sampling), messages=self.asked(plan))

    def measure(self) -> "MetaPrompting":
        """Make and judge whatever is missing."""
        self.complete(self.plan(), row_of=self.row)
        return self

    def trials(self) -> pd.DataFrame:
        """One line a planned trial, as ``frames.judged_frame`` makes it, with its ``kind`` and ``wording``.

        ``kind`` is the condition; ``wording`` counts from 1 in the order of ``meta_prompts``, 0 is no suffix.
        """
        plans = self.plan()
        n_wordings = {kind: len(texts) for kind, texts in self.meta_prompts().items()}
        wordings = [1 + p.seed % n_wordings[p.condition] if p.condition != NONE else 0 for p in plans]
        return self.judged(plans).assign(kind=[p.condition for p in plans], wording=wordings)


def examples(runs: Sequence[MetaPrompting]) -> pd.DataFrame:
    """The first wording of each kind as one latent's trial would have it: kind, asked."""
    plan = runs[0].plan()[0]
    label = runs[0]._labels()[plan.latent]
    lines = [
        (kind, with_suffix(plan.question, kind, wording=0, label=label, stimuli=runs[0].stimuli)) for kind in KINDS
    ]
    return pd.DataFrame(lines, columns=["kind", "asked"])
