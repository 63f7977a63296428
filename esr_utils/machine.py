"""What this machine has, and which pairs of the catalogue fit it: said before anything is loaded."""

import math
import os
from dataclasses import dataclass

import pandas as pd

from esr_utils.catalogue import BATCH_ROWS, CATALOGUE, DTYPE_BYTES, GIB, PairEntry

USABLE = 0.95  # share of the memory that a pair may take; the rest is for passes, drivers and other programs


class MachineError(RuntimeError):
    """A pair cannot run on this machine; the message says what would do."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Memory in GiB: of each GPU, and of the machine itself."""

    gpus_gib: tuple[float, ...]
    ram_gib: float

    @property
    def memory_gib(self) -> float:
        """Where a pair goes: all GPUs together if there are any, else main memory."""
        return sum(self.gpus_gib) or self.ram_gib

    @property
    def told(self) -> str:
        if not self.gpus_gib:
            return f"no GPU and {self.ram_gib:.0f} GiB of main memory"
        gpus = "GPU" if len(self.gpus_gib) == 1 else "GPUs"
        return f"{len(self.gpus_gib)} {gpus} with {self.memory_gib:.0f} GiB"

    def fits(self, entry: PairEntry, dtype: str) -> bool | None:
        """Whether the pair can run here; None if its size is not known yet."""
        if entry.needs_gpu and not self.gpus_gib:
            return False
        return None if entry.shape is None else entry.shape.memory_gib(dtype) <= USABLE * self.memory_gib


def this_machine() -> Machine:
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return Machine(
        gpus_gib=tuple(torch.cuda.get_device_properties(gpu).total_memory / GIB for gpu in gpus),
        ram_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
    )


def check_fits(entry: PairEntry, dtype: str) -> None:
    """Raise a MachineError if the pair cannot run here in this dtype; it names what would do and what fits."""
    machine = this_machine()
    if machine.fits(entry, dtype) is not False:
        return
    fitting = [name for name, other in CATALOGUE.items() if not other.base and machine.fits(other, other.dtype)]
    instead = f"of the catalogue these fit: {', '.join(fitting)}" if fitting else "no pair of the catalogue fits"
    if entry.needs_gpu and not machine.gpus_gib:
        needed = f" with {entry.shape.memory_gib(dtype) / USABLE:.0f} GiB" if entry.shape else ""
        raise MachineError(f"{entry.name} needs a GPU{needed}, and torch finds none on this machine; {instead}")
    raise MachineError(
        f"{_shortage(entry, dtype)}, and this machine has {machine.told}; {_remedy(entry, dtype, machine)}; {instead}"
    )


def _shortage(entry: PairEntry, dtype: str) -> str:
    shape = entry.shape
    return (
        f"{entry.name} needs {shape.memory_gib(dtype):.0f} GiB in {dtype} (weights {shape.weights_gib(dtype):.1f}, "
        f"SAE {shape.sae_gib:.1f}, {BATCH_ROWS} responses {shape.cache_gib(dtype):.1f})"
    )


def _remedy(entry: PairEntry, dtype: str, machine: Machine) -> str:
    """What would do: the smaller dtype, more of the same GPUs, or so much memory."""
    if dtype != entry.dtype and machine.fits(entry, entry.dtype):
        return f"{entry.dtype} would fit"
    needed = entry.shape.memory_gib(entry.dtype) / USABLE
    if machine.gpus_gib:
        return f"{math.ceil(needed / max(machine.gpus_gib))} such GPUs would do in {entry.dtype}"
    return f"{needed:.0f} GiB would do in {entry.dtype}"


def describe() -> pd.DataFrame:
    """The catalogue, one line a pair, with the memory it needs and whether that is here.

    ``GiB`` in a dtype: weights, SAE and the cache of a full batch, worked out from the sizes of the model. ``here``
    says whether the pair's own dtype fits; None if the model's size is not known before it is read.
    """
    machine = this_machine()
    return pd.DataFrame([_line(entry, machine) for entry in CATALOGUE.values()])


def _line(entry: PairEntry, machine: Machine) -> dict[str, object]:
    memory = {f"GiB {dtype}": round(entry.shape.memory_gib(dtype), 1) if entry.shape else None for dtype in DTYPE_BYTES}
    return {
        "pair": entry.name,
        "model": entry.model,
        "SAE": entry.sae_name,
        "layer": entry.steering_layer,
        **memory,
        "this machine": machine.told,
        "here": machine.fits(entry, entry.dtype),
        "labels": entry.labels if isinstance(entry.labels, str) else "shipped" if entry.labels else "none",
        "licence": entry.licence,
        "accept a licence first": entry.is_gated,
        "quirks": ", ".join(quirk.name for quirk in entry.quirks),
    }
