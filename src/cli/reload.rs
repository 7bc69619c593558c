//! `opri reload`: waits for the outcome, prints it, and fails on a fault.

use super::client::Client;
use super::{Common, Done, Exit, Failure, block_on, print_json};
use crate::control::web::api::Reloaded;
use crate::report;

pub fn run(common: &Common) -> Done {
    let client = Client::new(common)?;
    let outcome: Reloaded = block_on(client.post("/v1/reload", &()))?;
    if common.json {
        print_json(&outcome)?;
    } else {
        report::print_faults(&outcome.faults);
        match (outcome.is_applied, &outcome.changes) {
            (true, None) => say!("nothing changed"),
            (true, Some(changes)) => say!("reloaded; {changes}"),
            (false, _) => say!("not reloaded: everything is as it was"),
        }
    }
    if outcome.faults.is_empty() && outcome.is_applied { Ok(()) } else { Err(Failure::Told(Exit::Failed)) }
}
