"""The frame of the report's page: its style and its headings, light or dark as the reader's system is."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --soft: #d8dade; --faint: #eef0f3; --back: #fff; --bad: #c8102e;
  --fine: #1d7a3e; --one: #2f6fb2; --two: #8fb8de; --fault: #b5651d; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #dcdfe4; --soft: #3b3f46; --faint: #25282d; --back: #17191c; --bad: #ff6b6b;
    --fine: #58c27d; --one: #6ea8e0; --two: #3f6a94; --fault: #e0964f; }} }}
body {{ font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 1.5em 2em 5em; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin: 1.6em 0 .3em; font-size: 1.1em; }} .wide {{ overflow-x: auto; }}
.fine {{ color: var(--fine); }} .bad, .bad td {{ color: var(--bad); }}
text {{ fill: var(--ink); font-size: 11px; }} .label {{ text-anchor: end; }} .time {{ text-anchor: middle; }}
.tick {{ stroke: var(--soft); }}
.writes {{ fill: var(--one); }} .reads {{ fill: var(--two); }} .failed {{ fill: var(--bad); }}
polyline {{ fill: none; stroke-width: 1.4; }} .p50 {{ stroke: var(--one); }} .p99 {{ stroke: var(--fault); }}
.struck {{ fill: var(--fault); }} .missed {{ fill: var(--soft); }} .back {{ opacity: .35; }}
rect:hover {{ stroke: var(--ink); }}
table {{ border-collapse: collapse; }} th {{ text-align: left; font-weight: 600; }}
td, th {{ padding: 2px 14px 2px 0; border-bottom: 1px solid var(--faint); vertical-align: top; }}
i {{ display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin: 0 .3em 0 .8em; }}
</style></head><body>
<h1>{title}: <span class="{kind}">{verdict}</span></h1><p>{summary}</p>
<div class="bad">{findings}</div>
<h2>Throughput</h2>
<p><i style="background: var(--one)"></i>writes <i style="background: var(--two)"></i>reads
<i style="background: var(--bad)"></i>calls that ended without an answer</p>
<div class="wide">{throughput}</div>
<h2>Latency</h2>
<p><i style="background: var(--one)"></i>median <i style="background: var(--fault)"></i>99th percentile, of the calls that
were answered</p>
<div class="wide">{latency}</div>
<h2>Unavailability</h2>
<p>How many of the clients had waited for more than half a second.</p>
<div class="wide">{blocked}</div>
<h2>Faults</h2>
<p>Full while a fault lasts, faint until every peer runs and every group has a leader again; grey if it did not come about.
Point at one to read whom it struck.</p>
<div class="wide">{bands}</div>
<h2>How often</h2>
<table><thead><tr><th>fault</th><th>struck</th><th>missed</th><th></th></tr></thead><tbody>{faults}</tbody></table>
<h2>Measured</h2>
<table><thead><tr><th></th><th>count</th><th>sum</th><th>median</th><th>p99</th><th>most</th></tr></thead>
<tbody>{figures}</tbody></table>
<h2>Step by step</h2>
<table><thead><tr><th>at, s</th><th>lasted</th><th>back after</th><th>faults</th><th>whom</th><th>missed</th></tr></thead>
<tbody>{steps}</tbody></table>
</body></html>
"""
