"""One exported file and one server for the tests that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import Served, exported_file, served


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the package, exported."""
    return exported_file(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def server(model_file: Path) -> Iterator[Served]:
    """A server that outlives the tests of this room."""
    with served(model_file, "--max-images", "4", "--max-body", "2MB", "--decoders", "2") as found:
        yield found
        assert "internal error" not in found.log.read_text()
