"""What every study of a subject shares: its engine, its judges, and trials that are made and judged once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from esr_utils import columns, frames
from esr_utils.catalogue import PairEntry, find_entry
from esr_utils.columns import attempt_columns, trial_columns, verdict_columns
from esr_utils.config import results_dir
from esr_utils.engines.base import Engine
from esr_utils.models import ADAPTER_WEIGHTS
from esr_utils.records import PlannedTrial, Run, open_run
from esr_utils.shards import Shard, UnfinishedError, read_shard, refuse_unfinished
from esr_utils.steering import Row, Sampling
from esr_utils.trials import judge_trials, make_row, run_trials
from esr_utils.wheels import sha256

READER = "smollm2-135m"  # the offline judges read with it, whoever answers
SERVERS_VARIABLE = "ESR_SERVERS"
JUDGE, SECOND_JUDGE = "offline", "offline-likelihood"
MAIN_LEVEL = 1.0  # share of a latent's calibrated strength


@dataclass(frozen=True, eq=False)
class Study:
    """The run of one subject: ``scale_name`` says where it is kept, ``scale`` how much is done.

    Every step reads what the run already holds and makes the rest, so a killed run goes on where it stopped, and the
    model is loaded only if something is missing.

    Attributes:
        shared_by: field of a planned trial. Trials in which it is the same are all made by one shard.
        shard: the part of the run that this process works on, in a folder of its own; see ``sharded``.
        is_read_only: others are made from this run, several at a time, so none of them makes what it lacks.
    """

    shared_by: ClassVar[str] = "latent"

    subject: str
    scale_name: str
    scale: Any
    shard: Shard | None = field(default=None, kw_only=True)
    is_read_only: bool = field(default=False, kw_only=True)
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    def sharded(self, part: str) -> "Study":
        """The same study, of which this process makes one part in so many, such as ``"2/4"``.

        Without it, a study that was made in shards is read from all of them, and refuses to make what is missing.
        """
        return replace(self, shard=read_shard(part))

    @property
    def is_merging(self) -> bool:
        """Whether this reads what others make."""
        return self.is_read_only or (self.shard is None and self.run.has_shards)

    def parts(self) -> list:
        """Every latent of the run (or what else ``shared_by`` says), in an order that all its shards have."""
        raise NotImplementedError

    def own_parts(self) -> list:
        """Those of ``parts`` that this process works on."""
        return self.shard.part(self.parts()) if self.shard else self.parts()

    def own(self, plans: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Those of the planned trials that this process makes."""
        if not self.shard:
            return list(plans)
        mine = set(self.own_parts())
        return [plan for plan in plans if getattr(plan, self.shared_by) in mine]

    @cached_property
    def run(self) -> Run:
        """Its folder, bound to every setting that a result depends on."""
        raise NotImplementedError

    def _open(self, name: str, **settings: object) -> Run:
        """The folder called ``name``, bound to the scale, the judge, a subject's adapter and ``settings``."""
        bound = asdict(self.scale) | {"judge": JUDGE} | settings
        entry = find_entry(self.subject)
        if entry.adapter:
            bound["adapter_sha256"] = sha256(entry.adapter / ADAPTER_WEIGHTS)
        return open_run(results_dir(self.subject, name, self.scale_name), bound, shard=self.shard)

    @property
    def sampling(self) -> Sampling:
        penalty = find_entry(self.subject).repetition_penalty
        return Sampling(max_new_tokens=self.scale.max_new_tokens, repetition_penalty=penalty)

    @cached_property
    def engine(self) -> Engine:
        self._refuse_to_make()
        return load_engine(self.subject)

    @cached_property
    def judges(self) -> dict:
        """Both offline judges by name; the first counts, the second says how far it can be trusted."""
        from esr_utils.judges.offline import offline_judge

        self._refuse_to_make()
        reader = self.engine if self.subject == READER else load_engine(READER)
        ways = {JUDGE: "embedding", SECOND_JUDGE: "likelihood"}
        return {name: offline_judge(reader, way=way, name=name) for name, way in ways.items()}

    def _refuse_to_make(self) -> None:
        if self.is_read_only:
            raise UnfinishedError(
                f"{type(self).__name__} of {self.subject} at {self.scale_name} is not finished, and shards of this run "
                "are made from it; finish it first, in its notebook or in shards of its own"
            )

    def complete(
        self,
        plans: Sequence[PlannedTrial],
        *,
        engine: Engine | None = None,
        row_of: Callable[[PlannedTrial, Sampling], Row] = make_row,
    ) -> None:
        """Make and judge the planned trials that the run does not hold yet; in a shard, those of its part.

        Args:
            engine: another than the subject's.

        Raises:
            UnfinishedError: the run is made in shards, and some of its parts are not finished.
        """
        self.check_merged(plans, "missing", "unjudged")
        self._make(self.own(plans), engine, row_of)
        self.judge(JUDGE, self.own(plans))

    def make(
        self,
        plans: Sequence[PlannedTrial],
        *,
        engine: Engine | None = None,
        row_of: Callable[[PlannedTrial, Sampling], Row] = make_row,
    ) -> None:
        """As ``complete``, without the judge."""
        self.check_merged(plans, "missing")
        self._make(self.own(plans), engine, row_of)

    def _make(
        self, plans: Sequence[PlannedTrial], engine: Engine | None, row_of: Callable[[PlannedTrial, Sampling], Row]
    ) -> None:
        if self._is_any(plans, "missing"):
            maker = engine or self.engine
            self.run.bind_engine(maker.name)
            run_trials(maker, self.run, plans, self.sampling, row_of=row_of)

    def check_merged(self, plans: Sequence[PlannedTrial], *lacking: str, judge: str = JUDGE) -> None:
        """If this reads what shards make: see that no planned trial has one of the statuses ``lacking``.

        Raises:
            UnfinishedError: some have.
        """
        if self.is_merging:
            self.run.warn_of_differing()
            judged = self.judged(plans, judge=judge)
            parts = judged[self.shared_by]
            missing = parts[judged["status"].isin(lacking)].unique().tolist()
            refuse_unfinished("trials", missing, parts.nunique(), kind=self.shared_by)

    def judge(self, name: str, plans: Sequence[PlannedTrial]) -> None:
        """Have the judge called ``name`` judge what it has not judged of the planned trials."""
        if self._is_any(plans, "unjudged", judge=name):
            judge_trials(self.judges[name], self.run, plans)

    def is_complete(self, plans: Sequence[PlannedTrial]) -> bool:
        return not self._is_any(plans, "missing", "unjudged")

    def _is_any(self, plans: Sequence[PlannedTrial], *statuses: str, judge: str = JUDGE) -> bool:
        return self.judged(plans, judge=judge)["status"].isin(statuses).any().item()

    def judged(self, plans: Sequence[PlannedTrial], *, judge: str = JUDGE) -> pd.DataFrame:
        """One line a planned trial, as ``frames.judged_frame`` makes it.

        The last frame of the first judge is kept: a large one takes seconds to make, and a study asks for it often.
        """
        if judge != JUDGE or not isinstance(plans, tuple):  # a list may be another by now
            return self._judged(plans, judge)
        state = columns.state(self.run, judge)
        if self._kept.get("plans") is not plans or self._kept["state"] != state:
            self._kept.clear()  # before the next is made: two may be too large
            self._kept.update(frame=self._judged(plans, judge), plans=plans, state=state)
        return self._kept["frame"].copy(deep=False)

    def _judged(self, plans: Sequence[PlannedTrial], judge: str) -> pd.DataFrame:
        return frames.judged_frame(plans, trial_columns(self.run), verdict_columns(self.run, judge))

    def attempts(self) -> pd.DataFrame:
        """One line an attempt, as ``frames.attempt_frame`` makes it."""
        return frames.attempt_frame(trial_columns(self.run), attempt_columns(self.run, JUDGE))


