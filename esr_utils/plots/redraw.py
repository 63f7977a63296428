"""Draw every figure again from committed files; what cannot be drawn is told, and the others are drawn all the same."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from esr_utils.claims import answers
from esr_utils.config import figures_dir
from esr_utils.journal import JournalError
from esr_utils.plots import PAPER, RESULTS, committed_folder, draw_paper, draw_result, gallery, interactive, use_style
from esr_utils.plots.style import FORMATS
from esr_utils.result_tables import read_table, short_path

SCALE = "standard"
PARTS = {
    "The paper's figures, tables and later controls": tuple(PAPER),
    "The kit's own": tuple(RESULTS),
}


def jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """Name of every figure, and a call that draws it in every format."""
    for name in RESULTS:
        yield name, partial(_draw_own, name)
    for name in PAPER:
        yield name, partial(draw_paper, name, scale=SCALE, formats=FORMATS)


def _draw_own(name: str) -> None:
    """One of the kit's own figures and, where it has one, its interactive twin."""
    folder = committed_folder(name)
    draw_result(name, folder, scale=SCALE, formats=FORMATS)
    if name in interactive.TWINS:
        table = read_table(folder, RESULTS[name][1][0])
        interactive.write(name, table, figures_dir(SCALE) / gallery.INTERACTIVE)


def redraw() -> list[str]:
    """Draw all figures and the page that shows them; one sentence for each thing that was wrong, none if all is well.

    Figures that cannot be drawn for the same reason share a sentence; an older picture of them stays where it is.
    """
    use_style()
    folder = figures_dir(SCALE)
    try:
        (folder / gallery.INTERACTIVE).mkdir(parents=True, exist_ok=True)
        (folder / "index.html").touch()
    except OSError as error:
        return [
            f"no figure can be written into {short_path(folder)}: {error.strerror}; make it a folder you may write to."
        ]
    failures: dict[str, list[str]] = {}
    for name, draw in [*jobs(), ("paper_claims", partial(_write_claims, folder))]:
        try:
            draw()
        except (OSError, ValueError, JournalError) as error:
            failures.setdefault(_sentence(error), []).append(name)
            plt.close("all")
    _write_page(folder, has_claims="paper_claims" not in sum(failures.values(), []))
    return [f"{fault} Not drawn: {', '.join(names)}." for fault, names in failures.items()]


def _sentence(error: OSError | ValueError | JournalError) -> str:
    """What is wrong, on one line; of a failure of the file system, the file and its reason."""
    if isinstance(error, OSError) and error.filename:
        return f"{short_path(Path(error.filename))} cannot be read or written: {error.strerror}."
    return " ".join(str(error).split())


def _write_claims(folder: Path) -> None:
    answers().to_csv(folder / "paper_claims.csv", index=False)


def _write_page(folder: Path, *, has_claims: bool) -> None:
    """The page that shows what is in the folder, with the table of claims if it could be made this time."""
    claims = pd.read_csv(folder / "paper_claims.csv", dtype=str, keep_default_na=False) if has_claims else None
    (folder / "index.html").write_text(gallery.page(PARTS, folder, claims), encoding="utf-8")
    script = gallery.links_script([name for names in PARTS.values() for name in names], folder)
    (folder / gallery.LINKS).write_text(script, encoding="utf-8")


def main() -> int:
    """Exit status: 0 if everything was drawn, else 1 with a sentence a fault on stderr."""
    faults = redraw()
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0
