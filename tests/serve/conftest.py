import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from tests.models.moshi.reference import tiny_model
from tests.serve.house import house


@pytest.fixture(scope="session")
def model():
    return tiny_model()


@pytest.fixture
def here(model):
    with house(model) as running:
        yield running
