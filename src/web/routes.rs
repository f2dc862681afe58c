//! Which path is what.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::form;
use super::guard::{self, Names};
use crate::error::{Error, Kind, Result};
use crate::record::load_view::LoadView;
use crate::render::{
    exceptions_csv, exceptions_json, failures_csv, history_csv, load_html, load_page, logs_json, page_json,
    requests_json, stats_csv, tasks_json,
};
use crate::session::load::{Ask, Panel};

/// The largest body, bytes: a form is a few hundred.
const BODY: usize = 64 * 1024;
/// The longest a body may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is served.
#[derive(Debug)]
pub struct Site {
    pub panel: Panel,
    pub base: String,
    pub names: Names,
    pub class_picker: bool,
}

impl Site {
    /// Answers; never fails, since what fails is an answer, too.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if let Err(refusal) = guard::admit(request.headers(), &self.names, changes) {
            return answer::text(StatusCode::FORBIDDEN, &refusal.0);
        }
        let path = request.uri().path().to_owned();
        let Some(path) = path.strip_prefix(&self.base) else { return not_found() };
        if path.is_empty() {
            return answer::moved(&format!("{}/", self.base));
        }
        let posts = matches!(path, "/swarm" | "/stop" | "/stats/reset" | "/user");
        if posts && *request.method() != Method::POST {
            return answer::only("POST");
        }
        if !posts && changes {
            return answer::only("GET");
        }
        let query = form::fields(request.uri().query().unwrap_or_default().as_bytes());
        let done = if posts { self.change(path, request).await } else { self.show(path, &query).await };
        done.unwrap_or_else(|e| answer::text(status(&e), &format!("{e:#}")))
    }

    async fn change(&self, path: &str, request: Request<Incoming>) -> Result<Answer> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        let body = match body(request.into_body()).await {
            Ok(body) => body,
            Err(refused) => return Ok(refused),
        };
        match path {
            "/swarm" => {
                if kind.starts_with("multipart/") || kind.starts_with("application/json") {
                    let text = "send the form as application/x-www-form-urlencoded";
                    return Ok(answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
                }
                self.swarm(&body).await
            }
            "/stop" => {
                self.panel.ask(Ask::Stop).await?;
                Ok(answer::json(StatusCode::OK, &json!({ "success": true, "message": "the load is being stopped" })))
            }
            "/stats/reset" => {
                self.panel.ask(Ask::Reset).await?;
                Ok(answer::text(StatusCode::OK, "ok"))
            }
            _ => self.user(&body).await,
        }
    }

    async fn swarm(&self, body: &[u8]) -> Result<Answer> {
        let view = self.panel.ask(Ask::Look).await?;
        let no = |message: String| {
            let value = json!({ "success": false, "message": message, "host": view.asked.host });
            Ok(answer::json(StatusCode::OK, &value))
        };
        let start = match form::start(&form::fields(body), self.class_picker) {
            Ok(start) => start,
            Err(message) => return no(message),
        };
        let run_time = start.run_time.asked_ns();
        match self.panel.ask(|back| Ask::Start(start, back)).await? {
            Err(e) => no(e.advice().map_or_else(|| format!("{e:#}"), |a| format!("{e:#}; {a}"))),
            Ok(asked) => {
                let mut value = json!({ "success": true, "message": "the load has begun", "host": asked.host });
                if let Some(ns) = run_time {
                    value["run_time"] = (ns as f64 / 1e9).into();
                }
                if self.class_picker {
                    let all = || view.choices.iter().map(|c| c.name.clone()).collect();
                    let mut classes: Vec<String> = if asked.classes.is_empty() { all() } else { asked.classes };
                    classes.sort();
                    value["user_classes"] = json!(classes);
                }
                Ok(answer::json(StatusCode::OK, &value))
            }
        }
    }

    async fn user(&self, body: &[u8]) -> Result<Answer> {
        let wrong = |text: &str| Ok(answer::text(StatusCode::BAD_REQUEST, text));
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return wrong("the body is no JSON document") };
        let Some(name) = value["user_class_name"].as_str() else { return wrong("user_class_name is missing") };
        let number = |key: &str| match &value[key] {
            Value::Null => Ok(None),
            v => {
                v.as_u64().or_else(|| v.as_str()?.parse().ok()).and_then(|n| u32::try_from(n).ok()).map(Some).ok_or(())
            }
        };
        let (Ok(weight), Ok(fixed)) = (number("weight"), number("fixed_count")) else {
            return wrong("weight and fixed_count are whole numbers");
        };
        match self.panel.ask(|back| Ask::Class(name.to_owned(), weight, fixed, back)).await? {
            Ok(()) => Ok(answer::json(StatusCode::CREATED, &json!({}))),
            Err(e) => wrong(&format!("{e:#}")),
        }
    }

    async fn show(&self, path: &str, query: &form::Fields) -> Result<Answer> {
        let value = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let number = |name: &str| value(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        let view = self.panel.ask(Ask::Look).await?;
        let json = |v: Value| Ok(answer::json(StatusCode::OK, &v));
        let file = |text: String, kind: &str| Ok(answer::as_file(answer::csv(text), &file_name(&view, kind, "csv")));
        let start = view.start_wall_s.unwrap_or(0);
        match path {
            "/" => {
                let nonce = nonce()?;
                let boot = json!({ "class_picker": self.class_picker, "view": page_json(&view, 0, 0) });
                Ok(answer::page(load_page(&boot, &nonce), &nonce))
            }
            "/perfkit/view" => json(page_json(&view, number("run"), number("from") as usize)),
            "/stats/requests" => json(requests_json(&view)),
            "/stats/requests/csv" => file(stats_csv(&view.report), "requests"),
            "/stats/requests_full_history/csv" => {
                file(history_csv(&view.seconds, start, &view.report), "requests_full_history")
            }
            "/stats/failures/csv" => file(failures_csv(&view.report, start), "failures"),
            "/stats/report" => {
                let answer = answer::document(load_html(&view, value("theme").unwrap_or_default()));
                let keep = value("download").is_some_and(|v| !v.is_empty());
                Ok(if keep { answer::as_file(answer, &file_name(&view, "report", "html")) } else { answer })
            }
            "/exceptions" => json(exceptions_json(&view)),
            "/exceptions/csv" => file(exceptions_csv(&view.report.exceptions), "exceptions"),
            "/tasks" => json(tasks_json(&view)),
            "/logs" => json(logs_json(&view)),
            "/worker-count" => json(json!({ "worker_count": 0 })),
            _ => Ok(not_found()),
        }
    }
}

/// The whole body, or why not.
async fn body(incoming: Incoming) -> std::result::Result<Bytes, Answer> {
    let too_large = || answer::text(StatusCode::PAYLOAD_TOO_LARGE, &format!("a body may have {BODY} bytes"));
    if incoming.size_hint().lower() > BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, Limited::new(incoming, BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(answer::text(StatusCode::BAD_REQUEST, "the body cannot be read")),
        Err(_) => Err(answer::text(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

fn not_found() -> Answer {
    answer::text(StatusCode::NOT_FOUND, "there is nothing here")
}

fn status(e: &Error) -> StatusCode {
    if e.kind() == Kind::Gone { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// `perfkit_world_1795494600_requests.csv`: letters that need no quoting anywhere.
fn file_name(view: &Arc<LoadView>, kind: &str, ending: &str) -> String {
    let stem = view.scenario.rsplit('/').next().unwrap_or_default();
    let stem: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(60).collect();
    format!("perfkit_{stem}_{}_{kind}.{ending}", view.start_wall_s.unwrap_or(0))
}

/// 128 bits that nobody can guess, as hexadecimal digits.
fn nonce() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|e| Error::io("cannot read /dev/urandom", e))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}
