//! HTTP/1.1 as a client sees it, without input or output of its own: URLs, answers, cookies.

mod answer;
mod chunks;
mod cookies;
mod url;

pub use answer::{Answers, Broken, Fed, Wanted, fields, header};
pub use cookies::Jar;
pub use url::Url;
