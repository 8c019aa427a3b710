"""How the page looks, in light and dark.

Every text has a contrast of at least 4.5 to 1 on what it stands on, which tests/page measures
(https://www.w3.org/TR/WCAG22/#contrast-minimum); no meaning is in a colour alone.
"""

_LIGHT = """
--ground:#f4f5f7;--card:#fff;--sunk:#eceff3;--line:#d3d9e0;--text:#1a2330;--quiet:#4d5a6b;--link:#0b57c2;
--alarm:#b3141f;--alarm-soft:#fdecec;--warning:#7d4a00;--warning-soft:#fff3dc;--fine:#14663b;--fine-soft:#e5f4eb;
--empty:#3f4c5e;--empty-soft:#e9edf2;--on:#fff;"""
_DARK = """
--ground:#10151c;--card:#18202a;--sunk:#10161e;--line:#313d4c;--text:#e8edf3;--quiet:#a5b2c2;--link:#8ab8ff;
--alarm:#ff8b8b;--alarm-soft:#3a171b;--warning:#f4bf5f;--warning-soft:#33270f;--fine:#72d39b;--fine-soft:#12301f;
--empty:#b3c0cf;--empty-soft:#222c38;--on:#10151c;"""

STYLE = f"""
.kv{{{_LIGHT}color-scheme:light;color:var(--text);background:var(--ground);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}}
.kv.dark{{{_DARK}color-scheme:dark}}
@media(prefers-color-scheme:dark){{.kv.auto{{{_DARK}color-scheme:dark}}}}
.kv,.kv *{{box-sizing:border-box}}
.kv :where(h1,h2,h3,p,ul,ol,dl,dd,pre){{margin:0;padding:0}}
.kv :where(ul,ol){{list-style:none}}
.kv .wrap{{max-width:1180px;margin:0 auto;padding:20px}}
.kv .top{{display:flex;flex-wrap:wrap;gap:2px 16px;justify-content:space-between;align-items:baseline;
margin-bottom:12px}}
.kv .brand{{font-weight:700;letter-spacing:.01em}}
.kv .quiet{{color:var(--quiet)}}
.kv code,.kv pre,.kv .mono{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.88em}}
.kv pre code{{font-size:1em}}
.kv{{overflow-wrap:anywhere}}
.kv .banner{{border:1px solid var(--level);border-left:8px solid var(--level);border-radius:8px;
background:var(--soft);padding:16px 20px}}
.kv .banner h1{{font-size:1.65rem;line-height:1.25;color:var(--level);display:flex;gap:12px;align-items:baseline}}
.kv .banner ul{{margin-top:8px;display:grid;gap:2px}}
.kv .sign{{font-weight:800;flex:none}}
.kv .alarm{{--level:var(--alarm);--soft:var(--alarm-soft)}}
.kv .warning{{--level:var(--warning);--soft:var(--warning-soft)}}
.kv .fine{{--level:var(--fine);--soft:var(--fine-soft)}}
.kv .empty{{--level:var(--empty);--soft:var(--empty-soft)}}
.kv h2{{font-size:1.1rem;margin:28px 0 10px}}
.kv h3{{font-size:1rem;display:inline}}
.kv .card{{background:var(--card);border:1px solid var(--line);border-radius:8px}}
.kv .incident{{padding:16px 20px;margin-bottom:14px;border-left:5px solid var(--level)}}
.kv .head{{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:center}}
.kv .badge{{display:inline-block;flex:none;color:var(--level);background:var(--soft);border:1px solid var(--level);
border-radius:5px;padding:0 8px;font-size:.78rem;font-weight:700;letter-spacing:.03em;max-width:100%;
overflow-wrap:anywhere}}
.kv .facts{{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:12px 0}}
.kv .facts dt{{color:var(--quiet)}}
.kv .facts dd{{min-width:0}}
.kv .chips{{display:flex;flex-wrap:wrap;gap:4px 14px}}
.kv .do{{background:var(--sunk);border-radius:6px;padding:10px 14px;margin:10px 0}}
.kv .do p{{font-weight:600}}
.kv pre{{white-space:pre-wrap;overflow-wrap:anywhere;margin-top:4px;user-select:all}}
.kv .line{{display:grid;gap:8px;margin-top:6px}}
.kv .line li{{display:grid;grid-template-columns:5.2em 13em 1fr;gap:0 12px}}
.kv .line .what{{font-weight:600;overflow-wrap:anywhere}}
.kv .rows li{{display:grid;grid-template-columns:9.5em minmax(0,2fr) minmax(0,1.4fr) minmax(0,2fr);gap:2px 14px;
padding:9px 16px;border-top:1px solid var(--line);align-items:baseline}}
.kv .rows li:first-child{{border-top:0}}
.kv .rows .why{{grid-column:2/-1}}
.kv .rows .why pre{{margin-bottom:2px}}
.kv .tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(250px,100%),1fr));gap:14px}}
.kv .tile{{padding:14px 18px}}
.kv .tile h3{{display:block;color:var(--quiet);font-weight:600;font-size:.9rem;margin-bottom:6px}}
.kv .count{{display:flex;justify-content:space-between;gap:12px;border-left:4px solid var(--level);padding-left:10px;
margin:3px 0}}
.kv .count b{{font-size:1.05rem;flex:none}}
.kv .count span{{min-width:0}}
.kv .none{{opacity:1;color:var(--quiet);border-left-color:var(--line)}}
.kv .bar{{display:flex;height:10px;border-radius:5px;overflow:hidden;background:var(--sunk);margin-bottom:8px;gap:2px}}
.kv .bar span{{background:var(--level);min-width:4px}}
.kv details{{margin-top:8px}}
.kv summary{{cursor:pointer;padding:3px 4px;border-radius:4px}}
.kv .project{{margin:0 0 8px}}
.kv .project>summary{{padding:9px 16px}}
.kv .project[open]>summary{{border-bottom:1px solid var(--line)}}
.kv :where(a,summary,[tabindex]):focus-visible{{outline:3px solid var(--link);outline-offset:2px}}
.kv a{{color:var(--link)}}
.kv a.btn{{display:inline-block;color:var(--link);background:var(--card);border:1px solid var(--link);
border-radius:5px;padding:0 10px;font-size:.85rem;font-weight:600;text-decoration:none;cursor:pointer}}
.kv .foot{{margin-top:28px;border-top:1px solid var(--line);padding-top:12px;color:var(--quiet);font-size:.88rem}}
@media(max-width:720px){{
.kv .wrap{{padding:12px}}
.kv .banner{{padding:14px}}
.kv .banner h1{{font-size:1.35rem}}
.kv .incident{{padding:14px}}
.kv .facts{{grid-template-columns:1fr;gap:0}}
.kv .facts dd{{margin-bottom:6px}}
.kv .line li{{grid-template-columns:5.2em 1fr}}
.kv .line .detail{{grid-column:1/-1}}
.kv .rows li{{grid-template-columns:1fr;padding:10px 14px;justify-items:start}}
.kv .rows .why{{grid-column:1;width:100%}}
}}
@media print{{.kv{{background:#fff}}.kv .card{{break-inside:avoid}}}}
"""
