//! Where a run's requests go: names become addresses, and there is room for the connections.
//!
//! In: the URLs of a scenario or locustfile. Out: addresses and how to speak TLS with them. Nothing is sent here, but a name
//! with several addresses has each of them tried.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::LoadPlan;
use super::players::Players;
use crate::error::{Error, Kind, Result};
use crate::load::engine::{Server, tls_config};
use crate::load::http::Url;
use crate::os::limits::raise_open_files_to;

/// File descriptors that are not users' connections.
const SPARE_FDS: u64 = 64;

/// The servers of a run, in the order in which scripts count them.
pub(super) fn servers(players: &Players, plan: &LoadPlan) -> Result<Vec<Server>> {
    let choice = &plan.scenario.tls;
    let (hosts, needed) = players.hosts();
    let any = hosts.iter().any(|h| h.tls);
    let config = any.then(|| tls_config(choice.ca.as_deref(), choice.insecure)).transpose()?;
    hosts
        .iter()
        .enumerate()
        .map(|(number, url)| {
            let tls = match (&config, url.tls) {
                (Some(config), true) => {
                    let name = ServerName::try_from(url.host.clone()).map_err(|_| {
                        Error::usage(format!("'{}' is no name that a certificate could have", url.host))
                    })?;
                    Some((Arc::clone(config), name))
                }
                _ => None,
            };
            let addresses = match resolve(url) {
                // Only mentioned: who asks it for something will be told.
                Err(_) if number >= needed => Vec::new(),
                found => found?,
            };
            Ok(Server { addresses, tls })
        })
        .collect()
}

/// The addresses of a host. Where there are several, those that nobody listens at are left out, unless that is all.
fn resolve(url: &Url) -> Result<Vec<SocketAddr>> {
    let found = (url.host.as_str(), url.port).to_socket_addrs();
    let all: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(e) => {
            return Err(Error::new(Kind::Gone, format!("the host '{}' cannot be found", url.host))
                .caused_by(e)
                .advise("look at the name in -H or in the scenario; nothing was sent"));
        }
    };
    if all.len() < 2 {
        return Ok(all);
    }
    let listens = |a: &&SocketAddr| TcpStream::connect_timeout(a, Duration::from_secs(1)).is_ok();
    let open: Vec<SocketAddr> = all.iter().filter(listens).copied().collect();
    Ok(if open.is_empty() { all } else { open })
}

/// Makes room for so many connections.
pub(super) fn raise_fd_limit(connections: u64, open: bool) -> Result<()> {
    // The open model opens as many as it needs, which may be far fewer than its cap.
    let needed = if open { 0 } else { connections.saturating_add(SPARE_FDS) };
    match raise_open_files_to(needed) {
        Some(limits) if needed > limits.soft => Err(Error::usage(format!(
            "{connections} users need as many open files, and only {} are allowed",
            limits.soft
        ))
        .advise(format!("run `ulimit -n {needed}` first, or use fewer users"))),
        _ => Ok(()),
    }
}
