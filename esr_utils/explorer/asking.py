"""Controls for the question and how it is answered, and for states as text."""

from collections.abc import Callable, Sequence

import ipywidgets as w

from esr_utils.explorer.kept import Prepared
from esr_utils.explorer.picking import HALF, INDENT, LABELLED, WIDE, WRAPPED, escape
from esr_utils.explorer.slider import Slider
from esr_utils.explorer.state import LARGEST, Pick, State
from esr_utils.meta_prompting import load_meta_prompts
from esr_utils.prompts import SPLITS, load_prompts
from esr_utils.scales.meta_prompting import KINDS

SCOPES = (("question and answer", "all"), ("answer only", "generated"))


class Settings:
    """Everything of a state but the picked latents.

    Args:
        on_pair: called when another subject is chosen.
    """

    def __init__(self, pairs: Sequence[str], *, on_pair: Callable[[], None]):
        self.pair = w.Dropdown(description="subject", options=list(pairs), layout=WIDE, style=LABELLED)
        self.split = w.Dropdown(
            description="questions", options=SPLITS, value="evaluation", layout=HALF, style=LABELLED
        )
        self.question = w.Dropdown(description="ask", options=load_prompts("evaluation"), value=None)
        self.question.layout, self.question.style = HALF, LABELLED
        self.prompt = w.Textarea(description="prompt", rows=2, layout=WIDE, style=LABELLED)
        self.meta_prompt = w.Dropdown(description="suffix", options=KINDS, layout=HALF, style=LABELLED)
        self.wording = w.BoundedIntText(
            description="wording",
            tooltip="number of the wording of the suffix",
            min=0,
            max=LARGEST,
            layout=HALF,
            style=LABELLED,
        )
        self.suffix = w.HTML(layout=w.Layout(margin=INDENT))
        self.seed = w.BoundedIntText(
            description="seed", tooltip="seed of the three answers", min=0, max=LARGEST, layout=HALF, style=LABELLED
        )
        self.temperature = w.BoundedFloatText(
            description="temperature", tooltip="0 is greedy", min=0, max=10, step=0.1, layout=HALF, style=LABELLED
        )
        self.n_tokens = w.BoundedIntText(
            description="tokens", tooltip="most tokens of an answer", min=1, max=LARGEST, layout=HALF, style=LABELLED
        )
        self.scope = w.Dropdown(description="edits on", options=SCOPES, layout=HALF, style=LABELLED)
        self._make_share()
        self._connect(on_pair)
        self.root = self._laid_out()

    def _make_share(self) -> None:
        """The share of the detectors that is ablated, as a number and as a slider."""
        self.share = w.BoundedFloatText(description="detectors", min=0, max=1, step=0.05, style=LABELLED)
        self.share.layout, self.share.tooltip = w.Layout(width="190px"), "share of the detectors that is ablated"
        self.slider = Slider(name="share of the detectors that is ablated", low=0, high=1, step=0.05)
        self.slider.marks = [("0", 0.0), ("half", 0.5), ("1", 1.0)]
        self.slider.layout = w.Layout(flex="1 1 160px")
        w.link((self.slider, "value"), (self.share, "value"))

    def _laid_out(self) -> w.VBox:
        pairs_of = [
            (self.split, self.question),
            (self.meta_prompt, self.wording),
            (self.seed, self.temperature),
            (self.n_tokens, self.scope),
        ]
        lines = [w.HBox(both, layout=WRAPPED) for both in pairs_of]
        share = w.HBox([self.share, self.slider], layout=WRAPPED)
        parts = [self.pair, lines[0], self.prompt, lines[1], self.suffix, *lines[2:], share]
        return w.VBox(parts, layout=w.Layout(flex="1 1 420px", min_width="0"))

    def _connect(self, on_pair: Callable[[], None]) -> None:
        self.split.observe(lambda change: self._list(change["new"]), "value")
        self.question.observe(lambda change: self._ask(change["new"]), "value")
        self.pair.observe(lambda change: on_pair(), "value")
        for control in (self.meta_prompt, self.wording):
            control.observe(lambda change: self._tell_suffix(), "value")

    def set(self, state: State) -> None:
        self.pair.value = state.pair
        self.prompt.value = state.prompt
        self.meta_prompt.value, self.wording.value = state.meta_prompt, state.wording
        self.seed.value, self.temperature.value = state.seed, state.temperature
        self.n_tokens.value, self.scope.value, self.share.value = state.max_new_tokens, state.scope, state.share

    def state(self, picks: Sequence[Pick], colour: str) -> State:
        """What the controls say.

        Raises:
            StateError: an empty prompt, or a number that cannot be.
        """
        return State(
            pair=self.pair.value,
            prompt=self.prompt.value,
            meta_prompt=self.meta_prompt.value,
            wording=self.wording.value,
            picks=tuple(picks),
            share=float(self.share.value),
            seed=self.seed.value,
            temperature=float(self.temperature.value),
            max_new_tokens=self.n_tokens.value,
            scope=self.scope.value,
            colour=colour,
        )

    def _tell_suffix(self) -> None:
        texts = load_meta_prompts().get(self.meta_prompt.value, [""])
        self.suffix.value = escape(texts[self.wording.value % len(texts)])

    def _list(self, split: str) -> None:
        self.question.options = load_prompts(split)
        self.question.value = None

    def _ask(self, question: str | None) -> None:
        if question:
            self.prompt.value = question


class Saving:
    """States as text, prepared states, and what becomes of a run that is worth keeping."""

    def __init__(self, gallery: Sequence[Prepared]):
        titles = [(one.title, i) for i, one in enumerate(gallery)]
        self.gallery = w.Dropdown(description="prepared", options=titles, value=None, layout=WIDE, style=LABELLED)
        self.text = w.Textarea(description="state", rows=2, layout=WIDE, style=LABELLED)
        self.as_string = w.Button(description="State as string", icon="link")
        self.as_json = w.Button(description="State as JSON", icon="code")
        self.load = w.Button(description="Load this state", icon="upload")
        self.page = w.Button(description="Save as page", icon="file-code-o", tooltip="one HTML file that stands alone")
        self.keep = w.Button(description="Keep trial", icon="save", tooltip="add the answers to the results folder")
        buttons = [self.as_string, self.as_json, self.load, self.page, self.keep]
        row = w.HBox(buttons, layout=w.Layout(flex_flow="row wrap", margin=INDENT))
        self.root = w.VBox([self.text, row])
