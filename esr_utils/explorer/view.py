"""The widget that draws answers, sweeps and cards: state in traits, drawing in the front end, no model in sight."""

from pathlib import Path

import anywidget
import traitlets as t

FOLDER = Path(__file__).parent


def text_of(*names: str) -> str:
    """Front-end files of this folder, one after another."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


class View(anywidget.AnyWidget):
    """Shows what its traits hold; any number of tabs may show the same view.

    Traits:
        part: ``answers``, or ``card`` for a view that shows cards alone.
        live: answers in the making: ``arms`` and their ``texts`` so far.
        shown, strip: a run and a sweep, as ``Shown.to_dict`` gives them.
        card: as ``dataclasses.asdict`` gives a ``Card``.
        colour: series that colours the tokens; set from both sides.
        status, error: sentences; busy: whether something is being worked out.
        wanted: latent whose card a reader asked for, set by the front end; -1 is none.
    """

    _esm = text_of("draw.js", "view.js")
    _css = text_of("view.css")
    part = t.Enum(["answers", "card"], default_value="answers").tag(sync=True)
    live = t.Dict().tag(sync=True)
    shown = t.Dict().tag(sync=True)
    strip = t.Dict().tag(sync=True)
    card = t.Dict().tag(sync=True)
    colour = t.Unicode().tag(sync=True)
    status = t.Unicode().tag(sync=True)
    error = t.Unicode().tag(sync=True)
    busy = t.Bool(False).tag(sync=True)
    wanted = t.Int(-1).tag(sync=True)
