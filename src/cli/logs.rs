//! `opri logs`: what an app, or its build, says.

use std::io::Write;

use super::client::{Client, piece, quoted};
use super::{Common, Done, Failure, block_on};
use crate::model::name::Site;
use crate::report;

pub fn run(common: &Common, site: &Site, follow: bool, build: bool) -> Done {
    let client = Client::new(common)?;
    block_on(async {
        let path = format!("/v1/logs?site={}&follow={follow}&build={build}", quoted(site));
        let mut body = client.open(&path).await?;
        let mut rest = Vec::new();
        while let Some(bytes) = piece(&mut body).await? {
            rest.extend_from_slice(&bytes);
            let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |place| place + 1);
            print(&rest.drain(..end).collect::<Vec<u8>>())?;
        }
        print(&rest)
    })
}

/// An app's words reach the terminal with everything escaped that could command it.
fn print(bytes: &[u8]) -> Done {
    let text = String::from_utf8_lossy(bytes);
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        writeln!(out, "{}", report::clean(line)).map_err(Failure::new)?;
    }
    out.flush().map_err(Failure::new)
}
