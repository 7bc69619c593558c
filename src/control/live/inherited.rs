//! Listening sockets that a service manager opened for Prime: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` of
//! sd_listen_fds(3).
//!
//! Taken by `cli` while the process has one thread, used by the owner of what is live in place of binding. The rule: every one
//! of them is used or closed, and what is closed is said.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

/// One of them.
#[derive(Debug)]
pub struct Inherited {
    /// As the service manager calls it.
    pub name: String,
    pub address: SocketAddr,
    pub listener: OwnedFd,
}

/// Takes those that were opened for this process. No thread may run beside this one: the variables are taken away, so that
/// nobody takes the descriptors for sockets again.
pub fn take() -> Vec<Inherited> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    // Without it they may have been opened for the one who started us.
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Vec::new();
    }
    let names: Vec<String> = variable("LISTEN_FDNAMES").split(':').map(str::to_owned).collect();
    let mut sockets = ListenFd::from_env();
    let count = sockets.len();
    (0..count).filter_map(|index| one(&mut sockets, index, names.get(index).map_or("", String::as_str))).collect()
}

fn one(sockets: &mut ListenFd, index: usize, name: &str) -> Option<Inherited> {
    match sockets.take_tcp_listener(index) {
        Ok(Some(listener)) if matches!(socket_acceptconn(&listener), Ok(true)) => {
            let address = listener.local_addr().ok()?;
            return Some(Inherited { name: name.to_owned(), address, listener: listener.into() });
        }
        Ok(_) => {}
        Err(_) => {
            if let Ok(Some(other)) = sockets.take_raw_fd(index) {
                // Fails only when there is none.
                let _ = nix::unistd::close(other);
            }
        }
    }
    tracing::warn!(name, "a descriptor that was handed to this process is no TCP socket that listens; it is closed");
    None
}
