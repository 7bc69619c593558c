//! `opri releases`: what can be brought back.

use std::time::SystemTime;

use super::client::{Client, quoted};
use super::table::{self, span};
use super::{Common, Done, block_on, print_json};
use crate::control::web::api::ReleaseLine;
use crate::model::name::Site;

pub fn run(common: &Common, site: &Site) -> Done {
    let client = Client::new(common)?;
    let releases: Vec<ReleaseLine> = block_on(client.get(&format!("/v1/releases?site={}", quoted(site))))?;
    if common.json {
        return print_json(&releases);
    }
    let now = SystemTime::now();
    let row = |release: &ReleaseLine| {
        vec![
            release.release.clone(),
            release.commit.short().to_owned(),
            format!("{} ago", span(now.duration_since(release.built_at).unwrap_or_default())),
            if release.is_active { "serves".to_owned() } else { String::new() },
        ]
    };
    table::print(&["RELEASE", "COMMIT", "BUILT", ""], &releases.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
