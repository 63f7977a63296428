"""What Figs 14 to 21, the tables and the whole-response judge of the paper show, as frames; see ``paper_frames``."""

import pandas as pd

from esr_utils import published
from esr_utils.beside import (
    MODELS,
    NOT_YET,
    PAIR,
    SUBJECTS,
    frame_of,
    is_measured,
    our_lines,
    paper_line,
    result,
    words,
)
from esr_utils.config import DATA, results_dir
from esr_utils.published import ANALYSIS, META_PROMPTS, WHOLE_RESPONSE
from esr_utils.result_tables import read_settings
from esr_utils.scales.meta_prompting import KINDS


def fig14_18() -> pd.DataFrame:
    """Restarts, gradual shifts and recovery of the whole response under each kind of meta-prompt; a panel a model.

    The published ones are those of the whole-response judge: of the attempts under these prompts a picture was
    published, but for the self-monitoring one (Fig 4). The column ``arm`` is the quantity.
    """
    lines = []
    for model, panel in MODELS.items():
        for kind in KINDS:
            for quantity in WHOLE_RESPONSE:
                number = _whole_response(model, META_PROMPTS[kind], quantity) if kind in META_PROMPTS else None
                lines.append(paper_line(panel, kind, number, arm=quantity, note="" if number else "not in the paper"))
    for subject, panel in SUBJECTS.items():
        for kind in KINDS:
            chosen = {"subject": subject, "level": 1.0, "kind": kind}
            for quantity, ours in (("restart", "multi_attempt"), ("recovery", "recovery")):
                (line,) = our_lines("meta_prompting", "by_kind", chosen, panels=(ours,), arm=quantity)
                lines.append(line | {"panel": panel, "who": kind})
    return frame_of(lines)


def _whole_response(model: str, condition: str, quantity: str) -> str:
    """Id of a whole-response rate in the authors' analysis file (their summary rounds some otherwise)."""
    numbers = published.published()
    names = numbers["quantity"].str.removesuffix(" (score>=7)")
    asked = (names == WHOLE_RESPONSE[quantity]) & (numbers["source"] == ANALYSIS)
    found = numbers.index[asked & (numbers["model"] == model) & (numbers["condition"] == condition)]
    if len(found) != 1:
        told = f"{WHOLE_RESPONSE[quantity]} of {model}, {condition}"
        raise ValueError(f"data/published/published.csv has {len(found)} numbers for the {told}; restore it with git.")
    return found[0]


STRETCHES = {"off topic": ("p0106", "p0109"), "on topic": ("p0107", "p0110"), "no correction": ("p0108", None)}
BASELINE = "1 by definition"


def fig20_21() -> pd.DataFrame:
    """Mean activation of the detectors before and after a correction, and over that in answers without one.

    Panels ``activation`` (the paper's) and ``ours`` are of different SAEs, so only ``ratio`` can be compared.
    """
    lines = []
    for who, (mean, ratio) in STRETCHES.items():
        lines += [paper_line("activation", who, mean), paper_line("ratio", who, ratio, note="" if ratio else BASELINE)]
    return frame_of([*lines, *_our_activations()])


def _our_activations() -> list[dict]:
    """The detectors of notebook 03 by stretch, and over that of unsteered answers, once they have been measured."""
    if not is_measured("latent_discovery", "levels"):
        return [words(panel, "ours", NOT_YET, origin="ours") for panel in ("ours", "ratio")]
    table = result("latent_discovery", "levels").query("group == 'detectors'").set_index("where")
    names = {"off_topic": "ours: off topic", "on_topic": "ours: on topic", "unsteered": "ours: unsteered"}
    lines = []
    for where, who in names.items():
        row, known = table.loc[where], {"source": "latent_discovery/levels.csv"}
        ends = {column: row[column] for column in ("ci_low", "ci_high", "n")}
        line = words("ours", who, "", origin="ours") | known | ends
        lines.append(line | {"value": row["mean"], "interval": "95%, t over responses"})
        over = {"value": row["mean"] / table.loc["unsteered", "mean"], "n": row["n"]} | known
        is_base = where == "unsteered"
        lines.append(words("ratio", who, BASELINE if is_base else "", origin="ours") | ({} if is_base else over))
    return lines


