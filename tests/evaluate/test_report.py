import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from aizuchi.audio import write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.conversations import dialogue_of_turns, dialogue_section, latency_section
from aizuchi.evaluate.report.compare import compare, write_comparison
from aizuchi.evaluate.report.document import Report, collect_sections, read_report, save_report, save_section
from aizuchi.evaluate.report.page import write_page
from aizuchi.evaluate.report.samples import encode_audio, pick
from aizuchi.evaluate.report.svg import histogram, scatter, timeline
from aizuchi.evaluate.report.tables import measures_table
from aizuchi.evaluate.results import Measure, Section, average, proportion, section_from_json
from aizuchi.evaluate.scenario_set import build
from aizuchi.evaluate.turn_samples import find_samples
from aizuchi.evaluate.turn_taking import Tools, evaluate, record
from aizuchi.evaluate.vad import EnergyDetector
from tests.evaluate.fakes import RATE, BurstRecognizer, BurstSynthesizer, ScriptedSystem, bursts, word_times

VOID = {"meta", "rect", "line", "circle", "br"}


class Balanced(HTMLParser):
    """Checks that every element is closed, and gathers what matters."""

    def __init__(self):
        super().__init__()
        self.open, self.count, self.links, self.text = [], {}, [], []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def parse(text):
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    return parser


@pytest.fixture(scope="module")
def turns(tmp_path_factory):
    root = tmp_path_factory.mktemp("turns")
    build(
        root / "set",
        BurstSynthesizer(),
        count=2,
        progress=False,
        kinds=["smooth_turn_taking", "pause_handling"],
    )
    samples = find_samples(root / "set", root / "out")
    section = Section("turns")
    record(
        samples,
        ScriptedSystem(lambda user: word_times(5, max(0.1, len(user) / RATE - 5.6))),
        section,
        progress=False,
    )
    return evaluate(
        samples, Tools(BurstRecognizer(), EnergyDetector(), EnergyDetector()), section, progress=False
    )


def test_a_page_holds_everything_and_needs_nothing(turns, tmp_path):
    section = section_from_json(json.loads(json.dumps(turns.to_json())))
    section.broken.append({"path": "<b>.wav", "reason": "cut & lost"})
    section.skip("visqol", "not installed")
    section.skip("visqol", "not installed")
    report = Report(
        "a <system>", {"date": "today"}, {"turns": section, "dialogue": dialogue_of_turns(section)}
    )
    write_page(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    found = parse(page)
    assert "a <system>" in "".join(found.text) and "<b>.wav" in "".join(found.text)
    assert found.count["audio"] == len(pick(section.items)) == 4
    assert found.count["svg"] >= 5
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "2 measurements skipped, 1 files broken" in page
    for row in ("PersonaPlex", "people (Fisher)"):  # published rows are marked as such
        assert re.search(
            rf'<tr class="published"><th>{re.escape(row)} <span class="badge">published</span>', page
        )
    assert page.count('class="ours"') == 2
    write_page(report, tmp_path / "quiet.html", audio=False)
    assert parse((tmp_path / "quiet.html").read_text()).count.get("audio", 0) == 0


def test_reports_are_saved_read_and_refused(turns, tmp_path):
    save_section(turns, tmp_path)
    sections = collect_sections(tmp_path)
    assert list(sections) == ["turns"] and sections["turns"] == turns
    report = Report("system", {"seed": 1}, sections)
    save_report(report, tmp_path / "report.json")
    assert read_report(tmp_path) == report
    for bad, said in [
        ("{", "read"),
        ("{}", "no report"),
        ('{"format": "aizuchi-report", "version": 9}', "version 9"),
    ]:
        (tmp_path / "report.json").write_text(bad)
        with pytest.raises(AizuchiError, match=said):
            read_report(tmp_path / "report.json")
    with pytest.raises(AizuchiError, match="no results"):
        collect_sections(tmp_path / "nowhere")
    (tmp_path / "turns.json").write_text('{"format": 77}')
    with pytest.raises(AizuchiError, match="77"):
        collect_sections(tmp_path)


def test_comparison_tells_moves_from_noise(tmp_path):
    def report(name, **cells):
        return Report(name, {}, {"speech": Section("speech", tables={"T": {"row": cells}})})

    before = report(
        "before",
        up=Measure(50, 9, "%", "higher", 45, 55),
        down=Measure(1.0, 9, "s", "lower", 0.9, 1.1),
        noisy=Measure(50, 9, "%", "higher", 30, 70),
        bare=Measure(1.0, 9),
        same=Measure(2.0, 9),
        gone=Measure(1.0, 1),
    )
    after = report(
        "after",
        up=Measure(70, 9, "%", "higher", 60, 80),
        down=Measure(2.0, 9, "s", "lower", 1.9, 2.1),
        noisy=Measure(60, 9, "%", "higher", 40, 80),
        bare=Measure(2.0, 9),
        same=Measure(2.0, 9),
        new=Measure(1.0, 1),
    )
    found, lonely = compare(before, after)
    assert {d.column: d.verdict for d in found} == {
        "up": "better",
        "down": "worse",
        "noisy": "within noise",
        "bare": "no interval",
        "same": "same",
    }
    assert len(lonely) == 2 and "gone" in lonely[0] and "new" in lonely[1]
    write_comparison(before, after, tmp_path / "c.html")
    parse((tmp_path / "c.html").read_text())
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["differences"][0]["change"] == 20


def test_intervals_by_hand():
    half = proportion([True] * 5 + [False] * 5)
    assert half.value == 50 and half.low == pytest.approx(23.66, abs=0.01)  # Wilson's, from tables
    assert half.high == pytest.approx(76.34, abs=0.01)
    assert proportion([]).value is None
    assert proportion([True] * 10).high == 100
    many = average([1.0, 2.0, 3.0, None, float("nan")], "s")
    assert many.value == 2.0 and many.n == 3 and 1.0 <= many.low <= 2.0 <= many.high
    assert average([1.0, 5.0, 2.0], median=True).value == 2.0
    assert average([]).value is None


def test_plots_hold_their_data():
    drawing = timeline(10, [("user", "user", [(0, 2)]), ("model", "model", [(5, 10)])], [[("hi", 0, 1)], []])
    boxes = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawing)
    scale = float(re.search(r'data-scale="([\d.]+)"', drawing)[1])
    start = float(re.search(r'data-start="([\d.]+)"', drawing)[1])
    assert [kind for kind, _, _ in boxes] == ["user", "model"]
    assert float(boxes[1][1]) == pytest.approx(start + 5 * scale, abs=0.1)
    assert float(boxes[1][2]) == pytest.approx(5 * scale, abs=0.1)
    assert ">hi</text>" in drawing
    values = [0.1, 0.1, 0.35, 2.0]
    bars = re.findall(r"<title>a: (\d+) from", histogram([("a", "model", values)], "s"))
    assert sum(map(int, bars)) == len(values)  # the largest value is counted too
    assert "nothing measured" in histogram([("a", "model", [])], "s")
    assert histogram([("a", "model", [1.0, 1.0])], "s").count("<title>") == 1
    assert scatter([("x", "model", 1.0, 2.0), ("y", "other", 12.0, 4.0)], "kb/s", "MOS").count("<circle") == 2
    for svg in (
        drawing,
        histogram([("a<", "model", values)], "s&"),
        scatter([("<x>", "model", 1, 2)], "a", "b"),
    ):
        parse(svg)


