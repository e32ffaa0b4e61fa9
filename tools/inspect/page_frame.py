"""The frame of the timeline's page: its style and the little program that filters and shows details."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --soft: #d8dade; --faint: #eef0f3; --back: #fff; --bad: #c8102e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #dcdfe4; --soft: #3b3f46; --faint: #25282d; --back: #17191c; --bad: #ff6b6b; }} }}
body {{ font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 1.5em 2em 5em; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin: 1.6em 0 .3em; font-size: 1.1em; }} .wide {{ overflow-x: auto; }}
text {{ fill: var(--ink); font-size: 11px; }} .label {{ text-anchor: end; }} .time {{ text-anchor: middle; }}
.in {{ fill: #fff; pointer-events: none; }} .tick {{ stroke: var(--soft); }}
.role {{ rx: 3px; }} .follower {{ opacity: .35; }} .candidate {{ opacity: .65; }}
.unknown {{ fill: none; stroke: var(--bad); stroke-dasharray: 3 3; }}
.mark {{ text-anchor: middle; cursor: default; }} .crash {{ fill: var(--bad); font-weight: bold; }}
.purged {{ fill: var(--soft); }} .cell {{ opacity: .85; }}
.commit {{ stroke: var(--ink); stroke-width: 3; }}
.applied {{ stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 3 2; }}
rect:hover {{ stroke: var(--ink); stroke-width: 2; opacity: 1; }}
table {{ border-collapse: collapse; }} th {{ text-align: left; font-weight: 600; }}
td, th {{ padding: 2px 14px 2px 0; border-bottom: 1px solid var(--faint); white-space: nowrap; }}
td:last-child {{ white-space: normal; }} .bad td {{ color: var(--bad); }}
i {{ display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em; }}
.bar {{ position: sticky; top: 0; background: var(--back); padding: .6em 0; z-index: 1; }}
input, select {{ font: inherit; margin-right: .8em; }}
#details {{ position: fixed; left: 0; right: 0; bottom: 0; padding: .5em 2em; background: var(--faint); min-height: 1.5em; }}
.off {{ display: none; }} g.off, rect.off, .mark.off {{ display: inline; opacity: .08; }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
<div class="bar"><input id="text" type="search" placeholder="search the events" aria-label="text">
<select id="peer" aria-label="peer"><option value="">all peers</option>{peers}</select>
<select id="kind" aria-label="kind"><option value="">all kinds</option>{kinds}</select><span id="count"></span></div>
<h2>Peers over time</h2>
<p>A lane per peer in the colour of its term: full as leader, faint as follower. ▶ starts, ■ stops, ✕ a crash (dashed:
some time in here), ◦ votes, ◆ a membership, ▼ a configuration is posted, ▲ in force. Point at anything to read it below.</p>
<div class="wide">{lanes}</div>
<h2>Logs</h2>
<p>A cell is a range of entries of one term. Thick line: durable commit; dashed: durably applied; grey: purged.</p>
<div class="wide">{logs}</div>
<h2>Configurations</h2>
{configs}
<h2>Events</h2>
<table id="events"><thead><tr><th>time (UTC)</th><th>peer</th><th>kind</th><th>term</th><th></th></tr></thead><tbody>
{events}
</tbody></table>
<div id="details" aria-live="polite"></div>
<script>
"use strict";
const by = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#events tbody tr")];
const drawn = [...document.querySelectorAll("#lanes g.lane, #logs g.log, #lanes [data-kind]")];
function filter() {{
  const text = by("text").value.toLowerCase(), peer = by("peer").value, kind = by("kind").value;
  let shown = 0;
  for (const row of rows) {{
    const on = (!peer || row.dataset.peer === peer) && (!kind || row.dataset.kind === kind)
      && (!text || row.textContent.toLowerCase().includes(text));
    row.classList.toggle("off", !on);
    shown += on;
  }}
  for (const one of drawn) {{
    const mark = one.matches(".mark");
    one.classList.toggle("off", !((!peer || one.dataset.peer === peer) && (!mark || !kind || one.dataset.kind === kind)));
  }}
  by("count").textContent = shown + " of " + rows.length + " events";
}}
for (const id of ["text", "peer", "kind"]) by(id).addEventListener("input", filter);
document.addEventListener("mouseover", (event) => {{
  const title = event.target.querySelector && event.target.closest("svg *") && event.target.querySelector(":scope > title");
  if (title) by("details").textContent = title.textContent;
}});
filter();
</script></body></html>
"""