def load_engine(subject: str) -> Engine:
    """The engine on a pair of the catalogue: here, or on the servers that the environment names.

    ``ESR_SERVERS`` holds addresses of vLLM servers, separated by commas; ``ESR_NNSIGHT`` is for NDIF (see
    ``engines.ndif_checks``), which has no embedded pair. The pair that the offline judges read with always runs here.

    Raises:
        ValueError: both are set.
    """
    from esr_utils.engines.hf import HFEngine
    from esr_utils.engines.ndif_checks import ADDRESS_VARIABLE
    from esr_utils.models import load_pair

    address, entry = os.environ.get(ADDRESS_VARIABLE), find_entry(subject)
    servers = [url.strip() for url in os.environ.get(SERVERS_VARIABLE, "").split(",") if url.strip()]
    if address and servers:
        raise ValueError(f"{ADDRESS_VARIABLE} and {SERVERS_VARIABLE} are both set; unset one of them")
    if servers and subject != READER:
        from esr_utils.engines.vllm import VLLMEngine

        return VLLMEngine(load_pair(subject, weights=False), servers)
    if address and not entry.is_embedded:
        return _ndif_engine(entry, address)
    return HFEngine(load_pair(subject))


def _ndif_engine(entry: PairEntry, address: str) -> Engine:
    from esr_utils.engines.ndif import NDIFEngine
    from esr_utils.engines.ndif_checks import NDIFError, find_service
    from esr_utils.models import load_pair

    if entry.adapter:
        raise NDIFError(f"{entry.name} has an adapter that only this machine has; unset ESR_NNSIGHT to run it here")
    service = find_service(address, entry.model, entry.revision)
    return NDIFEngine(load_pair(entry.name, weights=False), service)
