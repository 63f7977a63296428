"""``python -m esr_utils.plots``: draw every figure again from committed results, without torch."""

from esr_utils.plots import RESULTS, committed_folder, draw_result, use_style


def main() -> None:
    use_style()
    for name in RESULTS:
        draw_result(name, committed_folder(name), scale="standard")


if __name__ == "__main__":
    main()
