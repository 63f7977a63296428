"""A run cut by latent into shards: each worker writes a folder of its own, and whoever reads sees them all.

There is no server and no lock between shards, so they may be processes of one machine or machines that share nothing:
a shard's folder is copied (say, by rsync) into ``shards/`` of the run's folder, and is then part of the run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
FOLDER = "shards"
N_TOLD = 5  # latents that a message names


class UnfinishedError(RuntimeError):
    """What others have to make first is not there; the message says what to do."""


@dataclass(frozen=True, order=True)
class Shard:
    """Number ``k`` (from 1) of ``n`` shards."""

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise ValueError(_refused(f"{self.k}/{self.n}"))

    @property
    def name(self) -> str:
        return f"{self.k}of{self.n}"

    def part(self, items: Sequence[T]) -> list[T]:
        """Every ``n``-th item, beginning with the ``k``-th: the shards of one list share nothing and miss nothing."""
        return list(items[self.k - 1 :: self.n])


def read_shard(text: str) -> Shard:
    """``"2/4"`` as the second of four shards.

    Raises:
        ValueError: the text names no shard.
    """
    if not (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)):
        raise ValueError(_refused(text))
    return Shard(int(found[1]), int(found[2]))


def _refused(text: str) -> str:
    return f"{text!r} names no shard; say which of how many, from 1/4 to 4/4 for four"


def shard_folders(folder: Path) -> list[Path]:
    """Folders of all shards of a run, in an order that does not depend on who reads."""
    return sorted(path for path in (folder / FOLDER).glob("*of*") if path.is_dir())


def refuse_unfinished(what: str, missing: Sequence[int | str], n: int, *, kind: str = "latent") -> None:
    """Say which latents (or whatever else of a ``kind``) of a run made in shards are not done yet.

    Raises:
        UnfinishedError: there are some.
    """
    if not missing:
        return
    named = ", ".join(map(str, missing[:N_TOLD])) + (", ..." if len(missing) > N_TOLD else "")
    raise UnfinishedError(
        f"{what} of {len(missing)} of {n} {kind}s are not there yet ({named}): this run is made in shards; "
        "wait for those at work, copy in those made elsewhere, or start the shards that stopped once more "
        "(any number does, 1/1 makes all the rest)"
    )
