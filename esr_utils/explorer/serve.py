"""The explorer as an app: Voila on loopback, with notebook 00 up to the explorer.

Voila shows a page once every cell of its notebook has run, so the cells that come after the explorer are left out.
"""

import sys
from collections.abc import Sequence

from esr_utils.config import ROOT

NOTEBOOK = ROOT / "notebooks" / "00_latent_explorer.ipynb"
TAG = "explorer"  # of the cell that shows it
ONLY_FROM_HERE = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws://127.0.0.1:* data: blob:"
)


def until_explorer(handler: object, notebook, cwd: str):
    """The notebook cut after its cell tagged ``explorer``; Voila calls this before it starts a kernel.

    Raises:
        ValueError: no cell has the tag.
    """
    at = [i for i, cell in enumerate(notebook.cells) if TAG in cell.metadata.get("tags", [])]
    if not at:
        raise ValueError(f"no cell of the notebook is tagged {TAG!r}; tag the one that shows the explorer")
    notebook.cells = notebook.cells[: at[0] + 1]
    return notebook


def main(options: Sequence[str]) -> None:
    """Serve until interrupted. ``options`` are Voila's own, such as ``--no-browser`` or ``--port=8866``."""
    from traitlets.config import Config
    from voila.app import Voila

    config = Config()
    config.VoilaConfiguration.prelaunch_hook = until_explorer
    config.VoilaConfiguration.show_tracebacks = True
    config.Voila.ip, config.Voila.auto_token = "127.0.0.1", True
    # The kernel of a tab that was closed ends a minute later; Voila's own request to end it is refused by its server.
    config.MappingKernelManager.cull_idle_timeout, config.MappingKernelManager.cull_interval = 60, 15
    # Voila's template asks other hosts for fonts and a diagram library, which the explorer does without.
    config.Voila.tornado_settings = {"headers": {"Content-Security-Policy": ONLY_FROM_HERE}}
    Voila.launch_instance([str(NOTEBOOK), *options], config=config)


if __name__ == "__main__":
    main(sys.argv[1:])
