"""One block of a model edited for as long as a ``with`` lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def editing(block: torch.nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the residual stream that ``block`` puts out through ``edit``.

    Raises:
        RuntimeError: no token passed, so nothing was edited.
    """
    fired: list[bool] = []

    def hook(module: torch.nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        fired.append(True)
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not fired:
        raise RuntimeError("no token passed the hook, so nothing was edited")
