//! `opri status`: what runs, on one screen.

use super::client::Client;
use super::{Common, Done, block_on, hold, print_json};
use crate::control::web::api::{Status, shown};
use crate::report;

pub fn run(common: &Common) -> Done {
    let client = Client::new(common)?;
    let status: Status = block_on(client.get("/v1/status"))?;
    if common.json {
        return print_json(&status);
    }
    say!("opri {} (pid {}) with edge {} (pid {})", status.version, status.pid, status.edge.version, status.edge.pid);
    say!("projects   {} ({} sites serve)", status.projects, status.sites_serving);
    for unwell in &status.unwell {
        say!("unwell     {} of {}", unwell.address, unwell.upstream.0);
    }
    for (site, why) in &status.unjudged {
        say!("unjudged   {site}: {}", report::clean(why));
    }
    for held in &status.held {
        say!("held       {}", hold::words(held));
    }
    for (site, how) in &status.rolled_back {
        say!("rolled back {site}: {}", report::clean(how));
    }
    say!("http       {}", shown(&status.listeners.http));
    say!("https      {}", shown(&status.listeners.https));
    for (name, addresses) in
        [("proxied http ", &status.listeners.proxied_http), ("proxied https", &status.listeners.proxied_https)]
    {
        if !addresses.is_empty() {
            say!("{name} {}", shown(addresses));
        }
    }
    say!("metrics    {}", shown(status.listeners.metrics.as_slice()));
    say!("runtime    {}", status.runtime);
    say!("webhooks   {}", status.hooks);
    if let Some(dashboard) = &status.dashboard {
        say!("dashboard  {dashboard}");
    }
    say!("state      {}", status.state_dir.display());
    let mib = |(kind, bytes): (&str, u64)| (bytes > 0).then(|| format!("{kind} {} MiB", bytes.div_ceil(1 << 20)));
    say!("disk       {}", status.disk.kinds().into_iter().filter_map(mib).collect::<Vec<_>>().join(", "));
    report::print_faults(&status.faults);
    Ok(())
}
