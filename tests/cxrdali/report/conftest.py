"""Every figure on every page that these tests make names its axes."""

import pytest
from matplotlib import rc_context

from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.svg import STYLE
from tests.cxrdali.report.pages import check_axes


@pytest.fixture(scope="session", autouse=True)
def axes_of_every_figure():
    inline = Figure.svg

    def checked(figure: Figure) -> str:
        with rc_context(STYLE):
            check_axes(figure.draw(*figure.shown))
        return inline(figure)

    Figure.svg = checked
    yield
    Figure.svg = inline
