//! The page: HTML with its style and its plots in it, no script, and no address of anything else.

use std::fmt::Write;

use super::{Page, Topic, plots};
use crate::escape;
use crate::table::{bytes, or_dash};
use crate::time::iso;

/// Writing to a string does not fail.
macro_rules! put {
    ($to:expr, $($part:tt)*) => { let _ = writeln!($to, $($part)*); };
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #666c74; --paper: #fff; --line: #dcdfe3; --bar: #2f6fb5; --active: #e08a1e; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --dim: #9aa1a9; --paper: #16181b; --line: #33373d; --bar: #6ea8e6; --active: #f0a94a; --bad: #ff8a80; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p, .dim { color: var(--dim); margin: .2rem 0; } .bad { color: var(--bad); overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; } .cards div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem; flex: 1 1 7rem; }
.cards b { display: block; font-size: 1.25rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } th.l, td.l { text-align: left; } td.w { white-space: normal; overflow-wrap: break-word; min-width: 12rem; }
svg { display: block; width: 100%; } svg.row { height: 14px; } svg.chart { height: 5.5rem; } .ends { display: flex; justify-content: space-between; font-size: .8rem; } svg.share { width: 6rem; height: 8px; }
.bar { fill: var(--bar); } .bar.active { fill: var(--active); } .axis { stroke: var(--line); }
@media print { body { max-width: none; } h3, table, svg { break-inside: avoid; } }
";

/// The whole document.
pub(crate) fn html(page: &Page) -> String {
    let mut html = String::new();
    let dir = text(&page.dir);
    put!(html, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    put!(html, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    put!(html, "<title>Quipu: {dir}</title><style>{STYLE}</style></head><body>");
    put!(html, "<h1>{dir}</h1><p>{}, quipu {}</p>", iso(page.made_at), env!("CARGO_PKG_VERSION"));
    cards(page, &mut html);
    health(page, &mut html);
    topics(page, &mut html);
    by_time(page, &mut html);
    segments(page, &mut html);
    groups(page, &mut html);
    put!(html, "</body></html>");
    html
}

/// Text that is not the program's own: neither markup, nor anything that moves other text.
fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in escape::text(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn cards(page: &Page, html: &mut String) {
    let partitions: usize = page.topics.iter().map(|topic| topic.partitions.len()).sum();
    let offsets: u64 = page.topics.iter().map(Topic::offsets).sum();
    let size: u64 = page.topics.iter().map(Topic::bytes).sum();
    let lag: u64 = page.groups.iter().map(|group| group.lag).sum();
    let cards = [
        ("topics", page.topics.len().to_string()),
        ("partitions", partitions.to_string()),
        ("offsets", offsets.to_string()),
        ("size", bytes(size)),
        ("lag of all groups", lag.to_string()),
        ("problems", page.health.len().to_string()),
    ];
    put!(html, "<div class=\"cards\">");
    for (name, value) in cards {
        put!(html, "<div><b>{value}</b><span class=\"dim\">{name}</span></div>");
    }
    put!(html, "</div>");
}

fn health(page: &Page, html: &mut String) {
    if !page.health.is_empty() {
        put!(html, "<h2>Problems</h2>");
        for problem in &page.health {
            put!(html, "<p class=\"bad\">{}</p>", text(problem));
        }
    }
}

fn topics(page: &Page, html: &mut String) {
    let largest = page.topics.iter().map(Topic::bytes).max().unwrap_or(0);
    put!(
        html,
        "<h2>Topics</h2><div class=\"scroll\"><table><tr><th class=\"l\">topic</th><th>partitions</th><th>offsets</th>"
    );
    put!(html, "<th>size</th><th></th><th class=\"l\">settings</th></tr>");
    for topic in &page.topics {
        put!(html, "<tr><td class=\"l\">{}</td><td>{}</td>", text(&topic.name), topic.partitions.len());
        put!(html, "<td>{}</td><td>{}</td>", topic.offsets(), bytes(topic.bytes()));
        let settings = text(&topic.settings.join(" "));
        put!(html, "<td>{}</td><td class=\"l w\">{settings}</td></tr>", plots::share(topic.bytes(), largest));
    }
    put!(html, "</table></div>");
}

fn by_time(page: &Page, html: &mut String) {
    let Some(span) = page.span else { return };
    put!(html, "<h2>Records by time</h2>");
    put!(html, "<p>A record counts at the greatest time of the records up to it in its partition.</p>");
    for topic in page.topics.iter().filter(|topic| !topic.by_time.is_empty()) {
        let most = topic.by_time.iter().copied().max().unwrap_or(0);
        put!(html, "<h3>{} <span class=\"dim\">up to {most}</span></h3>", text(&topic.name));
        put!(html, "{}", plots::by_time(topic, span));
        put!(html, "<div class=\"ends dim\"><span>{}</span><span>{}</span></div>", iso(span.0), iso(span.1));
    }
}

fn segments(page: &Page, html: &mut String) {
    let partitions = page.topics.iter().flat_map(|topic| &topic.partitions);
    let widest = partitions.map(|of| of.bytes).max().unwrap_or(0);
    put!(html, "<h2>Partitions and segments</h2>");
    put!(html, "<p>Each segment is as wide as its bytes. The active one has another color.</p>");
    for topic in &page.topics {
        put!(
            html,
            "<h3>{}</h3><div class=\"scroll\"><table><tr><th>partition</th><th>log start</th><th>log end</th>",
            text(&topic.name)
        );
        put!(
            html,
            "<th>segments</th><th>size</th><th class=\"l\">first time</th><th class=\"l\">greatest time</th></tr>"
        );
        for of in &topic.partitions {
            put!(html, "<tr><td>{}</td><td>{}</td><td>{}</td>", of.number, of.log_start, of.visible_end);
            put!(html, "<td>{}</td><td>{}</td>", of.segments.len(), bytes(of.bytes));
            let times = [of.first_timestamp, of.max_timestamp].map(|time| or_dash(time.map(iso)));
            put!(html, "<td class=\"l\">{}</td><td class=\"l\">{}</td></tr>", times[0], times[1]);
            put!(html, "<tr><td colspan=\"7\">{}</td></tr>", plots::segments(of, widest));
        }
        put!(html, "</table></div>");
    }
}

fn groups(page: &Page, html: &mut String) {
    if page.groups.is_empty() {
        return;
    }
    let most = page.groups.iter().map(|group| group.lag).max().unwrap_or(0);
    put!(
        html,
        "<h2>Groups</h2><div class=\"scroll\"><table><tr><th class=\"l\">group</th><th class=\"l\">topic</th>"
    );
    put!(html, "<th>partition</th><th>current offset</th><th>log end</th><th>lag</th><th></th></tr>");
    for group in &page.groups {
        put!(
            html,
            "<tr><td class=\"l\">{}</td><td class=\"l\">{}</td>",
            text(&group.name),
            text(&group.topic)
        );
        put!(html, "<td>{}</td><td>{}</td><td>{}</td>", group.partition, or_dash(group.committed), group.end);
        put!(html, "<td>{}</td><td>{}</td></tr>", group.lag, plots::share(group.lag, most));
    }
    put!(html, "</table></div>");
}
