//! `opri logs`: what an app, or its build, says.

use std::io::{self, ErrorKind, Write};

use hyper::body::Incoming;

use super::client::{Client, piece, quoted};
use super::{Common, Done, Failure, block_on};
use crate::model::name::Site;
use crate::report;

/// Which lines are asked for.
#[derive(Debug)]
pub struct Wanted {
    pub follow: bool,
    pub lines: Option<usize>,
    pub build: bool,
    /// Of which release the build; the newest when not said.
    pub release: Option<u64>,
}

pub fn run(common: &Common, site: &Site, wanted: &Wanted) -> Done {
    let client = Client::new(common)?;
    block_on(async {
        let Wanted { follow, build, .. } = wanted;
        let lines = wanted.lines.map_or_else(String::new, |lines| format!("&lines={lines}"));
        let release = wanted.release.map_or_else(String::new, |release| format!("&release={release}"));
        let path = format!("/v1/logs?site={}&follow={follow}&build={build}{lines}{release}", quoted(site));
        // An app's words reach the terminal with everything escaped that could command it.
        print(client.open(&path).await?, report::clean).await
    })
}

/// Prints a stream as it comes, each line as `shown` makes it. Whoever closed our standard output has seen enough.
pub async fn print(mut body: Incoming, shown: impl Fn(&str) -> String) -> Done {
    let mut rest = Vec::new();
    while let Some(bytes) = piece(&mut body).await? {
        rest.extend_from_slice(&bytes);
        let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |place| place + 1);
        match print_lines(&rest[..end], &shown) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            printed => printed.map_err(Failure::new)?,
        }
        rest.drain(..end);
    }
    print_lines(&rest, &shown).map_err(Failure::new)
}

fn print_lines(bytes: &[u8], shown: impl Fn(&str) -> String) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in String::from_utf8_lossy(bytes).lines() {
        writeln!(out, "{}", shown(line))?;
    }
    out.flush()
}
