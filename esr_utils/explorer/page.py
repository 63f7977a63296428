"""A run as one HTML file that needs nothing else: no network, no kernel, and its text is there without scripts."""

import html
import json
from pathlib import Path

from esr_utils.explorer.shown import Answer, Shown

FOLDER = Path(__file__).parent
NAMES = {"unsteered": "unsteered", "steered": "steered", "detectors_ablated": "steered, detectors ablated"}
FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body class="esr-page">
<h1>{title}</h1>
{settings}
<div id="esr-view">{plain}</div>
<script type="application/json" id="esr-data">{data}</script>
<script>
{script}
const data = JSON.parse(document.getElementById("esr-data").textContent);
drawPage(document.getElementById("esr-view"), data.shown, data.swept);
</script>
</body>
</html>
"""


def to_html(shown: Shown, *, swept: Shown | None = None) -> str:
    """The answers with their colours, traces and numbers, the state that made them, and a sweep if there is one."""
    answers = [*shown.answers, *(swept.answers if swept else ())]
    data = {"shown": shown.to_dict(), "swept": swept.to_dict() if swept else None}
    return FRAME.format(
        title=html.escape(shown.state.prompt),
        css=(FOLDER / "view.css").read_text(encoding="utf-8"),
        settings=_settings(shown),
        plain="".join(_plain(answer) for answer in answers),
        data=_inert(json.dumps(data, ensure_ascii=False, allow_nan=False)),
        script=(FOLDER / "draw.js").read_text(encoding="utf-8"),
    )


def _settings(shown: Shown) -> str:
    state = shown.state
    picks = [_told_pick(shown, pick) for pick in state.picks]
    lines = [
        f"subject {state.pair}, seed {state.seed}, temperature {state.temperature:g}, "
        f"{state.max_new_tokens} tokens at most, edits on {state.scope} tokens, meta-prompt: {state.meta_prompt}",
        *picks,
        f"detectors ablated by a share of {state.share:g} in the answer that says so",
    ]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul><p>state <code>{html.escape(state.to_string())}</code></p>"


def _told_pick(shown: Shown, pick) -> str:
    label = shown.series.get(f"latent {pick.latent}", "")
    relative = shown.relative.get(pick.latent, 0.0)
    return (
        f"latent {pick.latent} ({label}): strength {pick.strength:g} ({relative:.2f} relative), ablated {pick.share:g}"
    )


def _plain(answer: Answer) -> str:
    scores = ", ".join(f"{score:g}" for score in answer.scores) or "none"
    name = html.escape(NAMES.get(answer.arm, answer.arm))
    return f"<h2>{name}</h2><p>scores: {scores}</p><pre>{html.escape(answer.text)}</pre>"


def _inert(data: str) -> str:
    """JSON in which nothing can end the script element around it."""
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
