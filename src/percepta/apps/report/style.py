"""The look of a report: paper and ink, light or dark as the reader's system says, from phone to wall."""

from __future__ import annotations

CSS = """
:root { --paper:#faf9f6; --sheet:#ffffff; --ink:#232327; --soft:#6a6a72; --line:#e4e2dc; --ground:#efeee9;
  --accent:#2f6f6a; --accent-soft:#d5e6e3; --warm:#b4552d; --good:#2e7d4f; }
@media (prefers-color-scheme: dark) { :root { --paper:#151619; --sheet:#1e2024; --ink:#ececea; --soft:#a0a1a8;
  --line:#303239; --ground:#26282d; --accent:#7cc4bb; --accent-soft:#2a4643; --warm:#e59a74; --good:#7ccf9c; } }
* { box-sizing:border-box; }
html { -webkit-text-size-adjust:100%; }
body { margin:0; background:var(--paper); color:var(--ink); line-height:1.5;
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif; }
main, header, footer { max-width:1180px; margin:0 auto; padding:0 28px; }
header { padding-top:52px; }
h1, h2, .query { font-family:ui-serif,Georgia,"Iowan Old Style","Times New Roman",serif; font-weight:500;
  letter-spacing:-.01em; text-wrap:balance; }
.query { max-width:none; }
h1 { font-size:clamp(30px,4.6vw,46px); line-height:1.12; margin:6px 0 12px; }
h2 { font-size:27px; line-height:1.2; margin:0 0 6px; }
h3 { font-size:14px; margin:26px 0 10px; color:var(--soft); font-weight:600; }
.kicker { color:var(--accent); font-weight:650; font-size:13px; letter-spacing:.09em; text-transform:uppercase; }
.lead { font-size:18px; color:var(--soft); max-width:84ch; margin:0 0 18px; }
.notice { border-left:4px solid var(--warm); background:var(--sheet); padding:12px 18px; border-radius:0 10px 10px 0;
  max-width:96ch; margin:18px 0 0; }
section { margin:52px 0; }
section > p { max-width:96ch; margin:0 0 18px; color:var(--soft); }
.pair { display:grid; grid-template-columns:84px 1fr; gap:6px 14px; margin:0 0 20px; max-width:90ch; }
.pair dt { color:var(--soft); font-size:14px; padding-top:2px; } .pair dd { margin:0; }
.chips { display:flex; flex-wrap:wrap; gap:6px; }
.chip { background:var(--ground); border-radius:99px; padding:2px 11px; font-size:14px; }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(172px,1fr)); gap:18px; }
.card { background:var(--sheet); border:1px solid var(--line); border-radius:14px; overflow:hidden; margin:0;
  display:flex; flex-direction:column; break-inside:avoid; }
.shot { position:relative; background:var(--ground); aspect-ratio:1; display:flex; align-items:center;
  justify-content:center; overflow:hidden; }
.shot img { width:100%; height:100%; object-fit:contain; display:block; }
.badge { position:absolute; left:8px; bottom:8px; background:rgba(15,15,18,.74); color:#fff; font-size:12px;
  border-radius:6px; padding:1px 7px; }
.card figcaption { padding:11px 14px 14px; min-width:0; }
.top { font-weight:650; font-size:17px; line-height:1.25; overflow-wrap:anywhere; }
.name { color:var(--soft); font-size:12.5px; overflow-wrap:anywhere; line-height:1.35; margin-top:3px; }
.bars { margin:9px 0 0; padding:0; list-style:none; font-size:13px; }
.bars li { display:grid; grid-template-columns:minmax(0,1fr) 42px; gap:0 8px; margin-top:5px; }
.bars span { overflow:hidden; text-overflow:ellipsis; white-space:nowrap; }
.bars b { font-weight:500; text-align:right; font-variant-numeric:tabular-nums; color:var(--soft); }
.bar { grid-column:1 / -1; height:5px; border-radius:3px; background:var(--ground); overflow:hidden; }
.bar i { display:block; height:100%; background:var(--accent); border-radius:3px; }
.bars li + li .bar i { opacity:.55; }
.tick, .cross { font-size:13px; margin-top:7px; } .tick { color:var(--good); } .cross { color:var(--warm); }
.row { background:var(--sheet); border:1px solid var(--line); border-radius:16px; padding:20px 22px 22px;
  margin:0 0 18px; break-inside:avoid; }
.row .label { font-size:13px; color:var(--soft); }
.query { font-size:24px; line-height:1.25; margin:2px 0 14px; }
.hits { display:grid; grid-template-columns:repeat(auto-fill,minmax(156px,1fr)); gap:14px; }
.asked .hits { flex:1; }
.asked { display:flex; gap:24px; align-items:flex-start; flex-wrap:wrap; }
.asked > .hit { width:190px; flex:none; }
.hit { margin:0; min-width:0; } .hit .shot { border-radius:10px; }
.hit figcaption { font-size:13px; padding-top:6px; overflow-wrap:anywhere; line-height:1.35; }
.hit .score { font-variant-numeric:tabular-nums; font-weight:650; }
.hit.right .shot { box-shadow:0 0 0 3px var(--good); } .hit.right .mark { color:var(--good); }
.hit.query-picture .shot { box-shadow:0 0 0 3px var(--warm); }
.hit.likely .shot { box-shadow:0 0 0 3px var(--accent); }
.hit .strip { display:block; width:100%; height:auto; margin-top:5px; border-radius:6px; }
.hit .moment { color:var(--soft); font-variant-numeric:tabular-nums; }
.hit[hidden] { display:none; }
.slider { position:sticky; top:0; z-index:1; display:flex; flex-wrap:wrap; gap:8px 14px; align-items:center;
  background:var(--paper); padding:10px 0; margin:0 0 14px; } .slider input { flex:1; min-width:180px; max-width:420px;
  accent-color:var(--accent); } .slider output, .slider label { font-size:14px; color:var(--soft); }
.layers { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:14px; }
.counts { display:grid; grid-template-columns:max-content 1fr max-content; gap:7px 14px; align-items:center;
  max-width:640px; font-size:15px; margin:0 0 26px; }
.counts .bar { height:9px; grid-column:auto; }
ul.failures { padding-left:20px; } ul.failures li { margin:4px 0; overflow-wrap:anywhere; }
table { border-collapse:collapse; max-width:860px; width:100%; font-size:15px; }
td { border-top:1px solid var(--line); padding:8px 14px 8px 0; vertical-align:top; overflow-wrap:anywhere; }
td:first-child { color:var(--soft); width:130px; white-space:nowrap; }
footer { color:var(--soft); font-size:13px; padding-top:18px; padding-bottom:48px; border-top:1px solid var(--line); }
@media (max-width:560px) { main, header, footer { padding-left:16px; padding-right:16px; }
  .grid { grid-template-columns:repeat(auto-fill,minmax(148px,1fr)); gap:12px; } .asked > .hit { width:100%; }
  .hits { grid-template-columns:repeat(auto-fill,minmax(110px,1fr)); } }
@media print { body { background:#fff; } section { margin:28px 0; } }
"""
