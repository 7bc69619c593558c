//! `opri hook`: what came in, what became of it, and what a hook would come to.

use std::time::SystemTime;

use clap::Subcommand;

use super::client::Client;
use super::table::{self, span};
use super::{Common, Done, Exit, Failure, block_on, deploy, print_json};
use crate::control::web::deliveries::Delivered;
use crate::control::web::hooks::{TestOrder, Tested};
use crate::model::name::Site;
use crate::report::clean;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the deliveries of late, the newest last
    Log,
    /// Show one delivery
    Show { number: u64 },
    /// Look at all that a hook for a branch's head would be judged by, and deploy nothing
    Test { site: Site },
    /// Judge a delivery that was believed again, and follow what it deploys
    Replay { number: u64 },
}

pub fn run(common: &Common, verb: Verb) -> Done {
    let client = Client::new(common)?;
    match verb {
        Verb::Log => log(&client, common.json),
        Verb::Show { number } => show(&client, number, common.json),
        Verb::Test { site } => test(&client, site, common.json),
        Verb::Replay { number } => replay(&client, number, common.json),
    }
}

fn log(client: &Client, json: bool) -> Done {
    let mut deliveries: Vec<Delivered> = block_on(client.get("/v1/hooks"))?;
    deliveries.reverse();
    if json {
        return print_json(&deliveries);
    }
    let now = SystemTime::now();
    let row = |one: &Delivered| {
        vec![
            one.number.to_string(),
            format!("{} ago", span(now.duration_since(one.at).unwrap_or_default())),
            one.provider.map_or("-", |provider| provider.as_str()).to_owned(),
            one.event.clone().unwrap_or_default(),
            one.status.to_string(),
            outcome(one),
        ]
    };
    let rows: Vec<_> = deliveries.iter().map(row).collect();
    table::print(&["NUMBER", "CAME", "PROVIDER", "EVENT", "STATUS", "BECAME"], &rows);
    Ok(())
}

fn outcome(one: &Delivered) -> String {
    let deployments: Vec<String> = one.deployments.iter().map(ToString::to_string).collect();
    let said = [deployments.join(", "), one.reason.clone().unwrap_or_default()];
    said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

fn show(client: &Client, number: u64, json: bool) -> Done {
    let one: Delivered = block_on(client.get(&format!("/v1/hooks/{number}")))?;
    if json {
        return print_json(&one);
    }
    let ago = span(SystemTime::now().duration_since(one.at).unwrap_or_default());
    say!("delivery    {}, {ago} ago, {} bytes", one.number, one.bytes);
    let event = one.event.as_deref().unwrap_or_default();
    say!("from        {} {}", one.provider.map_or("nobody known", |provider| provider.as_str()), clean(event));
    if let Some(old) = one.replay_of {
        say!("replay of   {old}");
    }
    if let Some(claim) = &one.claim {
        let id = claim.repository_id.map_or_else(String::new, |id| format!(" (id {id})"));
        say!("repository  {}{id}", clean(&claim.repository));
        say!("branch      {}", clean(&claim.branch));
        say!("commit      {}", claim.commit);
        if let Some(number) = claim.number {
            say!("build       {number}");
        }
    }
    say!("answered    {}", one.status);
    say!("became      {}", clean(&outcome(&one)));
    Ok(())
}

fn test(client: &Client, site: Site, json: bool) -> Done {
    let tested: Tested = block_on(client.post("/v1/hooks/test", &TestOrder { site: site.clone() }))?;
    let is_good = tested.lines.iter().all(|line| line.is_good);
    if json {
        print_json(&tested)?;
    } else {
        say!("{site} at {}, by hooks to {}", tested.head.short(), tested.url);
        for line in &tested.lines {
            say!("  {} {:10} {}", if line.is_good { "ok " } else { "no " }, line.what, clean(&line.says));
        }
    }
    if is_good { Ok(()) } else { Err(Failure::Told(Exit::Failed)) }
}

fn replay(client: &Client, number: u64, json: bool) -> Done {
    block_on(async {
        let taken: Delivered = client.post(&format!("/v1/hooks/{number}/replay"), &()).await?;
        let Some(id) = taken.deployments.first() else {
            return Err(Failure::Said { exit: Exit::Refused, error: outcome(&taken), hint: None });
        };
        deploy::follow(client, id, json).await
    })
}
