"""Steered trials replayed with latents ablated: off-topic detectors, and what they must be compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.detection import Detection, committed_detection
from esr_utils.discovery import Discovery
from esr_utils.engines.base import Engine, with_pair
from esr_utils.files import as_read, digest
from esr_utils.matching import matched_sets
from esr_utils.prompts import load_prompts
from esr_utils.records import PlannedTrial, Run, Trial
from esr_utils.scales import DISCOVERY, AblationScale
from esr_utils.steering import READING, Ablate, Row, Sampling
from esr_utils.study import MAIN_LEVEL, Study
from esr_utils.trials import make_row, plan_trials

NONE, DETECTORS, BACKTRACKING = "none", "detectors", "backtracking"
SETS, DIRECTIONS = "matched set", "random directions"
EVALUATION, HELD_OUT = "evaluation", "held_out"
HELD_OUT_ARMS = (NONE, DETECTORS, BACKTRACKING)
N_PAPER = 26  # latents that the paper ablates
PRIMARY = (DETECTORS, NONE, "multi_attempt")  # declared: the first less the second, against the matched sets


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is ablated. ``number`` tells matched sets, and draws of random directions, apart."""

    name: str
    latents: tuple[int, ...] = ()
    share: float = 1.0
    order: str = "after_steering"
    number: int | None = None

    @property
    def condition(self) -> str:
        """Name of its trials."""
        return self.name if self.number is None else f"{self.name} {self.number}"

    def ablate(self) -> tuple[Ablate, ...]:
        return (Ablate(latents=self.latents, share=self.share, order=self.order),) if self.latents else ()


def replay(plan: PlannedTrial, arm: Arm, sampling: Sampling) -> Row:
    """The row of a steered trial with an arm's latents ablated.

    Raises:
        ValueError: the trial's own latent is one of them.
    """
    if plan.latent in arm.latents:
        raise ValueError(
            f"latent {plan.latent} is both steered and ablated ({arm.condition}): the ablation would take the steering "
            f"itself away; leave it out of the ablated latents"
        )
    return replace(make_row(plan, sampling), ablate=arm.ablate())


