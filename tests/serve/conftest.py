import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from tests.models.moshi.reference import tiny_model  # noqa: E402
from tests.serve.house import house  # noqa: E402


@pytest.fixture(scope="session")
def model():
    return tiny_model()


@pytest.fixture
def here(model):
    with house(model) as running:
        yield running
