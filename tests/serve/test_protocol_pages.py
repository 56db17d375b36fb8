"""The examples of the protocols' pages, run as they stand against a real server."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from aizuchi.engine import Sampling
from tests.serve.house import FRAME, engine_alone, speech, wait_for
from tests.test_docs import FENCE

PAGES = Path(__file__).parents[2] / "docs/protocols"


@pytest.mark.parametrize(("name", "scheme"), [("plain", "ws"), ("openai", "http")])
def test_the_example_of_a_page_holds_a_conversation(here, model, capsys, name, scheme):
    pytest.importorskip("openai")
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    (code,) = [code for language, _, code in FENCE.findall(text) if language == "python"]
    namespace = {}
    exec(compile(code, name, "exec"), namespace)
    sent = speech(6, seed=8)
    said = asyncio.run(namespace["main"](sent.tobytes(), f"{scheme}://127.0.0.1:{here.port}"))
    wait_for(lambda: here.scheduler.live == 0)
    alone = engine_alone(model, here.only_heard(), Sampling(seed=1))
    assert np.array_equal(np.frombuffer(said, "<i2").reshape(-1, FRAME), alone)
    assert np.array_equal(here.only_heard(), sent) and len(capsys.readouterr().out.strip()) > 3