LAYERS = {  # who -> numbers of the steering layer and its depth
    "Llama 70B": ("p0001", "p0002"),
    "Llama 8B": ("p0003", "p0004"),
    "Gemma 27B": ("p0009", "p0010"),
    "Gemma 9B": ("p0007", "p0008"),
    "Gemma 2B": ("p0005", "p0006"),
    "Llama 70B, SAE trained": ("p0011", "p0012"),
    "Gemma 27B, tried too": ("p0013", "p0014"),
}


def table1() -> pd.DataFrame:
    """Steering layers and their depth (0 to 1, layer over number of layers). The column ``layer`` is the layer."""
    lines = []
    for who, (layer, depth) in LAYERS.items():
        sae = published.line(layer)["condition"]
        lines.append(paper_line("depth", who, depth, note=sae) | {"layer": int(published.value(layer))})
    norms = result("steering", "resid_norms")
    layer = int(norms.loc[norms["is_steered"], "layer"].iloc[0])
    ours = {"value": layer / len(norms), "layer": layer, "source": "steering/resid_norms.csv"}
    return frame_of([*lines, words("depth", "ours", "trained for this kit", origin="ours") | ours], "layer")


def table2() -> pd.DataFrame:
    """The published 26 latents by falling d: label, Cohen's d, mean activation off and on topic, p, sign group, n."""
    chosen = published.detectors().query("in_paper_26 == 1").sort_values("cohens_d", ascending=False, kind="stable")
    columns = ["latent", "label", "cohens_d", "off_topic_mean", "on_topic_mean", "p", "p_is_bound", "sign_group"]
    return chosen[columns].reset_index(drop=True).assign(n=int(published.line("p0124")["n"]))


SETTINGS = {  # setting -> number of the paper's, and the name of ours
    "LoRA rank": ("p0021", "rank"),
    "LoRA alpha": ("p0022", "alpha"),
    "LoRA dropout": ("p0023", "dropout"),
    "learning rate": ("p0024", "learning_rate"),
    "passes over the data": ("p0025", "n_passes"),
    "examples a batch": ("p0026", "batch_size"),
    "batches a step": ("p0027", ""),
    "longest example (tokens)": ("p0028", "max_tokens"),
    "warm-up steps": ("p0029", "warmup_steps"),
    "share for validation (%)": ("p0030", ""),
    "mixes tried": ("p0031", "n_shares"),
}


def table3() -> pd.DataFrame:
    """Settings of the fine-tuning: setting, paper, sweep (arms of notebook 06), corrector. ``-``: not a setting."""
    sweep = read_settings(results_dir(PAIR, "fine_tuning", "standard") / "run.json")
    sweep |= {"n_shares": len([share for share in sweep.get("shares", ()) if share])}
    corrector = read_settings(DATA / "embedded" / "corrector" / "training.json")
    lines = []
    for setting, (number, name) in SETTINGS.items():
        paper = f"{published.value(number):g}"
        ours = [f"{known[name]:g}" if name in known else "-" for known in (sweep, corrector)]
        lines.append((setting, paper, *ours))
    return pd.DataFrame(lines, columns=["setting", "paper", "sweep", "corrector"])


def whole_response() -> pd.DataFrame:
    """Rates of the whole-response judge: five models, the ablation, and ours."""
    lines = []
    for model, who in MODELS.items():
        lines += [paper_line(q, who, _whole_response(model, "whole-response judge", q)) for q in WHOLE_RESPONSE]
    more = {"Llama 70B, summary": "p0279", "Llama 8B, summary": "p0280", "Llama 70B, ablated": "p0282"}
    lines += [paper_line("recovery", who, number) for who, number in more.items()]
    for subject in SUBJECTS:
        chosen = {"subject": subject, "condition": "steered"}
        restart, recovery = our_lines("esr_detection", "rates", chosen, panels=("multi_attempt", "recovery"))
        lines += [restart | {"panel": "restart"}, recovery]
    return frame_of(lines)
