"""``python -m esr_utils.shard detection smollm2-135m paper 2/4``: make one part of a study, in a process of its own.

As many machines or GPUs as there are parts each run one line. The notebook, run afterwards, reads them all.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from esr_utils.ablation import Ablation
from esr_utils.catalogue import find_entry
from esr_utils.config import check_scale
from esr_utils.detection import Detection
from esr_utils.engines.ndif_checks import NDIFError
from esr_utils.engines.vllm_server import ServerError
from esr_utils.following import Following
from esr_utils.hub import HubError
from esr_utils.inducing import FineTuning
from esr_utils.journal import JournalError, locked
from esr_utils.machine import MachineError
from esr_utils.meta_prompting import MetaPrompting
from esr_utils.neuronpedia import LabelsError
from esr_utils.scales import ABLATION, DETECTION, FINE_TUNING, FOLLOWING, META_PROMPTING, TOPIC_STEERING
from esr_utils.shards import UnfinishedError
from esr_utils.study import Study
from esr_utils.topic_steering import TopicSteering
from esr_utils.wheels import WeightsError


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A study that is made in shards, its scales by name, and what its notebook calls to make it."""

    study: type[Study]
    scales: Mapping[str, Any]
    work: Callable[[Any], object] = methodcaller("measure")


STUDIES = {
    "detection": Shared(study=Detection, scales=DETECTION, work=lambda study: study.measure().check_methods()),
    "ablation": Shared(study=Ablation, scales=ABLATION),
    "following": Shared(study=Following, scales=FOLLOWING),
    "topic_steering": Shared(study=TopicSteering, scales=TOPIC_STEERING),
    "meta_prompting": Shared(study=MetaPrompting, scales=META_PROMPTING),
    "fine_tuning": Shared(study=FineTuning, scales=FINE_TUNING),
}
WHOLE = {  # studies that are no plan of trials, and why
    "discovery": "its latents are chosen on all answers together; run notebook 03 in one process",
    "steering": "its sweeps are tables, made at once; run notebook 01 in one process",
}
SENTENCES = (  # errors whose message says what to do
    *(ValueError, JournalError, UnfinishedError),
    *(MachineError, ServerError, NDIFError, HubError, LabelsError, WeightsError),
)
USAGE = f"say STUDY PAIR SCALE PART, such as detection smollm2-135m paper 2/4; studies: {', '.join(STUDIES)}"


def main(words: Sequence[str]) -> int:
    """Exit status: 0 the part is finished, 1 it stopped, 2 nothing was started, 130 interrupted."""
    try:
        shared, study = find_part(words)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        sys.stdout.write(work(shared, study) + "\n")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was finished is kept: the same line goes on from there\n")
        return 130
    except SENTENCES as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"cannot write {error.filename or 'to disk'}: {error.strerror}; what was finished is kept\n")
        return 1
    return 0


def find_part(words: Sequence[str]) -> tuple[Shared, Study]:
    """The part of a study that four words name.

    Raises:
        ValueError: one of them names nothing, or a study that is not made in shards.
    """
    if words and words[0] in WHOLE:
        raise ValueError(f"{words[0]} is not made in shards: {WHOLE[words[0]]}")
    if len(words) != 4 or words[0] not in STUDIES:
        raise ValueError(f"{' '.join(words)!r} names no part of a study; {USAGE}")
    name, pair, scale, part = words
    find_entry(pair)
    shared = STUDIES[name]
    return shared, shared.study(pair, scale, shared.scales[check_scale(scale)]).sharded(part)


def work(shared: Shared, study: Study) -> str:
    """Make the study's part, alone in its folder, and say in a line what it holds."""
    with (study.run.own / "lock").open("w") as file, locked(file.fileno(), study.run.own):
        if not (parts := study.own_parts()):
            return f"{study.shard.name}: nothing to do, the run has {len(study.parts())} {study.shared_by}s in all"
        shared.work(study)
    return f"{study.shard.name}: {len(parts)} {study.shared_by}s made and judged, in {study.run.own}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
