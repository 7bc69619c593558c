//! `opri purge`: makes stored responses unreachable.

use super::client::Client;
use super::{Common, Done, block_on, print_json};
use crate::control::web::api::{PurgeOrder, Purged};
use crate::link::PurgeScope;
use crate::model::name::ProjectName;

pub fn run(common: &Common, project: ProjectName, scope: PurgeScope) -> Done {
    let client = Client::new(common)?;
    let purged: Purged = block_on(client.post("/v1/purge", &PurgeOrder { project, scope }))?;
    if common.json {
        return print_json(&purged);
    }
    say!("purged {} stored responses", purged.removed);
    Ok(())
}
