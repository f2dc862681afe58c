//! Answers, with the headers that every one of them has.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION,
};
use hyper::{Response, StatusCode};

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// The policy of everything but pages: nothing may be loaded or run.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

fn of(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(NOTHING));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    answer
}

/// A JSON document.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    of(status, "application/json", value.to_string())
}

/// A line of text.
pub fn text(status: StatusCode, line: &str) -> Answer {
    of(status, "text/plain; charset=utf-8", line.to_owned())
}

/// A page whose scripts and styles carry `nonce`; nothing else of it is run, and it talks to nobody but this server.
pub fn page(html: String, nonce: &str) -> Answer {
    let mut answer = of(StatusCode::OK, "text/html; charset=utf-8", html);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// A page that is complete in itself: its own inline scripts and styles are run, and it talks to nobody.
pub fn document(html: String) -> Answer {
    let mut answer = of(StatusCode::OK, "text/html; charset=utf-8", html);
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox allow-scripts allow-downloads";
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    answer
}

/// A table to be kept.
pub fn csv(text: String) -> Answer {
    of(StatusCode::OK, "text/csv; charset=utf-8", text)
}

/// The answer as a file of this name; the name is made by us, of letters that need no quoting.
pub fn as_file(mut answer: Answer, name: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    answer
}

/// Elsewhere.
pub fn moved(to: &str) -> Answer {
    let mut answer = text(StatusCode::PERMANENT_REDIRECT, "the page is at the path with a slash at its end");
    if let Ok(value) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}

/// Not by this method.
pub fn only(method: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("this route takes {method}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    answer
}
