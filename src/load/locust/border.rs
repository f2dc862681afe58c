//! The border between a locustfile and the engine that drives its users.
//!
//! A user is resumed with an [`Input`] and runs until it has an [`Effect`]; the engine does what it says and resumes the
//! user with the outcome. Nothing here waits, sends or reads a clock: times come in with each resumption.

use std::fmt::Write as _;

/// What a user wants of the engine.
#[derive(Debug)]
pub enum Effect {
    /// A request; resume with [`Input::Response`].
    Request(Box<Request>),
    /// The outcome of a request, to be counted; resume with [`Input::Go`]. Every request has exactly one, except those with
    /// `catch_response=True` that the file then neither uses in a `with` nor judges (Locust does not count those either).
    Verdict(Box<Verdict>),
    /// A pause inside a task (`time.sleep`), ns; resume with [`Input::Go`] after it.
    Sleep(u64),
    /// The task is over and its wait begins, ns from now (0: none); resume with [`Input::Go`] after it. In the open model
    /// the engine resumes at the next arrival instead.
    Wait(u64),
    /// As [`Effect::Wait`], but ns from the beginning of the task that is over (`constant_pacing`, `constant_throughput`).
    Pace(u64),
    /// The slice of steps is used up; resume with [`Input::Go`] when others had their turn.
    Yield,
    /// An exception that the file did not catch, to be counted; resume with [`Input::Go`].
    Exception(Box<Exception>),
    /// The file asks for the end of the whole run; resume with [`Input::Go`].
    StopRun,
    /// The user has ended; it is not to be resumed.
    Ended,
}

/// What the engine hands in.
#[derive(Debug)]
pub enum Input {
    /// Begin, or go on.
    Go,
    /// The answer to the request.
    Response(Box<Response>),
    /// End: `on_stop` runs, then [`Effect::Ended`] comes. A request that was under way is given up.
    Stop,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// A path (with query), or a whole URL.
    pub url: String,
    /// Where paths go: the class's `host`; `None`: the run's.
    pub host: Option<String>,
    /// Under which name it is counted.
    pub name: String,
    /// Headers beside those that every request has.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// The longest it may take, ns.
    pub timeout_ns: Option<u64>,
    /// Whether redirects are followed.
    pub redirects: bool,
    /// Whether the file looks at the body; else its bytes need only be counted.
    pub wants_body: bool,
    /// Whether the file judges the answer itself.
    pub caught: bool,
}

/// An answer, or why there is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Response {
    /// The status code; 0 when there is no answer.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// The headers, names as they came.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What went wrong below HTTP.
    pub error: Option<String>,
    /// From its due time to the last byte, ns.
    pub latency_ns: u64,
    /// What the engine wants back with the verdict: its own key to what it measured.
    pub token: u64,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The method.
    pub method: String,
    /// The name to count it under.
    pub name: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The response's token.
    pub token: u64,
}

/// An exception that no one caught.
#[derive(Debug, Clone, PartialEq)]
pub struct Exception {
    /// The name of its class; empty for what perfkit itself has to say.
    pub class: String,
    /// Its text, as `str(e)` gives it.
    pub message: String,
    /// Function and line, the innermost last.
    pub traceback: Vec<(String, u32)>,
}

impl Exception {
    /// What perfkit itself has to say of a user.
    pub fn own(message: String) -> Self {
        Self { class: String::new(), message, traceback: Vec::new() }
    }

    /// Class and text, as the last line of Python's tracebacks has them.
    pub fn summary(&self) -> String {
        match (self.class.as_str(), self.message.as_str()) {
            (class, "") => class.to_owned(),
            ("", message) => message.to_owned(),
            (class, message) => format!("{class}: {message}"),
        }
    }

    /// The functions that were running, a line each, and the summary, in Python's form.
    pub fn traceback_of(&self, file: &str) -> String {
        let mut text = self.traceback.iter().fold(String::new(), |mut text, (function, line)| {
            // A text takes everything.
            let _ = writeln!(text, "  File \"{file}\", line {line}, in {function}");
            text
        });
        text.push_str(&self.summary());
        text
    }
}
