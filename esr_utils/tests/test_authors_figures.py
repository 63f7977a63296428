"""From a result file of the authors' code to Figs 2 to 5; the files are made here in their schema, trials made up."""

import json
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from esr_utils import authors_figures
from esr_utils.authors import import_authors
from esr_utils.beside import AUTHORS
from esr_utils.config import DATA
from esr_utils.plots import style

N_LATENTS, N_TRIALS = 1000, 5
MODEL = "meta-llama/Llama-3.3-70B-Instruct"
BOOSTS = (0.0, 4.0, 7.0, 10.0, 13.0)


def trial(rng: np.random.Generator, named: dict, *, threshold: float, p_multi: float) -> dict:
    n_attempts = 2 if rng.random() < p_multi else 1
    parts = [f"Attempt {i} at the question." for i in range(n_attempts)]
    attempts = [{"attempt_text": part, "score": int(rng.integers(0, 101))} for part in parts]
    score = {"raw_response": "", "attempts": attempts}
    seed, prompt = int(rng.integers(1e6)), f"Question {rng.integers(38)}?"
    known = {"prompt": prompt, "threshold": threshold, "seed": seed, "response": " ".join(parts), "error": None}
    return named | known | {"score": score}


def write(path, *, seed: int, p_multi: float, is_sweep: bool = False, config: dict | None = None, **content) -> None:
    """A whole file: 1,000 latents with five trials each, at their own strength or at five that all share."""
    rng, features = np.random.default_rng(seed), []
    for latent in range(N_LATENTS):
        named = {"feature_index_in_sae": latent, "feature_label": f"label {latent}"}
        own = float(np.random.default_rng(latent).normal(7, 1))
        boosts = BOOSTS if is_sweep else [own] * N_TRIALS
        trials = [trial(rng, named, threshold=boost, p_multi=p_multi) for boost in boosts]
        features.append(named | {"threshold": own, "error": None, "trials": trials})
    head = {"experiment_config": {"model_name": MODEL, **(config or {})}, "results_by_feature": features}
    path.write_text(json.dumps(head | content))


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> dict[str, pd.DataFrame]:
    """Trials of four files: the main experiment, a sweep, a meta-prompt and an ablation."""
    folder = tmp_path_factory.mktemp("authors")
    write(folder / "main.json", seed=0, p_multi=0.08)
    write(folder / "sweep.json", seed=1, p_multi=0.05, is_sweep=True)
    write(folder / "meta.json", seed=2, p_multi=0.3, config={"prompt_variant_id": "self_monitor"})
    write(folder / "ablated.json", seed=3, p_multi=0.04, ablated_latents=[1, 2], num_ablated_latents=2)
    return {path.stem: import_authors(path).trials for path in folder.iterdir()}


@pytest.fixture(scope="module")
def given(trials) -> dict[str, pd.DataFrame]:
    """What each figure is drawn from."""
    both = {"fig4": ["main", "meta"], "fig5": ["main", "ablated"]}
    together = {name: pd.concat([trials[part] for part in parts]) for name, parts in both.items()}
    return {"fig2": trials["main"], "fig3": trials["sweep"], **together}


@pytest.fixture(scope="module")
def frames(given) -> dict[str, pd.DataFrame]:
    """What each figure draws; making it took less than ten seconds of one core."""
    made = {}
    for name, (_, make_frame) in authors_figures.FIGURES.items():
        begun = time.process_time()
        made[name] = make_frame(given[name])
        assert time.process_time() - begun < 10, name
    return made


@pytest.mark.parametrize("name", authors_figures.FIGURES)
def test_a_thousand_latents_are_drawn_as_the_authors_and_not_as_ours(name, given, frames):
    assert given[name].groupby("condition").size().ge(N_LATENTS).all()
    assert set(frames[name]["origin"]) == {"paper", AUTHORS}
    figure = authors_figures.FIGURES[name][0](frames[name])
    told = " ".join(text.get_text() for text in figure.findobj(plt.Text))
    assert f"filled, solid: {AUTHORS}" in told
    assert "ours" not in told
    plt.close(figure)


def test_rates_are_those_of_the_file(given, frames):
    trials, frame = given["fig2"], frames["fig2"]
    mine = frame[frame["origin"] == AUTHORS].set_index("panel")
    assert set(mine["who"]) == {"authors' code, Llama 70B"}
    assert mine.loc["multi_attempt", ["n_events", "n"]].to_list() == [trials["is_multi"].sum(), 5000]
    assert mine.loc["esr", "value"] == trials["is_improved"].mean()
    assert mine.loc["improvement", "n"] == trials["is_multi"].sum()
    assert (mine["ci_low"] < mine["value"]).all()
    assert (mine["value"] < mine["ci_high"]).all()


def test_a_sweep_is_told_in_deviations_from_the_mean_strength(frames):
    frame = frames["fig3"]
    x = frame.loc[(frame["origin"] == AUTHORS) & (frame["panel"] == "esr"), "x"].to_numpy()
    own = np.array([np.random.default_rng(latent).normal(7, 1) for latent in range(N_LATENTS)])
    assert x == pytest.approx((np.array(BOOSTS) - own.mean()) / own.std(), abs=0.01)


def test_arms_are_told_apart(frames):
    meta = frames["fig4"].query("origin == @AUTHORS and panel == 'multi_attempt'")
    assert meta.set_index("arm")["value"].to_dict() == pytest.approx(
        {"no meta-prompt": 0.08, "self-monitoring": 0.3}, abs=0.02
    )
    ablated = frames["fig5"].query("origin == @AUTHORS and panel == 'multi_attempt'")
    names = ["authors' code, Llama 70B: nothing", "authors' code, Llama 70B: ablated"]
    assert ablated["who"].to_list() == names
    assert ablated["value"].to_list() == pytest.approx([0.08, 0.04], abs=0.02)


@pytest.mark.parametrize(
    ("name", "part", "told"),
    [
        ("fig3", "main", r"\d+ strengths in the trials, and a sweep has 2 to 30; give a file of a sweep"),
        ("fig4", "main", "no trial is self_monitor at its latent's own strength; conditions are steered: add such"),
        ("fig5", "meta", "no trial is steered at its latent's own strength; conditions are self_monitor"),
    ],
)
def test_a_file_of_another_kind_is_told(trials, name, part, told):
    with pytest.raises(ValueError, match=told):
        authors_figures.FIGURES[name][1](trials[part])


def test_the_committed_example_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "figures_dir", lambda scale: tmp_path)
    results = import_authors(DATA / "published" / "authors_example.json")
    path = authors_figures.draw("fig2", results.trials, scale="quick")
    assert path.stat().st_size > 10_000
    frame = pd.read_csv(path.with_suffix(".csv"))
    assert set(frame.loc[frame["origin"] == AUTHORS, "who"]) == {"authors' code, made-up example"}
    assert results.lost_latents == []


def test_drawing_the_authors_files_imports_no_torch():
    code = "import sys, esr_utils.authors, esr_utils.authors_figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
