//! The web UI of `perfkit load`: one page and Locust's routes, over a small HTTP server.
//!
//! In: a [`Panel`] of the console that runs the load. Out: answers. The server has a thread and a Tokio runtime of its own, and
//! asks the console as anybody else would: nothing here runs on the generator's threads. What comes over the network is
//! foreign: heads, bodies and connections are bounded, and `guard` refuses what another web site could have sent through
//! the user's browser. There is no login: whoever reaches the port may start load, so by default only this machine does.

mod answer;
mod form;
mod guard;
mod routes;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Kind, Result};
use crate::session::load::Panel;
use guard::Names;
use routes::Site;

/// Connections at the same time; more are closed as they come.
const CONNECTIONS: usize = 128;
/// The longest a head may take to come, and a connection to be idle.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest head, bytes.
const HEAD: usize = 32 * 1024;

/// Where and how the web UI is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebPlan {
    /// The address or name to listen at; `*` or nothing between quotes for all of this machine's. `None`: this machine alone.
    pub host: Option<String>,
    /// The port, 0 for any free one.
    pub port: u16,
    /// What all paths begin with, as `/load`; nothing for the root.
    pub base: String,
    /// A name under which browsers reach it, beside the machine's own.
    pub known_as: Option<String>,
    /// Whether classes of users can be chosen.
    pub class_picker: bool,
}

/// A web UI that is served until this is dropped.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    url: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Listens and serves.
    ///
    /// # Errors
    /// `Usage` for a port that is taken or an address that this machine does not have, `Io` when there is no thread to be had.
    pub fn serve(plan: &WebPlan, panel: Panel) -> Result<Self> {
        let base = guard::base(&plan.base)?;
        let listener = listen(plan)?;
        let address = listener.local_addr().map_err(|e| Error::io("cannot tell where the web UI listens", e))?;
        let shown =
            if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() };
        let url = format!("http://{shown}{base}/");
        let names = Names::new([&plan.host, &plan.known_as].into_iter().flatten());
        let site = Arc::new(Site { panel, base, names, class_picker: plan.class_picker });
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::io("cannot make the web UI's event loop", e))?;
        let work = move || runtime.block_on(serve(listener, site, ended));
        let thread = std::thread::Builder::new().name("perfkit-web".into()).spawn(work);
        let thread = thread.map_err(|e| Error::io("cannot start the web UI's thread", e))?;
        Ok(Self { address, url, end: Some(end), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a browser finds it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nothing more to end.
            drop(thread.join());
        }
    }
}

fn listen(plan: &WebPlan) -> Result<TcpListener> {
    let host = plan.host.as_deref().unwrap_or("127.0.0.1");
    let host = if matches!(host, "" | "*") { "0.0.0.0" } else { host };
    let wrong = |e: std::io::Error| {
        let advice = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another port: -P 8090, or -P 0 for any; without a web UI: --headless".to_owned()
            }
            _ => "give an address of this machine: --web-host 127.0.0.1".to_owned(),
        };
        let text = format!("the web UI cannot listen at {host}:{}", plan.port);
        Error::new(Kind::Usage, text).caused_by(e).advise(advice)
    };
    let found: Vec<SocketAddr> = (host, plan.port).to_socket_addrs().map_err(wrong)?.collect();
    let listener = TcpListener::bind(&found[..]).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    Ok(listener)
}

async fn serve(listener: TcpListener, site: Arc<Site>, mut ended: oneshot::Receiver<()>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            _ = &mut ended => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // No file descriptor is free: those who hold them need a moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(seat) = Arc::clone(&room).try_acquire_owned() else { continue };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, std::convert::Infallible>(site.answer(request).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
            // A connection that breaks is its client's affair.
            drop(http.serve_connection(TokioIo::new(stream), service).await);
            drop(seat);
        });
    }
}
