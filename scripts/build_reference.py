"""Build the API reference from the docstrings, as web pages that need no network. Run by `make docs`.

    python scripts/build_reference.py FOLDER

Out: FOLDER/index.html, and a page each for what `import vitrail` offers, the settings and the recipes.
"""

import sys
from pathlib import Path

import pdoc
import pdoc.render

import vitrail

PAGES = ("vitrail", "vitrail.config", "vitrail.recipes")


def main(folder: Path) -> None:
    for name in vitrail.__all__:  # they load on first use, and pdoc looks only at what is there
        setattr(vitrail, name, getattr(vitrail, name))
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"vitrail {vitrail.__version__}")
    pdoc.pdoc("vitrail", r"!vitrail\..*", *PAGES[1:], r"!vitrail\.recipes\..*", output_directory=folder)
    print(f"{folder / 'vitrail.html'}: {len(vitrail.__all__)} names")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
