"""A comparison of two models as a page."""

from markupsafe import Markup

from vitrail.reporting.comparison import Comparison
from vitrail.reporting.images import Images
from vitrail.reporting.page.html import style_and_script, template
from vitrail.reporting.page.pictures import pictures_of

MOST_CLASSES = 50
"""Rows of the table; all of them are in the JSON file."""


def render_comparison(found: Comparison, images: Images | str, *, with_images: bool = True) -> str:
    """The text of the HTML file: same comparison, same bytes.

    Args:
        images: where they are, or why they are not to be had.
        with_images: False: no picture of any image.
    """
    style, script, policy = style_and_script()
    ids = [one.id for one in (*found.fixed, *found.broken)]
    return template("comparison.html.j2").render(
        found=found,
        style=Markup(style),
        script=Markup(script),
        policy=policy,
        classes=found.per_class[:MOST_CLASSES],
        pictures=pictures_of(images, ids) if with_images else {},
    )
