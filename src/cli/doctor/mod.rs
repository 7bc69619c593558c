//! `opri doctor`: what this machine lacks to serve what conf names, and what to do about it.
//!
//! The rule: it changes nothing, needs neither a network nor a running `opri serve`, and waits for nothing without a limit.
//! What keeps Prime from its work fails; what a person should know is a warning.

mod files;
mod network;
mod tools;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::client::Client;
use super::{Common, Done, Exit, Failure, conf_dir, print_json};
use crate::control::conf::{self, Conf};
use crate::control::web::api::Status;
use crate::report::{self, Fault, clean};

/// How long a running control may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn ok(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, says: says.into(), hint: None }
    }

    fn warn(what: impl Into<String>, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, says: says.into(), hint: Some(hint.into()) }
    }

    fn fail(what: impl Into<String>, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Fail, says: says.into(), hint: Some(hint.into()) }
    }
}

pub fn run(common: &Common) -> Done {
    let dir = conf_dir(common)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let findings = runtime.block_on(look(common, &dir));
    // A resolver that hangs is not waited for.
    runtime.shutdown_background();
    if common.json {
        print_json(&findings)?;
    } else {
        findings.iter().for_each(tell);
    }
    match findings.iter().any(|finding| finding.verdict == Verdict::Fail) {
        true => Err(Failure::Told(Exit::Failed)),
        false => Ok(()),
    }
}

fn tell(finding: &Finding) {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    say!("{verdict:<5} {:<10} {}", finding.what, clean(&finding.says));
    if let Some(hint) = &finding.hint {
        say!("{:17}hint: {}", "", clean(hint));
    }
}

async fn look(common: &Common, dir: &Path) -> Vec<Finding> {
    let (loaded, warnings) = conf::check(dir);
    let (conf, faults) = match loaded {
        Ok(loaded) => (Some(loaded.conf), loaded.faults),
        Err(faults) => (None, faults),
    };
    let mut findings = vec![of_conf(dir, &faults)];
    // On the machine that serves, what conf names has to be there.
    findings.extend(warnings.into_iter().map(|warning| of_mention(warning.0)));
    let Some(conf) = conf else { return findings };
    let status = status(common).await;
    findings.push(of_server(status.as_ref()));
    findings.extend(tools::look(&conf).await);
    findings.extend(files::look(&conf.machine));
    findings.extend(network::look(&conf, status.as_ref().ok()).await);
    findings
}

fn of_conf(dir: &Path, faults: &[Fault]) -> Finding {
    match faults {
        [] => Finding::ok("conf", format!("{} is good", dir.display())),
        [first, ..] => {
            let says = format!("{} faults, the first: {} ({})", faults.len(), first.message, first.file);
            Finding::fail("conf", says, "`opri check` shows each with its place")
        }
    }
}

fn of_mention(fault: Fault) -> Finding {
    let place = fault.excerpt.map_or(fault.file.clone(), |excerpt| format!("{}:{}", fault.file, excerpt.line));
    Finding::fail("conf", format!("{} ({place})", fault.message), fault.hint.unwrap_or_default())
}

/// What a running control says of itself; an error in words when none does.
async fn status(common: &Common) -> Result<Status, String> {
    let client = Client::new(common).map_err(in_words)?;
    match timeout(ANSWER, client.get("/v1/status")).await {
        Ok(status) => status.map_err(in_words),
        Err(_) => Err(format!("`opri serve` did not answer within {} s", ANSWER.as_secs())),
    }
}

fn in_words(failure: Failure) -> String {
    match failure {
        Failure::Said { error, .. } => error,
        Failure::Told(_) => "it cannot be asked".to_owned(),
    }
}

fn of_server(status: Result<&Status, &String>) -> Finding {
    let status = match status {
        Ok(status) => status,
        Err(why) => return Finding::warn("server", why.clone(), "`opri serve` starts it"),
    };
    let says = format!("opri {} runs (pid {}), {} sites serve", status.version, status.pid, status.sites_serving);
    match status.faults.first() {
        None => Finding::ok("server", says),
        Some(fault) => {
            let says = format!("{says}; its last reload found faults, the first: {}", report::clean(&fault.message));
            Finding::fail("server", says, "`opri reload` shows them")
        }
    }
}

/// The release that serves needs what conf says now only with its next deployment, so conf alone is asked.
fn hosts_by_name(conf: &Conf) -> Vec<crate::model::host::HostName> {
    let mut hosts: Vec<_> = conf.hosts().iter().filter_map(|host| host.exact().cloned()).collect();
    hosts.push(conf.machine.hooks.host.clone());
    hosts.sort();
    hosts.dedup();
    hosts
}
