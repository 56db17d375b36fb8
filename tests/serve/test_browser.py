"""A real browser with a microphone fed from a wav file: it talks, draws, drops, resumes, and every sample is right."""

import asyncio
import base64
import json

import numpy as np
import pytest
import soundfile
import soxr

from aizuchi.engine import Sampling
from tests.serve.browser import CHROMIUM, browse
from tests.serve.house import FRAME, engine_alone, house, plain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
STATE = "document.documentElement.dataset.state"
BYTES = """(() => { let s = ""; for (const f of aizuchi.tape.model) for (const b of new Uint8Array(f.buffer))
    s += String.fromCharCode(b); return btoa(s); })()"""
INK = """(() => { const c = document.querySelector("#timeline"), g = c.getContext("2d");
    const rows = [0.2, 0.75].map((y) => g.getImageData(0, Math.round(c.height * y) - 20, c.width, 40).data);
    return rows.map((d) => { let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 200; return n; }); })()"""


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    """The example question and ten seconds of silence, as the browser's microphone."""
    from pathlib import Path

    question, rate = soundfile.read(Path(__file__).parents[2] / "examples/question.flac", dtype="float32")
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    wave = np.concatenate([soxr.resample(question, rate, 48000), np.zeros(480000, np.float32)])
    soundfile.write(path, wave, 48000, subtype="PCM_16")
    return path


def test_a_person_talks_drops_and_comes_back(model, microphone, tmp_path):
    async def visit(here):
        async with browse(here.url, microphone) as tab:
            await tab.until("document.querySelector('#model').textContent.includes('tiny')")
            assert "random weights" in await tab.run("document.querySelector('#notices').textContent")
            assert "synthetic" in await tab.run("document.querySelector('footer').textContent")
            await tab.run("document.querySelector('#seed').value = '17'")
            await tab.run("document.querySelector('#talk').click()")
            await tab.until(f"{STATE} === 'talking' && aizuchi.tape.frames > 25")
            assert (await tab.run("document.querySelector('#words').textContent")).strip()
            await tab.look(tmp_path / "talking.png")
            model_ink, user_ink = await tab.run(INK)
            assert model_ink > 500 and user_ink > 200  # bars in both lanes, not just lines
            before = await tab.run("aizuchi.tape.frames")
            await tab.run("aizuchi.call.socket.close(4999)")  # the network drops
            await tab.until(f"{STATE} === 'dropped'")
            await tab.until(f"{STATE} === 'talking' && aizuchi.tape.frames > {before + 10}")
            await tab.run("document.querySelector('#talk').click()")
            await tab.until(f"{STATE} === 'ready'")
            said = np.frombuffer(base64.b64decode(await tab.run(BYTES)), "<i2").reshape(-1, FRAME)
            words = json.loads(await tab.run("aizuchi.tape.transcript({})"))
            size = await tab.run("aizuchi.tape.wav().then((blob) => blob.size)")
            assert size == 44 + 4 * said.size and words["words"] and not tab.errors
            return said

    with house(model) as here:
        said = asyncio.run(visit(here))
        heard = here.only_heard()  # one caller: the conversation that went on is the same one
    alone = engine_alone(model, heard, Sampling(seed=17))
    assert np.abs(heard.astype(float)).max() > 1000  # the question was heard
    lost = [i for i in range(len(said)) if not np.array_equal(said[i], alone[i])]
    # While the connection was down a few frames were said that never came; the page has silence there.
    assert len(lost) <= 12 and all(not said[i].any() for i in lost)
    assert len(said) - len(lost) > 30


def test_without_a_microphone_a_sample_is_played(model):
    async def visit(here):
        async with browse(here.url, allowed=False) as tab:
            await tab.until("document.querySelector('#model').textContent.includes('tiny')")
            await tab.run("document.querySelector('#talk').click()")
            await tab.until("!!document.querySelector('#notice-sound')")
            text = await tab.run("document.querySelector('#notice-sound').textContent")
            assert "not allowed" in text and "sample" in text
            await tab.run("document.querySelector('#sample').click()")
            await tab.until(f"{STATE} === 'talking' && aizuchi.tape.frames > 20")
            await tab.until("Math.max(...aizuchi.tape.userLevels) > -40")
            frames = here.only_heard()
            assert np.abs(frames.astype(float)).max() > 500

    with house(model) as here:
        asyncio.run(visit(here))


