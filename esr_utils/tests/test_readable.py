"""Tables for reading: p-values in words, numbers rounded, the frame itself unchanged."""

import pandas as pd
import pytest

from esr_utils import readable


@pytest.mark.parametrize(
    ("p", "told"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.0123, "0.012"), (1.0, "1.000"), (float("nan"), "")],
)
def test_a_small_p_is_a_bound_and_never_zero(p, told):
    assert readable.p_value(p) == told


def test_a_table_is_rounded_and_renamed_and_its_p_told():
    frame = pd.DataFrame({"name": ["a"], "rate_first": [0.12345], "mcnemar_p": [1e-9], "p": [0.25]})
    shown = readable.table(frame, decimals=2, names={"rate_first": "rate, none"})
    assert shown.to_dict("records") == [{"name": "a", "rate, none": 0.12, "mcnemar_p": "< 0.001", "p": "0.250"}]
    assert frame["mcnemar_p"].tolist() == [1e-9]
