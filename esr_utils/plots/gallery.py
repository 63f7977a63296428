"""``figures/index.html``: every figure with its question and its numbers, as one static page.

The page is kept by git and must say the same everywhere, while svg, pdf and interactive pages are there only where
figures were drawn. So links to them come from a script beside them, which the page asks for and can do without.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from esr_utils.plots.captions import CAPTIONS, NOT_DRAWN

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --ground: #ffffff; --soft: #5a5a5a; --line: #d0d0d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --ground: #161616; --soft: #a8a8a8; --line: #444444; }
}
body { color: var(--ink); background: var(--ground); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
a { color: inherit; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
figure { margin: 2.5rem 0; }
figcaption { color: var(--soft); }
img { background: #ffffff; border: 1px solid var(--line); max-width: 100%; padding: 0.5rem; box-sizing: border-box; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
.claims td:nth-child(2) { min-width: 13rem; }
.claims td:nth-child(3), .claims td:nth-child(5) { min-width: 11rem; }
@media (min-width: 75rem) { .claims { margin-inline: calc((60rem - min(96vw, 96rem)) / 2); } }
th, td { border-bottom: 1px solid var(--line); padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; }
""".strip()
INTRODUCTION = (
    "Everything here is drawn from committed files by <code>make figures</code>. Published numbers are open marks; "
    "their intervals, where a number of trials was published, are worked out from rounded rates as if trials were "
    "independent. Ours are filled, with intervals that allow for shared latents and questions; they are of a chat "
    "model of 135 million parameters (the base) and of the same model fine-tuned to restart (the corrector). Models, "
    "judges and questions differ between the two. <em>Several attempts</em>: the response openly starts again. "
    "<em>ESR</em>: and its last attempt scores above its first."
)
FURTHER = (
    "<code>make figures</code> also writes each picture as svg and pdf beside its png, and a few of them as "
    "interactive pages that tell the numbers under the pointer. Git does not keep these; where they are there, each "
    "caption links its own."
)
INTERACTIVE = "interactive"  # folder beside the page
LINKS = f"{INTERACTIVE}/links.js"
SCRIPT = """
for (const [name, files] of Object.entries(links)) {
  const caption = document.querySelector(`#${name} figcaption`);
  for (const [word, file] of caption ? files : []) {
    const link = document.createElement("a");
    link.href = file;
    link.textContent = word;
    caption.append(" ", link);
  }
}
""".lstrip()
COLUMNS = {
    "section": "section",
    "claim": "claim",
    "published": "published",
    "who": "of ours",
    "ours": "measured",
    "verdict": "verdict",
}


def page(parts: Mapping[str, Sequence[str]], folder: Path, claims: pd.DataFrame | None) -> str:
    """The page: headings with the names of their figures; those missing in ``folder`` are said to be missing."""
    body = [f"<h1>Figures</h1>\n<p>{INTRODUCTION}</p>\n<p>{FURTHER}</p>"]
    for heading, names in parts.items():
        body.append(f"<h2>{escape(heading)}</h2>")
        body += [_figure(name, folder) for name in names]
    body.append(
        f"<h2>The paper's figures that are not drawn</h2>\n{_table(pd.DataFrame(NOT_DRAWN.items()), header=())}"
    )
    if claims is not None:
        body.append(f"<h2>Claims</h2>\n{_claims(claims)}")
    body.append(f'<script src="{LINKS}"></script>')
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>Figures</title>'
    return f'<!doctype html>\n<html lang="en">\n{head}\n<style>\n{STYLE}\n</style>\n' + "\n".join(body) + "\n</html>\n"


def links_script(names: Sequence[str], folder: Path) -> str:
    """A script that adds to the captions of the page what else there is of each figure in ``folder``."""
    kinds = {"svg": "{}.svg", "pdf": "{}.pdf", "interactive": f"{INTERACTIVE}/{{}}.html"}
    links = {}
    for name in names:
        files = [(word, path.format(name)) for word, path in kinds.items()]
        links[name] = [(word, path) for word, path in files if (folder / path).is_file()]
    return f"const links = {json.dumps(links, indent=1)};\n{SCRIPT}"


def _figure(name: str, folder: Path) -> str:
    question, shows = (escape(words) for words in CAPTIONS[name])
    if not (folder / f"{name}.png").is_file():
        return f"<h3>{question}</h3>\n<p>{name} could not be drawn; run <code>make figures</code> to see why.</p>"
    image = f'<img src="{name}.png" alt="{question}" loading="lazy">'
    caption = f'<figcaption>{shows} <a href="{name}.csv">{name}.csv</a></figcaption>'
    return f'<h3>{question}</h3>\n<figure id="{name}">\n<a href="{name}.png">{image}</a>\n{caption}\n</figure>'


def _claims(claims: pd.DataFrame) -> str:
    told = "The verdict follows from our interval by a rule of the claim: see <code>esr_utils/claims.py</code>."
    table = _table(claims[list(COLUMNS)], header=tuple(COLUMNS.values())).replace('"wide"', '"wide claims"', 1)
    return f'<p>{told} <a href="paper_claims.csv">paper_claims.csv</a></p>\n{table}'


def _table(frame: pd.DataFrame, *, header: Sequence[str]) -> str:
    """A table of texts."""
    head = "".join(f"<th>{escape(word)}</th>" for word in header)
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in frame.itertuples(index=False)]
    body = "\n".join(f"<tr>{line}</tr>" for line in ([head] if head else []) + lines)
    return f'<div class="wide"><table>\n{body}\n</table></div>'
