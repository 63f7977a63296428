"""``python -m esr_utils.plots``: draw every figure again from committed results, without torch."""

from esr_utils.config import results_dir
from esr_utils.plots import RESULTS, RUNS, draw_result, use_style


def main() -> None:
    use_style()
    for name in RESULTS:
        run = RUNS[name.split("_")[0]]
        draw_result(name, results_dir("smollm2-135m", run, "standard"), scale="standard")


if __name__ == "__main__":
    main()
