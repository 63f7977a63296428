"""``python -m esr_utils.plots``: draw every figure again from committed results, without torch."""

import sys

from esr_utils.plots.redraw import main

if __name__ == "__main__":
    sys.exit(main())
