"""How the report's pages look, in light and dark, and the line that follows a player."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1f2328; --soft: #5d6672; --line: #d9dce1;
  --card: #ffffff; --user: #8a7ab8; --model: #1b7f79; --other: #c77d2e; --good: #1a7f37; --bad: #b3261e;
  --pause: #d9b95e; --ours: #e4f2f0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --soft: #9aa4b1;
  --line: #323a44; --card: #1c2127; --user: #a999dc; --model: #3db4ac; --other: #e0a05a; --good: #57c272;
  --bad: #f0776e; --pause: #8d7631; --ours: #17312f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 30px 0 6px; }
nav a { color: var(--model); margin-right: 16px; }
.small { font-size: .82rem; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 12px; margin: 22px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  display: flex; flex-direction: column; }
.card b { font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin-top: 18px; }
table { border-collapse: collapse; font-size: .88rem; min-width: 60%; }
caption { text-align: left; font-weight: 600; padding: 4px 0 6px; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: baseline;
  font-variant-numeric: tabular-nums; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { text-align: left; font-weight: 500; }
td.name { text-align: left; }
td.none { background: none; }
.interval, .unit { color: var(--soft); font-size: .78rem; white-space: nowrap; }
tr.ours { background: var(--ours); }
tr.published th, tr.published td { color: var(--soft); }
.badge { border: 1px solid var(--line); border-radius: 8px; padding: 0 6px; font-size: .7rem; }
figure { margin: 20px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; }
figcaption { margin-bottom: 6px; }
figcaption code, .left-out code { color: var(--soft); font-size: .78rem; }
audio { width: 100%; height: 36px; margin-top: 4px; }
svg { width: 100%; height: auto; display: block; }
@media (max-width: 700px) { figure { overflow-x: auto; } svg { min-width: 680px; } }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.small { fill: var(--soft); font-size: 11px; }
svg text.word { font-size: 11px; fill: var(--soft); }
svg text.middle { text-anchor: middle; } svg text.right { text-anchor: end; }
svg .user { fill: var(--user); } svg .model { fill: var(--model); } svg .other { fill: var(--other); }
svg .rule { stroke: var(--line); } svg .mark { stroke: var(--other); stroke-dasharray: 4 3; }
svg .span { fill: var(--pause); opacity: .28; } svg .span.interruption { fill: var(--bad); opacity: .16; }
svg .span.wait { fill: var(--model); opacity: .16; }
svg .playhead { stroke: var(--ink); stroke-width: 1.5; visibility: hidden; }
.good { color: var(--good); } .bad { color: var(--bad); }
details { margin: 16px 0; } summary { cursor: pointer; color: var(--soft); }
"""

SCRIPT = """
for (const figure of document.querySelectorAll('figure.sample')) {
  const audio = figure.querySelector('audio'), svg = figure.querySelector('svg');
  if (!audio || !svg) continue;
  const head = svg.querySelector('.playhead'), left = +svg.dataset.start, scale = +svg.dataset.scale;
  const follow = () => {
    const x = left + audio.currentTime * scale;
    head.setAttribute('x1', x); head.setAttribute('x2', x); head.style.visibility = 'visible';
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener('play', follow);
  audio.addEventListener('seeked', follow);
  svg.addEventListener('click', event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    audio.currentTime = Math.max(0, (point.x - left) / scale);
    follow();
  });
}
"""
