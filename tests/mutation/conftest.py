"""The subjects of one session, and what was found in each mutation of them."""

import pytest

from tests.mutation.laboratory import Laboratory


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("mutation"))