@dataclass(frozen=True, eq=False)
class Ablation(Study):
    """Of notebook 04: the same latent, strength, question and seed in every arm; arms take turns.

    The ablated latents are those of notebook 03 less the ones that are steered. ``random directions`` take away what
    the detectors' activations say, along random directions of the same norms.
    """

    scale: AblationScale

    @cached_property
    def discovery(self) -> Discovery:
        return Discovery(self.subject, self.scale_name, DISCOVERY[self.scale_name], is_read_only=self.shard is not None)

    @cached_property
    def run(self) -> Run:
        return self._open(
            "ablation",
            trials_sha256=digest([asdict(plan) for plan in self._replayed()]),
            held_out_sha256=digest(load_prompts(HELD_OUT)),
            latents_sha256=digest(self.groups()),
        )

    def groups(self) -> dict[str, list[int]]:
        """The sets of notebook 03 that can be ablated: none of their latents is steered in any trial.

        Raises:
            ValueError: nothing is left of a set.
        """
        steered = set(self._strengths())
        left = {name: [at for at in chosen if at not in steered] for name, chosen in self.discovery.groups().items()}
        if empty := [name for name, chosen in left.items() if not chosen]:
            raise ValueError(f"no latent is left in {' and '.join(empty)}: nothing to ablate; read more answers")
        return left

    @cached_property
    def source(self) -> Detection:
        """The detection run whose trials are replayed."""
        return replace(committed_detection(self.subject, self.scale_name), is_read_only=self.shard is not None)

    def parts(self) -> list[int]:
        return list(self._strengths())

    def _strengths(self) -> dict[int, float]:
        return self.source.strengths(self.scale.n_latents)

    def _replayed(self, n_questions: int | None = None) -> list[PlannedTrial]:
        """The trials of notebook 02 at the calibrated strength: the first questions of each latent, by default all."""
        chosen = {latent: [] for latent in self._strengths()}
        for plan in self.source.plan():
            if plan.level == MAIN_LEVEL and plan.latent in chosen:
                chosen[plan.latent].append(plan)
        return [plan for mine in chosen.values() for plan in mine[: n_questions or self.scale.n_questions]]

    def profiles(self) -> pd.DataFrame:
        """What each latent does in steered responses of notebook 02: see ``matching.matched_sets``. Indexed by it.

        Shards keep none: machines round otherwise, and of these numbers only the sets drawn with them count.
        """

        def make() -> pd.DataFrame:
            acts = torch.cat([acts for _, acts in self._steered_activations()])
            norms = self.engine.pair.sae.W_dec.norm(dim=1).cpu()
            columns = {"frequency": (acts > 0).float().mean(0), "mean": acts.mean(0), "norm": norms}
            return pd.DataFrame({"latent": range(acts.shape[1])} | {name: v.numpy() for name, v in columns.items()})

        table = as_read(make()) if self.shard else self.run.frame("profiles", make)
        return table.set_index("latent", drop=False)

    def _steered_activations(self) -> Iterator[tuple[PlannedTrial, Float[Tensor, "pos latent"]]]:
        """Activations of every latent after steering, on the responses of the first trials of notebook 02.

        Raises:
            UnfinishedError: some trials that are replayed, or their unsteered ones, are not made yet.
        """
        self.source.finished(0.0, MAIN_LEVEL)
        pair, trials = self.engine.pair, self.source.run.trials()
        plans = self._replayed()
        plans = plans[:: max(1, len(plans) // self.scale.n_read)]
        reading = {"record_resid": (pair.reading_layer,), "sampling": READING}
        rows = [replace(make_row(p, self.sampling), prefill=trials[p.id].response, **reading) for p in plans]
        for plan, response in zip(plans, self.engine.generate(rows), strict=True):
            yield plan, pair.sae.encode(response.resid[pair.reading_layer]).cpu()

    @cached_property
    def arms(self) -> list[Arm]:
        """Every arm, ``none`` first. The matched sets are written down when they are first drawn."""
        groups = {name: tuple(chosen) for name, chosen in self.groups().items()}
        chosen = groups[DETECTORS]
        return [
            Arm(name=NONE),
            Arm(name=DETECTORS, latents=chosen),
            Arm(name="detectors by half", latents=chosen, share=0.5),
            Arm(name="26 most stable detectors", latents=chosen[:N_PAPER]),
            Arm(name="detectors before steering", latents=chosen, order="before_steering"),
            Arm(name=BACKTRACKING, latents=groups[BACKTRACKING]),
            *(Arm(name=SETS, latents=tuple(mine), number=i) for i, mine in enumerate(self.sets())),
            *(Arm(name=DIRECTIONS, latents=chosen, number=i) for i in range(self.scale.n_directions)),
        ]

    def sets(self) -> list[list[int]]:
        """Random sets matched with the detectors; they hold no detector, backtracking or steered latent."""

        def make() -> pd.DataFrame:
            groups, scale = self.groups(), self.scale
            sets = matched_sets(
                self.profiles(),
                groups[DETECTORS],
                n_sets=scale.n_sets,
                n_near=scale.n_near,
                excluded=[*self.discovery.detectors(), *groups[BACKTRACKING], *self._strengths()],
                seed=scale.seed,
            )
            return pd.DataFrame(
                [(i, latent) for i, mine in enumerate(sets) for latent in mine], columns=["set", "latent"]
            )

        return [mine["latent"].tolist() for _, mine in self.run.frame("matched_sets", make).groupby("set")]

    def plan(self, split: str = EVALUATION) -> list[PlannedTrial]:
        """Every trial of one split; matched sets and random directions get the first questions of each latent.

        Held-out questions are asked in three arms: none, detectors, backtracking.
        """
        if split == EVALUATION:
            everywhere = [arm for arm in self.arms if arm.number is None]
            first = {plan.id for plan in self._replayed(self.scale.n_set_questions)}
            pairs = [(plan, self.arms if plan.id in first else everywhere) for plan in self._replayed()]
        else:
            plans = plan_trials(
                self.subject,
                self._strengths(),
                questions=load_prompts(split),
                n_questions=self.scale.n_held_out,
                levels=(MAIN_LEVEL,),
                seed=self.scale.seed,
            )
            pairs = [(plan, [arm for arm in self.arms if arm.name in HELD_OUT_ARMS]) for plan in plans]
        return [replace(plan, condition=arm.condition) for plan, arms in pairs for arm in arms]

    def row(self, plan: PlannedTrial, sampling: Sampling) -> Row:
        return replay(plan, self._arm[plan.condition], sampling)

    @cached_property
    def _arm(self) -> dict[str, Arm]:
        return {arm.condition: arm for arm in self.arms}

    def measure(self) -> "Ablation":
        """Make and judge whatever is missing, then what the arms do to unsteered answers and to the steering, which
        a shard leaves to who reads them all."""
        self._check_engine()
        for split in (EVALUATION, HELD_OUT):
            plans = self.own(self.plan(split))
            turned = {arm.condition: arm for arm in self.arms if arm.name == DIRECTIONS}
            self.complete([plan for plan in plans if plan.condition not in turned], row_of=self.row)
            for condition, arm in turned.items():
                mine = [plan for plan in plans if plan.condition == condition]
                if mine and not self.is_complete(mine):
                    self.complete(mine, engine=self._turned(arm), row_of=self.row)
        if not self.shard:
            self.damage()
            self.removed()
        return self

    def _check_engine(self) -> None:
        """Raise a ValueError if the damage has still to be read and the engine cannot: before hours of trials."""
        if not self.run.files("damage.csv") and not self.engine.capabilities().scores_text:
            told = f"the engine {self.engine.name} does not say how likely a text is, from which damage is read"
            raise ValueError(f"{told}; run ablations on hf, or on vllm (ESR_SERVERS)")

    def _turned(self, arm: Arm) -> Engine:
        """An engine on a pair whose ablated latents have random directions of the same norms."""
        pair = self.engine.pair
        return with_pair(self.engine, replace(pair, sae=replace(pair.sae, W_dec=self._directions(arm))))

    def _directions(self, arm: Arm) -> Float[Tensor, "latent d_model"]:
        """Decoder directions as an arm takes them away."""
        W_dec, latents = self.engine.pair.sae.W_dec, list(arm.latents)
        if arm.name != DIRECTIONS:
            return W_dec
        generator = torch.Generator().manual_seed(1000 * self.scale.seed + arm.number)
        drawn = torch.randn(len(latents), W_dec.shape[1], generator=generator).to(W_dec)
        norms = W_dec[latents].norm(dim=1, keepdim=True)
        turned = W_dec.clone()
        turned[latents] = norms * drawn / drawn.norm(dim=1, keepdim=True)
        return turned

    def trials(self, split: str = EVALUATION) -> pd.DataFrame:
        """One line a planned trial, as ``frames.judged_frame`` makes it; ``condition``: the arm, ``name``: its kind."""
        trials = self.judged(self.plan(split))
        return trials.assign(name=[self._arm[condition].name for condition in trials["condition"]])

    def damage(self) -> pd.DataFrame:
        """Cost of each arm without steering: condition, log_likelihood (unsteered answers, nats a token), n_tokens.

        Differs from the paper, which has no such control: a set that damages the model may end restarts for no reason
        of its own.
        """

        def make() -> pd.DataFrame:
            trials = self.source.run.trials().values()
            plain = [trial for trial in trials if trial.plan.level == 0 and trial.response][: self.scale.n_damage]
            return pd.DataFrame([self._likelihood(arm, plain) for arm in self.arms])

        return self.run.frame("damage", make)

    def _likelihood(self, arm: Arm, plain: Sequence[Trial]) -> dict[str, object]:
        engine = self._turned(arm) if arm.name == DIRECTIONS else self.engine
        rows = [Row(messages=t.plan.question, prefill=t.response, ablate=arm.ablate(), sampling=READING) for t in plain]
        read = np.concatenate(engine.log_likelihoods(rows))
        return {"condition": arm.condition, "log_likelihood": float(read.mean()), "n_tokens": len(read)}

    def removed(self) -> pd.DataFrame:
        """What each arm takes out of the residual stream of steered responses, token by token.

        Columns: condition, removed_norm (mean length, residual units), steering_removed (mean share of the steering
        vector that goes with it; negative if the ablation adds to the steering). Of arms that read after steering.
        """

        def make() -> pd.DataFrame:
            arms = [arm for arm in self.arms if arm.latents and arm.order == "after_steering"]
            read = list(self._steered_activations())
            return pd.DataFrame([{"condition": arm.condition, **self._taken(arm, read)} for arm in arms])

        return self.run.frame("removed", make)

    def _taken(self, arm: Arm, read: Sequence[tuple[PlannedTrial, Float[Tensor, "_ latent"]]]) -> dict[str, float]:
        directions, latents = self._directions(arm).cpu(), list(arm.latents)
        norms, shares = [], []
        for plan, acts in read:
            taken = arm.share * acts[:, latents] @ directions[latents]
            steering = plan.strength * self.engine.pair.sae.direction(plan.latent).cpu()
            norms.append(taken.norm(dim=1))
            shares.append(taken @ steering / steering.dot(steering))
        return {"removed_norm": float(torch.cat(norms).mean()), "steering_removed": float(torch.cat(shares).mean())}
