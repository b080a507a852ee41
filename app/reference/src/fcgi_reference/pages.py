"""The HTML of the pages for people; no asset from anywhere else is used."""

from __future__ import annotations

from html import escape
from typing import Any

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0a7d5a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --accent: #4fd1a5; }} }}
body {{
  font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 2rem 1rem;
}}
h1 {{ font-size: 1.6rem; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem; }}
nav a {{ margin-right: 1rem; }}
a {{ color: var(--accent); }}
.cards {{
  display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .7rem;
  margin-top: 1.2rem;
}}
.card {{
  border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem;
  overflow-wrap: anywhere;
}}
.card b {{ display: block; font-size: .8rem; font-weight: 500; opacity: .7; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }}
th, td {{
  border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left;
  vertical-align: top;
}}
th {{ font: .82rem/1.6 ui-monospace, monospace; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }}
tr:hover {{ background: var(--soft); }}
pre {{ background: var(--soft); border-radius: .6rem; padding: 1rem; overflow: auto; }}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<nav><a href="info">info</a><a href="echo">echo</a><a href="upload">upload</a>
<a href="stream?n=5&amp;interval=0.5">stream</a><a href="sleep?ms=500">sleep</a>
<a href="healthz">healthz</a></nav>
</header>
<main>{main}</main>
</body>
</html>
"""

_UPLOAD = """
<p>The file is sent as the request's body and not kept; the answer is its size and SHA-256.</p>
<p><input type="file" id="file" aria-label="File to send"> <button id="send">Send</button></p>
<pre id="answer">Choose a file.</pre>
<script>
document.getElementById("send").onclick = async () => {
  const file = document.getElementById("file").files[0];
  const answer = document.getElementById("answer");
  if (!file) return;
  answer.textContent = "Sending " + file.size + " bytes ...";
  const response = await fetch("upload", {method: "POST", body: file});
  answer.textContent = await response.text();
};
</script>
"""


def info_page(facts: dict[str, Any]) -> str:
    """Return the facts as a page: single values as cards, dictionaries as tables."""
    cards = ""
    tables = ""
    for name, value in facts.items():
        if isinstance(value, dict):
            rows = "".join(
                f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(item))}</td></tr>\n'
                for key, item in value.items()
            )
            tables += f"<h2>{escape(name)}</h2>\n<table>{rows}</table>\n"
        else:
            cards += f'<div class="card"><b>{escape(name)}</b>{escape(str(value))}</div>\n'
    main = f'<div class="cards">{cards}</div>\n{tables}'
    return _FRAME.format(title="FastCGI worker", main=main)


def upload_page() -> str:
    """Return the page that sends a file."""
    return _FRAME.format(title="Upload", main=_UPLOAD)
