//! Reaching the Unix socket of an app.
//!
//! Called by both planes: by the gate, and for every new connection of the edge. An app owns the directory of its socket
//! and may put anything in the socket's place, a link to the Docker engine's socket for one. So the rule: what is
//! connected to is what was looked at, it is a socket, and a link in its place is never followed.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use tokio::net::UnixStream;

/// Connects to the socket at `path`. `InvalidInput` when something else is there.
pub async fn unix(path: &Path) -> io::Result<UnixStream> {
    // A handle to the thing itself, not to what it leads to (open(2), O_PATH with O_NOFOLLOW).
    let handle = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&handle)?.st_mode) != FileType::Socket {
        let reason = format!("{} is not a socket, and a link is not followed", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", handle.as_raw_fd())).await
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_reached_and_a_link_to_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link, file) = (dir.path().join("s"), dir.path().join("l"), dir.path().join("f"));
        let _listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(unix(&socket).await.is_ok());
        assert_eq!(unix(&link).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(unix(&file).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(unix(&dir.path().join("none")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
