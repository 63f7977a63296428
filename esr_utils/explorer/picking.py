"""Controls for the latents: how they are found, and one line for each that is picked."""

from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets as w
import pandas as pd

from esr_utils.explorer.lookup import options
from esr_utils.explorer.slider import Slider
from esr_utils.explorer.state import Pick

WIDE = w.Layout(width="auto")
HALF = w.Layout(width="49%", min_width="180px")
NARROW = w.Layout(width="92px")
WRAPPED = w.Layout(flex_flow="row wrap", align_items="center")
LABELLED = {"description_width": "104px"}
INDENT = "0 0 0 108px"  # of what stands under labelled controls
SLIDER_REACH = 2.0  # of a slider, as a multiple of the calibrated strength
SLIDER_SHARE = 1.0  # and, where there is none, as a share of the median norm


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one raw unit of a latent's strength means: ``relative``, and the calibrated strength if it is known."""

    relative: float
    calibrated: float | None = None

    @property
    def reach(self) -> float:
        """Strength at the end of the slider."""
        return SLIDER_REACH * self.calibrated if self.calibrated else SLIDER_SHARE / self.relative

    @property
    def marks(self) -> list[tuple[str, float]]:
        """What stands on the slider: zero, and the calibrated strength."""
        return [("0", 0.0)] + ([(f"calibrated {self.calibrated:.4g}", self.calibrated)] if self.calibrated else [])


class PickLine:
    """One picked latent: slider and number box of its strength, raw and relative, and the share that is ablated.

    The raw number is what counts; the slider ends at ``Measure.reach``, the box does not. Until ``measure_by`` says
    what a unit means, only the raw number can be set.
    """

    def __init__(self, pick: Pick, *, on_remove: Callable[["PickLine"], None]):
        self.latent = pick.latent
        self.measure: Measure | None = None
        self.name = w.HTML(layout=w.Layout(flex="2 1 200px", min_width="0"))
        self.slider = Slider(name=f"strength of latent {pick.latent}", layout=w.Layout(flex="2 1 190px"))
        self.raw = w.FloatText(value=pick.strength, layout=NARROW, tooltip="strength, raw units")
        self.relative = w.FloatText(layout=NARROW, disabled=True, tooltip="strength as a share of the median norm")
        self.calibrate = w.Button(layout=w.Layout(width="130px"), disabled=True)
        self.share = w.BoundedFloatText(description="ablate", min=0.0, max=1.0, step=0.1, value=pick.share)
        self.share.tooltip = "share of the latent's contribution that is taken away"
        self.share.layout, self.share.style = w.Layout(width="130px"), {"description_width": "50px"}
        self.drop = w.Button(description="Drop", tooltip=f"drop latent {pick.latent}", layout=w.Layout(width="58px"))
        self._is_setting = False
        self.raw.observe(lambda change: self.set_strength(change["new"]), "value")
        self.slider.observe(lambda change: self.set_strength(change["new"]), "value")
        self.relative.observe(lambda change: self.set_strength(change["new"] / self.measure.relative), "value")
        self.calibrate.on_click(lambda button: self.set_strength(self.measure.calibrated))
        self.drop.on_click(lambda button: on_remove(self))
        units = w.HBox([self.raw, w.Label("raw"), self.relative, w.Label("relative"), self.calibrate])
        edits = w.HBox([self.share, self.drop])
        self.root = w.HBox([self.name, self.slider, units, edits], layout=WRAPPED)
        self.name.value = f"<b>{self.latent}</b>"

    def measure_by(self, measure: Measure, label: str) -> None:
        """Take over a subject's units; the raw strength stays."""
        self.measure = measure
        self.name.value = f"<b>{self.latent}</b> {escape(label)}"
        self.relative.disabled = False
        self.slider.low, self.slider.high, self.slider.marks = -measure.reach, measure.reach, measure.marks
        self.calibrate.disabled = measure.calibrated is None
        known = measure.calibrated is not None
        self.calibrate.description = f"calibrated {measure.calibrated:.0f}" if known else "not calibrated"
        self.set_strength(self.raw.value)

    def set_strength(self, strength: float) -> None:
        """Set all three controls to a raw strength."""
        if self._is_setting or self.measure is None:
            return
        self._is_setting = True
        self.slider.value = self.raw.value = float(f"{strength:.6g}")
        self.relative.value = float(f"{strength * self.measure.relative:.4g}")
        self._is_setting = False

    def pick(self) -> Pick:
        """The line as it stands.

        Raises:
            StateError: a strength that no answer survives.
        """
        return Pick(latent=self.latent, strength=float(self.raw.value), share=float(self.share.value))


class Finder:
    """Search by words of the label or by a sentence, filters, and the list of what was found.

    Args:
        on_search: asked for a new list when text, way or filters change.
        on_choose: told the latent that is highlighted.
        on_pick: told the latent that is picked.
    """

    WAYS = (("label", "label"), ("text it fires on", "sentence"))

    def __init__(
        self,
        *,
        on_search: Callable[[], None],
        on_choose: Callable[[int], None],
        on_pick: Callable[[int], None],
    ):
        self.way = w.Dropdown(options=self.WAYS, description="search by", layout=WIDE, style=LABELLED)
        self.text = w.Text(description="words", placeholder="jazz, or a number", layout=WIDE, style=LABELLED)
        self.text.continuous_update = False
        self.density = _range("density %", "share of corpus tokens on which a latent fires, in percent")
        self.concreteness = _range("concrete", "how much a latent keeps to few topics, from 0 to 100")
        self.found = w.Select(description="found", rows=7, layout=WIDE, style=LABELLED)
        self.count = w.HTML(layout=w.Layout(margin=INDENT))
        self.add = w.Button(description="Pick this latent", icon="plus", layout=w.Layout(margin=INDENT))
        for control in (self.way, self.text, *self.density, *self.concreteness):
            control.observe(lambda change: on_search(), "value")
        self.found.observe(lambda change: self._with_found(on_choose), "value")
        self.add.on_click(lambda button: self._with_found(on_pick))
        ranges = [w.HBox(ends, layout=WRAPPED) for ends in (self.density, self.concreteness)]
        parts = [self.way, self.text, *ranges, self.found, self.count, self.add]
        self.root = w.VBox(parts, layout=w.Layout(flex="1 1 420px", min_width="0"))

    def filters(self) -> dict[str, tuple[float, float]]:
        """Ranges of density (a share of tokens) and of concreteness (0 to 100)."""
        percent = tuple(end.value / 100 for end in self.density)
        return {"density": percent, "concreteness": tuple(end.value for end in self.concreteness)}

    def list(self, found: pd.DataFrame, *, n: int) -> None:
        """Show the first ``n`` of what was found."""
        self.found.options = options(found, n=n)
        self.found.value = None
        listed = f", the first {n} listed" if len(found) > n else ""
        self.count.value = f"{len(found)} latents{listed}" if len(found) else "none; try another word or wider filters"

    def _with_found(self, call: Callable[[int], None]) -> None:
        if self.found.value is not None:
            call(self.found.value)


def _range(name: str, tooltip: str) -> tuple[w.BoundedFloatText, w.BoundedFloatText]:
    """Boxes for both ends of a filter from 0 to 100."""
    return tuple(
        w.BoundedFloatText(
            description=text, min=0, max=100, value=value, step=1, tooltip=tooltip, layout=HALF, style=LABELLED
        )
        for text, value in ((f"{name} from", 0), (f"{name} to", 100))
    )


def escape(text: str) -> str:
    """A label as it can stand in HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
