import sys

import pytest

from aizuchi.errors import AizuchiError, MissingDependencyError, require


def test_require_returns_the_module():
    import json.decoder

    assert require("json.decoder", extra="eval") is json.decoder


def test_require_names_the_extra_when_the_package_is_absent():
    with pytest.raises(
        MissingDependencyError, match=r"no_such_package is needed .* 'aizuchi\[eval\]'"
    ) as caught:
        require("no_such_package.part", extra="eval")
    assert isinstance(caught.value, AizuchiError) and isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    "source, message",
    [
        ("import a_package_it_needs", "needs a_package_it_needs, which is not"),
        ("raise OSError('PortAudio library not found')", "does not load: PortAudio library not found"),
        ("raise ImportError('symbol missing')", "does not load: symbol missing"),
    ],
)
def test_require_tells_a_broken_package_from_an_absent_one(tmp_path, monkeypatch, source, message):
    (tmp_path / "broken_package_for_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=message):
        require("broken_package_for_test", extra="talk")
    assert "broken_package_for_test" not in sys.modules
