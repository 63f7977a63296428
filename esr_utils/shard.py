"""``python -m esr_utils.shard detection smollm2-135m paper 2/4``: make one part of a study, in a process of its own.

As many machines or GPUs as there are parts each run one line. The notebook, run afterwards, reads them all.
"""

import signal
import sys
from collections.abc import Callable, Sequence

from esr_utils.catalogue import find_entry
from esr_utils.config import check_scale
from esr_utils.detection import Detection
from esr_utils.journal import JournalError, locked
from esr_utils.scales import DETECTION

STUDIES: dict[str, Callable[[str, str], Detection]] = {
    "detection": lambda pair, scale: Detection(pair, scale, DETECTION[scale]),
}
USAGE = f"say STUDY PAIR SCALE PART, such as detection smollm2-135m paper 2/4; studies: {', '.join(STUDIES)}"


def main(words: Sequence[str]) -> int:
    """Exit status: 0 the part is finished, 1 it stopped, 2 nothing was started, 130 interrupted."""
    try:
        study = find_study(words)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        sys.stdout.write(work(study) + "\n")
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; what was finished is kept: the same line goes on from there\n")
        return 130
    except (JournalError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"cannot write {error.filename or 'to disk'}: {error.strerror}; what was finished is kept\n")
        return 1
    return 0


def find_study(words: Sequence[str]) -> Detection:
    """The part of a study that four words name.

    Raises:
        ValueError: one of them names nothing.
    """
    if len(words) != 4 or words[0] not in STUDIES:
        raise ValueError(f"{' '.join(words)!r} names no part of a study; {USAGE}")
    name, pair, scale, part = words
    find_entry(pair)
    check_scale(scale)
    return STUDIES[name](pair, scale).sharded(part)


def work(study: Detection) -> str:
    """Make the study's part, alone in its folder, and say in a line what it holds."""
    with (study.run.own / "lock").open("w") as file, locked(file.fileno(), study.run.own):
        study.measure().check_methods()
    plans = study.plan()
    n_latents = len({plan.latent for plan in plans})
    return f"{study.shard.name}: {n_latents} latents, {len(plans)} trials made and judged, in {study.run.own}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
