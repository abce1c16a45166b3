"""The frame of the HTML report: its style and the few lines that sort and filter the table."""

STYLE = """
:root { color-scheme: light dark; --fg: #1b1f24; --muted: #59636e; --bg: #f6f7f9; --card: #ffffff;
  --line: #d5dae1; --ok: #11652f; --bad: #b3261e; --warn-bg: #fff4d6; --warn-fg: #5c4400;
  --bar: #cfe3f5; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e9ee; --muted: #a2abb6; --bg: #14171b;
  --card: #1c2026; --line: #363d47; --ok: #6fd08c; --bad: #ff8a80; --warn-bg: #3d3210;
  --warn-fg: #ffe08a; --bar: #24435f; --link: #7db8f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.15rem; color: var(--muted); font-weight: 600; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 20px 0 4px; }
.headline { font-size: 1.55rem; line-height: 1.3; font-weight: 650; margin: 0 0 12px;
  text-wrap: balance; }
nav { margin: 14px 0 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--link); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin-top: 20px; }
.note { color: var(--muted); margin: 0 0 10px; max-width: 80ch; }
.warning { background: var(--warn-bg); color: var(--warn-fg); border-radius: 8px;
  padding: 10px 14px; margin: 12px 0 0; }
.warning ul { margin: 0; padding-left: 18px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0 0; padding: 0; list-style: none; }
.figures li { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.figures b { display: block; font-size: 1.2rem; line-height: 1.25; }
.figures span { color: var(--muted); font-size: 0.88rem; }
figure { margin: 0; }
.js-plotly-plot text { fill: var(--fg) !important; }
.js-plotly-plot .hoverlayer text { fill: #ffffff !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: 6px; }
th, td { padding: 4px 8px; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { position: sticky; top: 0; background: var(--card); white-space: nowrap; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.number, th.number { text-align: right; white-space: nowrap; }
table.facts th { position: static; font-weight: 600; font-size: 0.93em; }
table.facts td:nth-child(2) { min-width: 32ch; }
td.share { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share));
  }
td { font-size: 0.93em; }
td.shape { min-width: 18ch; }
.reason { color: var(--muted); font-size: 0.9em; min-width: 20ch; overflow-wrap: anywhere; }
.ok { color: var(--ok); } .bad { color: var(--bad); font-weight: 600; }
.best { font-weight: 650; }
input[type=search] { font: inherit; color: inherit; background: var(--bg); padding: 6px 10px;
  border: 1px solid var(--line); border-radius: 8px; width: min(420px, 100%); margin-bottom: 10px; }
@media (max-width: 600px) { main { padding: 14px 10px 40px; } section { padding: 14px 12px; }
  .headline { font-size: 1.25rem; } dl { grid-template-columns: 1fr; } dt { margin-top: 6px; } }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; }
  nav, input, .modebar { display: none !important; } .scroll { overflow: visible; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table[data-sortable]')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent;
  heads.forEach((head, i) => head.querySelector('button').addEventListener('click', () => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const numeric = head.classList.contains('number');
    const compare = (a, b) => {
      const x = value(a, i), y = value(b, i);
      if (numeric) {
        if (x === '' || y === '') return (x === '') - (y === '');
        return down ? y - x : x - y;
      }
      return down ? y.localeCompare(x) : x.localeCompare(y);
    };
    body.append(...[...body.rows].sort(compare));
  }));
  const filter = document.getElementById(table.dataset.filter);
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}
"""
