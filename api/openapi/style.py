"""How the pages look: one column, readable on a phone, dark where the system is."""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b2330;--quiet:#566074;--line:#d7dce5;--paper:#fff;--tint:#f3f5f9;--link:#0b5bd3;
--get:#0a6b3d;--post:#8a4b00}
@media(prefers-color-scheme:dark){:root{--ink:#e3e8f1;--quiet:#a1acbf;--line:#343c4b;--paper:#12161d;--tint:#1b212c;
--link:#7db4ff;--get:#63d39a;--post:#f0b35e}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 6rem}
h1{font-size:1.9rem;margin:.5rem 0 1rem}h2{margin:3rem 0 .5rem;padding-top:1rem;border-top:2px solid var(--line)}
h3{margin:2.2rem 0 .4rem;font-size:1.1rem}h1 small,td small,th small{color:var(--quiet);font-weight:400}
a{color:var(--link)}a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
code,pre{font:.875em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{background:var(--tint);padding:.08em .3em;border-radius:4px}h3 code,pre{background:var(--tint)}
pre{padding:.8rem 1rem;border-radius:8px;white-space:pre-wrap;border:1px solid var(--line);
margin:.2rem 0 1rem}
.label{margin:1rem 0 0;color:var(--quiet);font-size:.9rem}
.wide{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th{text-align:left;color:var(--quiet);font-weight:600;font-size:.85rem}
th,td{padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td:first-child{min-width:7rem}td:last-child{min-width:9rem}
nav ul{list-style:none;padding-left:0}nav ul ul{padding-left:1rem;margin-bottom:.5rem}nav a{text-decoration:none}
b.get{color:var(--get)}b.post{color:var(--post)}
@media(max-width:40rem){table,thead,tbody,tr,td{display:block}thead{position:absolute;left:-9999px}
tr{border-bottom:1px solid var(--line);padding:.4rem 0}td{border:0;padding:.1rem 0}}
""".strip().replace("\n", "")
