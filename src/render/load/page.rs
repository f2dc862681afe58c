//! The page of the web UI, self-contained: style, charts and script are in it, and it loads nothing.

use serde_json::Value;

/// Charts on a canvas: of the web UI and of the HTML report. Sets `window.perfkitCharts`.
pub const CHARTS_JS: &str = include_str!("page/charts.js");
/// Colours and tables of both, light and dark.
pub const PAGE_CSS: &str = include_str!("page/page.css");

const HTML: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");

/// The page, with what it shows first; its scripts and styles carry `nonce`.
pub fn load_page(boot: &Value, nonce: &str) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let mut rest = HTML;
    while let Some(at) = rest.find("@@") {
        let (before, after) = rest.split_at(at);
        let (name, after) = after[2..].split_once("@@").unwrap_or(("", ""));
        out.push_str(before);
        match name {
            "nonce" => out.push_str(nonce),
            "style" => out.push_str(PAGE_CSS),
            "charts" => out.push_str(CHARTS_JS),
            "script" => out.push_str(SCRIPT),
            "boot" => out.push_str(&embedded(boot)),
            _ => {}
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// JSON that can stand inside a `script` element: nothing in it ends the element or begins a comment.
pub fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_what_it_shows_cannot_leave_its_element() {
        let boot = serde_json::json!({ "scenario": "</script><script>alert(1)</script><!--" });
        let page = load_page(&boot, "abc");
        assert_eq!(page.matches("<script").count(), page.matches("</script>").count());
        assert!(page.contains("nonce=\"abc\"") && !page.contains("@@") && !page.contains("alert(1)</"));
        for foreign in ["http://", "https://", "@import", "url("] {
            let found = page.find(foreign).map(|at| &page[at..(at + 60).min(page.len())]);
            assert!(
                found.is_none_or(|f| f.starts_with("http://www.w3.org") || f.starts_with("http://NAME")),
                "{found:?}"
            );
        }
    }
}