def test_a_page_that_browsers_do_not_trust_says_what_to_do(model):
    """By a name over http there is no microphone: the page names https and localhost, and the sample works."""

    async def visit(here):
        here.service.doors.hosts.add("talk.example")
        url = f"http://talk.example:{here.port}"
        async with browse(url, more=["--host-resolver-rules=MAP talk.example 127.0.0.1"]) as tab:
            await tab.until("!!document.querySelector('#notice-sound')")
            text = await tab.run("document.querySelector('#notice-sound').textContent")
            assert "https" in text and f"http://localhost:{here.port}" in text
            await tab.run("document.querySelector('#talk').click()")
            assert await tab.run(f"{STATE} === 'ready' && !isSecureContext")
            await tab.run("document.querySelector('#sample').click()")
            await tab.until(f"{STATE} === 'talking' && aizuchi.tape.frames > 20")
            await tab.until("Math.max(...aizuchi.tape.userLevels) > -40 && aizuchi.player.db > -50")
            assert np.abs(here.only_heard().astype(float)).max() > 500
            assert not [
                error for error in tab.errors if "Opener-Policy" not in error
            ]  # that header wants https

    with house(model) as here:
        asyncio.run(visit(here))


def test_a_page_that_waits_shows_its_place_and_one_with_a_recorder_says_so(model):
    async def visit(here):
        async with plain(here) as first, browse(here.url) as tab:
            await first.start()
            await tab.until("document.querySelector('#model').textContent.includes('tiny')")
            assert "records" in await tab.run("document.querySelector('#notice-recording').textContent")
            assert "records" in await tab.run("document.querySelector('#record-note').textContent")
            await tab.run("document.querySelector('#sample').click()")
            await tab.until(f"{STATE} === 'queued'")
            assert "place 1" in await tab.run("document.querySelector('#state').textContent")
            assert "All places are taken" in await tab.run(
                "document.querySelector('#notice-queue').textContent"
            )
            await first.say(type="end")
            await tab.until(f"{STATE} === 'talking'")
            assert not await tab.run("!!document.querySelector('#notice-queue')")

    with house(model, rows=1, recording=True) as here:
        asyncio.run(visit(here))


def test_what_was_set_is_remembered_and_what_was_not_follows_the_model(model):
    move = """(id, value) => { const e = document.getElementById(id); e.value = value;
        e.dispatchEvent(new Event("change")); }"""
    value = "(id) => document.getElementById(id).value"

    async def visit(here):
        async with browse(here.url) as tab:
            loaded = "document.querySelector('#model')?.textContent.includes('tiny')"
            await tab.until(loaded)
            await tab.run(f"({move})('temperature', 0.5); ({move})('seed', '12a3')")
            here.service.sampling = Sampling(text_top_k=40, padding_bonus=1.0)  # another model
            await tab.call("Page.reload")
            await tab.until(f"{loaded} && ({value})('temperature') === '0.5'")
            found = [await tab.run(f"({value})('{id}')") for id in ("seed", "text_top_k", "eager", "top_k")]
            assert found == ["123", "40", "-1", "250"]
            await tab.run("document.querySelector('#reset').click()")
            assert await tab.run(f"({value})('temperature')") == "0.8" and not tab.errors

    with house(model) as here:
        asyncio.run(visit(here))


def test_names_roles_and_keys(model):
    """What a screen reader and a keyboard need: every control has a name, and the order is that of the page."""

    async def visit(here):
        async with browse(here.url) as tab:
            await tab.until("document.querySelector('#model').textContent.includes('tiny')")
            await tab.run("document.querySelector('#settings').open = true")
            tree = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
            controls = [
                node
                for node in tree
                if node.get("role", {}).get("value")
                in ("button", "slider", "textbox", "combobox", "checkbox", "meter", "image", "log")
            ]
            nameless = [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")]
            assert len(controls) > 15 and not nameless
            await tab.run("document.body.focus()")
            seen = []
            for _ in range(4):
                for kind in ("keyDown", "keyUp"):
                    await tab.call(
                        "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
                    )
                seen.append(await tab.run("document.activeElement.id || document.activeElement.className"))
            assert seen[:3] == ["skip", "talk", "sample"]
            width = "document.documentElement.scrollWidth <= innerWidth"
            for size in (1100, 390, 320):
                await tab.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=size,
                    height=800,
                    deviceScaleFactor=1,
                    mobile=True,
                )
                assert await tab.run(width), f"the page is wider than {size}"

    with house(model) as here:
        asyncio.run(visit(here))
