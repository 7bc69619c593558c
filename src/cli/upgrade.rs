//! `opri upgrade`: has what is on disk now serve in place of what runs, edge first, without a connection noticing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::Client;
use super::{Common, Done, Exit, Failure, block_on, print_json};
use crate::control::web::api::{Status, Upgraded};

/// How long the next control may take to answer. It needs about a second.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub fn run(common: &Common) -> Done {
    let client = Client::new(common)?;
    let upgraded: Upgraded = block_on(client.post("/v1/upgrade", &()))?;
    if !common.json {
        let (edge, before) = (&upgraded.edge, upgraded.before);
        say!("edge {} (pid {}) serves; the one before (pid {before}) finishes what it began", edge.version, edge.pid);
    }
    if let Some(newer) = &upgraded.newer {
        let status = block_on(follow(&client, newer))?;
        if !common.json {
            say!("control {} (pid {}) goes on", status.version, status.pid);
        }
    }
    if common.json { print_json(&upgraded) } else { Ok(()) }
}

/// Has control take its own place, and waits until it answers again.
async fn follow(client: &Client, newer: &str) -> Result<Status, Failure> {
    // It ends with the process that is asked.
    let _ = client.post::<()>("/v1/again", &()).await;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(status) = client.get::<Status>("/v1/status").await
            && status.binary.as_deref() == Some(newer)
        {
            return Ok(status);
        }
        sleep(LOOK_AGAIN).await;
    }
    Err(Failure::Said {
        exit: Exit::TimedOut,
        error: format!(
            "the new control does not answer after {} s; the sites are served all the same",
            PATIENCE.as_secs()
        ),
        hint: Some("see what `opri serve` said last; it can be started again at any time".to_owned()),
    })
}
