"""A small panel: pick a latent, a strength and a question, and see the steered answer beside the unsteered one."""

import html

import ipywidgets as w
import pandas as pd

from esr_utils.engines.base import Engine
from esr_utils.judging import Score
from esr_utils.latents import search_labels
from esr_utils.steering import Sampling
from esr_utils.sweep import strength_sweep

N_FOUND = 40


class SteeringPanel:
    """Controls around one call of ``strength_sweep``. ``run()`` works without a front end; ``view`` shows it."""

    def __init__(self, engine: Engine, score: Score, labels: pd.DataFrame, *, max_strength: float):
        self.engine, self.score, self.labels = engine, score, labels
        wide = w.Layout(width="95%")
        self.search = w.Text(description="search", placeholder="a word of the label", layout=wide)
        self.latent = w.Dropdown(description="latent", layout=wide)
        self.strength = w.FloatSlider(description="strength", max=max_strength, step=1, value=max_strength / 2)
        self.question = w.Text(description="question", value="How do you make a simple vegetable soup?", layout=wide)
        self.n_tokens = w.IntSlider(description="tokens", min=8, max=256, value=64)
        self.button = w.Button(description="Answer", button_style="primary", icon="play")
        self.output = w.HTML(layout=wide)
        self.search.observe(lambda change: self._list(), "value")
        self.button.on_click(lambda button: self._show())
        self._list()
        controls = [self.search, self.latent, self.strength, self.question, self.n_tokens, self.button]
        self.view = w.VBox([*controls, self.output])

    def run(self) -> pd.DataFrame:
        """Answers to the question at strength 0 and at the chosen one; same seed, same settings.

        Raises:
            ValueError: no latent is chosen, or the engine refuses the question or the strength.
        """
        if self.latent.value is None:
            raise ValueError(f"no latent matches {self.search.value!r}; search for another word")
        return strength_sweep(
            self.engine,
            self.score,
            latents=[self.latent.value],
            strengths=[0.0, self.strength.value],
            questions=[self.question.value],
            sampling=Sampling(max_new_tokens=self.n_tokens.value),
        )

    def _list(self) -> None:
        found = search_labels(self.labels, self.search.value).head(N_FOUND)
        self.latent.options = [(f"{latent}: {row.label}", int(latent)) for latent, row in found.iterrows()]
        self.latent.index = 0 if len(found) else None

    def _show(self) -> None:
        self.button.disabled = True
        try:
            self.output.value = "".join(_card(row) for row in self.run().itertuples())
        except ValueError as error:  # what the engine says of a bad question or strength, in one sentence
            self.output.value = f"<p role='alert'>{html.escape(str(error))}</p>"
        finally:
            self.button.disabled = False


def _card(row) -> str:
    name = f"strength {row.strength:g}" if row.strength else "unsteered"
    facts = f"topicality {row.topicality:.0f}, activation of the latent {row.activation:.1f}"
    text = html.escape(row.response).replace("\n", "<br>")
    return f"<h4>{name}</h4><p><small>{facts}</small></p><p>{text}</p>"
