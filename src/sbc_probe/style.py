"""The style of the pages: system fonts, one grid, light and dark. Whoever changes a colour is told by a test."""

STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1c2024;--quiet:#555e68;--line:#d5dae0;--well:#eef0f3;
--link:#0a58b5;--code:#eef0f3;--on:#fff;
--proven:#11703a;--failed:#b3191f;--flapping:#9a4a00;--waiting:#1257b0;--unknown:#57606a;
--proven-soft:#e3f3e8;--failed-soft:#fdeaea;--flapping-soft:#fbeedd;--waiting-soft:#e4eefb;--unknown-soft:#eceef1}
@media (prefers-color-scheme:dark){:root{--page:#0f1216;--card:#181c22;--text:#e7ebf0;--quiet:#a3adb8;--line:#313841;
--well:#222831;--link:#82b8ff;--code:#262d36;--on:#0f1216;
--proven:#4cc274;--failed:#ff7f79;--flapping:#f3a04f;--waiting:#7db6ff;--unknown:#aab4bf;
--proven-soft:#12301d;--failed-soft:#3d191b;--flapping-soft:#38260f;--waiting-soft:#152a45;--unknown-soft:#252b33}}
*{box-sizing:border-box}
html{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif;
background:var(--page);color:var(--text);-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:90rem;padding:clamp(.75rem,2.5vw,2rem);overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
h1,h2,h3,p,ul,ol,dl,dd,figure,table{margin:0;padding:0}
h1{font-size:clamp(1.5rem,4.5vw,2.25rem);line-height:1.15;font-weight:700;letter-spacing:-.01em}
h2{font-size:1.125rem;line-height:1.3;font-weight:650}
h3{font-size:.8125rem;line-height:1.4;font-weight:600;color:var(--quiet)}
a{color:var(--link)}
code{font:.9em/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;background:var(--code);
padding:.1em .35em;border-radius:.25em;-webkit-user-select:all;user-select:all;-webkit-box-decoration-break:clone;
box-decoration-break:clone}
.quiet,small,figcaption,.taken span{color:var(--quiet);font-size:.8125rem}
.definitions{position:absolute}
.symbol{width:1em;height:1em;flex:none;vertical-align:-.125em}
.ground{fill:var(--c)}.sign{fill:none;stroke:var(--on);stroke-width:2.5;stroke-linecap:round;stroke-linejoin:round}
pattern .sign{stroke-width:1.2}#as-waiting .sign{stroke-width:2.6}
.proven{--c:var(--proven);--soft:var(--proven-soft)}.failed{--c:var(--failed);--soft:var(--failed-soft)}
.flapping{--c:var(--flapping);--soft:var(--flapping-soft)}.waiting{--c:var(--waiting);--soft:var(--waiting-soft)}
.unknown{--c:var(--unknown);--soft:var(--unknown-soft)}
.chip{display:inline-flex;gap:.4em;align-items:center;color:var(--c);font-weight:650;white-space:nowrap}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:clamp(1rem,2vw,1.5rem)}
.verdict{background:var(--soft);border:1px solid var(--c);border-left-width:.5rem;border-radius:.75rem;
padding:clamp(1rem,2.5vw,2rem);display:grid;gap:.5rem 1.25rem;grid-template-columns:auto minmax(0,1fr) auto}
.verdict .symbol{width:clamp(2.75rem,8vw,4.5rem);height:clamp(2.75rem,8vw,4.5rem);grid-row:span 2}
.verdict h1{color:var(--c);align-self:end}.verdict .taken{text-align:right;grid-row:span 2}
.verdict .lead{grid-column:2;max-width:46rem}
.taken b{font-size:1.25rem;line-height:1.2;display:block}
.why{grid-column:2/-1;border-top:1px solid var(--c);margin-top:.75rem;padding-top:1rem}
.finding{display:grid;align-items:baseline;gap:.35rem 1rem;grid-template-columns:6rem minmax(0,1fr)}
.finding h2,.finding h3{grid-column:1/-1}.finding h3{color:var(--text);font-size:1rem}
.finding dt{color:var(--quiet)}.finding dd{max-width:60rem;unicode-bidi:isolate}
.finding .step{font-weight:600}.why .finding dd:first-of-type{font-size:1.25rem;line-height:1.35}
main{display:grid;grid-template-columns:minmax(0,1fr);gap:clamp(.75rem,1.5vw,1.25rem);margin-top:clamp(.75rem,1.5vw,1.25rem)}
section>h2+*{margin-top:.75rem}
.findings,.charts{grid-template-columns:minmax(0,1fr)}.findings{display:grid;gap:1.25rem}
.legend{margin-top:.75rem;
display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;font-size:.8125rem;color:var(--quiet)}
.legend li{display:flex;gap:.45em;align-items:center}.legend svg{width:1.75rem;height:.875rem;flex:none}
.proxy{display:grid;gap:1.25rem clamp(1.25rem,2.5vw,2.5rem);grid-template-columns:minmax(0,5fr) minmax(0,8fr)}
.proxy header{grid-column:1/-1;display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:center}
.facts{display:grid;gap:.3rem 1rem;
grid-template-columns:fit-content(40%) minmax(0,1fr);font-size:.9375rem;align-content:start}
.facts dt{color:var(--quiet)}.facts dd{unicode-bidi:isolate}.facts .quiet{font-size:inherit}
.charts{display:grid;gap:1rem;align-content:start}
figure svg{display:block;width:100%}
figure h3{display:flex;justify-content:space-between;gap:1rem}
.line{height:1.5rem;overflow:visible}.axis{height:1.25rem}.plot{height:6rem;overflow:visible}
svg text{fill:var(--quiet);font-size:.6875rem}
.scale{stroke:var(--card);stroke-width:4;paint-order:stroke;stroke-linejoin:round}
.tick{stroke:var(--line)}.unwatched{fill:var(--card)}.unwatched~line,.nothing{stroke:var(--quiet);stroke-dasharray:2 4}
.band{fill:var(--waiting);opacity:.28}.mean{fill:none;stroke:var(--waiting);stroke-width:2;vector-effect:non-scaling-stroke}
.reach{fill:transparent}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{text-align:right;padding:.3rem 0 .3rem .75rem;border-top:1px solid var(--line);font-weight:400;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0}thead th{border:0;color:var(--quiet);font-size:.8125rem}
td b{font-weight:650}td{white-space:nowrap}
details td{white-space:normal;overflow-wrap:anywhere}th small{display:block}th,td{overflow-wrap:normal}
.cards{display:grid;gap:inherit;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr))}
.bar{height:.75rem;width:100%;display:block;margin-bottom:.75rem}
.bar .whole{fill:var(--well);stroke:var(--line)}.bar line{stroke:var(--text);stroke-width:2}
details{font-size:.875rem}summary{cursor:pointer;color:var(--link)}
footer{margin-top:1.5rem;display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;color:var(--quiet);font-size:.875rem}
.old{position:fixed;inset:0 0 auto;z-index:1;padding:1rem;text-align:center;font-weight:650;background:var(--unknown);
color:var(--on);visibility:hidden;animation:old 1s step-end 150s forwards}
.old a{color:inherit}
@keyframes old{to{visibility:visible}}
@media (max-width:60rem){.proxy{grid-template-columns:minmax(0,1fr)}}
@media (max-width:40rem){.verdict{grid-template-columns:auto minmax(0,1fr)}.verdict .symbol{grid-row:auto}
.verdict h1{align-self:center}.verdict .lead,.verdict .taken,.why{grid-column:1/-1;grid-row:auto;text-align:left}
.taken b{display:inline;font-size:inherit}.finding{grid-template-columns:minmax(0,1fr);gap:.1rem}
.finding dd{margin-bottom:.5rem}}
@media print{.old{display:none}:root{--page:#fff}.card,.verdict{break-inside:avoid}}
"""