def test_arrows_stand_where_rows_differ():
    rows = {
        "pause": {"take-over": Measure(10.0, 3, "%", "lower"), "n": Measure(1.0, 1)},
        "turn": {"take-over": Measure(90.0, 3, "%", "higher"), "n": Measure(1.0, 1)},
    }
    table = measures_table("T", rows)
    parse(table)
    assert "10.0 ↓" in table and "90.0 ↑" in table and "↓</th>" not in table
    same = measures_table("T", {"a": rows["turn"], "b": rows["turn"]})
    assert "↑</th>" in same and "90.0 ↑" not in same


def test_players_get_a_small_file():
    kind, data = encode_audio(np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE)))
    assert kind in ("audio/mpeg", "audio/flac")
    assert 500 < len(data) < 2 * 2 * RATE


def test_dialogues_of_files(tmp_path):
    first, second = bursts([(1.0, 3.0), (7.0, 8.0)], 12.0), bursts([(3.5, 6.0)], 12.0, seed=5)
    write_audio(tmp_path / "stereo.wav", np.stack([first, second]), RATE)
    write_audio(tmp_path / "a.wav", first, RATE)
    write_audio(tmp_path / "b.wav", second, RATE)
    write_audio(tmp_path / "silent.wav", np.zeros((2, RATE)), RATE)
    recordings = [
        (tmp_path / "stereo.wav", None),
        (tmp_path / "a.wav", tmp_path / "b.wav"),
        (tmp_path / "a.wav", None),
    ]
    section = dialogue_section(recordings, EnergyDetector(), progress=False)
    assert len(section.items) == 2 and "channels" in section.broken[0]["reason"]
    assert section.items[0]["offsets"] == section.items[1]["offsets"] == pytest.approx([0.5, 1.0])
    row = section.tables["Dialogue statistics"]["recordings"]
    assert row["IPU"].value == pytest.approx(5.5 * 5) and row["gap"].value == pytest.approx(7.5)
    assert dialogue_section([(tmp_path / "silent.wav", None)], EnergyDetector(), progress=False).items


def test_latency_of_files(tmp_path):
    given = bursts([(0.2, 1.4), (2.0, 4.4), (5.0, 8.8)], 9.0)
    heard = np.concatenate([np.zeros(round(0.2 * RATE), np.float32), given])[: len(given)]
    write_audio(tmp_path / "both.wav", np.stack([given, heard]), RATE)
    write_audio(tmp_path / "other.wav", np.stack([given, bursts([(1.0, 8.0)], 9.0, seed=7)]), RATE)
    section = latency_section([(tmp_path / "both.wav", None)], progress=False)
    row = section.tables["Mouth to ear"]["all"]
    assert row["latency"].value == pytest.approx(0.2, abs=1e-3)
    assert abs(row["growth from first to last window"].value) < 1e-3
