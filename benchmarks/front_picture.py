"""Draw a run's front as a static picture: python benchmarks/front_picture.py RUN docs/front.svg

plotly draws only in a browser: Chromium opens the figure, and plotly's own export gives the SVG.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from evomerge.files.writer import atomic_text
from evomerge.report import plots
from evomerge.run import Run

WIDTH = 960
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=10000",
)  # fmt: skip
PAGE = """<!DOCTYPE html><meta charset="utf-8"><script>{plotly}</script><body><div id="plot"></div>
<script>const figure = {figure};
Plotly.newPlot("plot", figure.data, figure.layout)
  .then(plot => Plotly.toImage(plot, {{format: "svg", width: {width}, height: {height}}}))
  .then(url => {{
    const svg = decodeURIComponent(url.slice(url.indexOf(",") + 1));
    const bytes = new TextEncoder().encode(svg);
    document.body.innerHTML =
      "<pre>svg:" + btoa(Array.from(bytes, b => String.fromCharCode(b)).join("")) + "</pre>";
  }});
</script></body>"""


def svg(figure: go.Figure) -> str:
    """A figure as SVG; raises RuntimeError where Chromium is missing or draws nothing."""
    if shutil.which("chromium") is None:
        raise RuntimeError("chromium is not there, which draws the picture: install it")
    page = PAGE.format(
        plotly=get_plotlyjs(), figure=figure.to_json(), width=WIDTH, height=figure.layout.height
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "figure.html")
        source.write_text(page, encoding="utf-8")
        command = ["chromium", *FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom"]
        shown = subprocess.run(
            [*command, source.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
    found = re.search(r"<pre>svg:([A-Za-z0-9+/=]+)</pre>", shown.stdout)
    if found is None:
        raise RuntimeError(f"chromium drew nothing: {shown.stderr[-500:]}")
    return base64.b64decode(found[1]).decode()


if __name__ == "__main__":
    folder, target = sys.argv[1:]
    figure = plots.front(Run(folder)).update_layout(width=WIDTH)
    figure.layout.updatemenus = []
    atomic_text(target, svg(figure))
    print(f"{target}: {Path(target).stat().st_size:,} bytes")
