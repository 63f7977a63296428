"""A slider with marks on it."""

import anywidget
import traitlets as t

from esr_utils.explorer.view import text_of


class Slider(anywidget.AnyWidget):
    """A value beyond the ends is kept as it is and shown at the end.

    The sliders of ipywidgets have no marks and no names for screen readers, and send back what they were set to
    rounded to a step.

    Traits:
        low, high: the ends; as long as they are equal nothing can be moved.
        step: between two values that can be reached; 0 for any.
        marks: texts under the slider with the values at which they stand.
        name: what screen readers say.
    """

    _esm = text_of("slider.js")
    _css = text_of("view.css")
    value = t.Float().tag(sync=True)
    low = t.Float().tag(sync=True)
    high = t.Float().tag(sync=True)
    step = t.Float().tag(sync=True)
    marks = t.List(t.Tuple(t.Unicode(), t.Float())).tag(sync=True)
    name = t.Unicode().tag(sync=True)
