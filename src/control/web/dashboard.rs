//! The dashboard: one page that shows what is hosted and what was deployed, without a script, for people to look at.

use std::fmt::Write;
use std::time::SystemTime;

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::admin::Office;
use super::api::SiteLine;
use super::overview;
use crate::model::deployment::{Deployment, Outcome};

/// Nothing is loaded from anywhere, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1b1b}\
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .8rem .4rem 0;\
border-bottom:1px solid #ddd;vertical-align:top}.bad{color:#a30000}.good{color:#006400}code{font-size:.9em}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}td,th{border-color:#444}.bad{color:#ff8a80}\
.good{color:#8fd18f}a{color:#9cf}}";

pub async fn page(office: &Office) -> Response {
    let lines = match overview::sites(office).await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::error!(%error, "the dashboard cannot be shown");
            return (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response();
        }
    };
    let mut rows = String::new();
    for line in &lines {
        row(&mut rows, line);
    }
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta http-equiv=refresh content=5><title>Open Prime</title><style>{STYLE}</style><h1>Open Prime</h1>\
         <table><tr><th>Site<th>Release<th>Commit<th>Serves since<th>Requests/s<th>5xx<th>Cache<th>Newest deployment\
         {rows}</table>"
    );
    let headers = [("content-security-policy", POLICY), ("cache-control", "no-store"), ("x-robots-tag", "noindex")];
    (headers, Html(html)).into_response()
}

fn row(rows: &mut String, line: &SiteLine) {
    let name = format!("{}/{}", line.project, line.branch);
    let commit = line.commit.as_ref().map_or("", |commit| commit.short());
    let since = line.since.map(ago).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(
        rows,
        "<tr><td><a href=\"{url}\">{name}</a><td>{release}{unwell}<td><code>{commit}</code><td>{since}<td>{rate:.1}\
         <td>{errors:.1} %<td>{hits:.0} %<td>{deployment}",
        url = escaped(&line.url),
        release = line.release.as_deref().unwrap_or("–"),
        unwell = held(line) + &unwell(line),
        rate = line.requests_per_second,
        errors = line.errors * 100.0,
        hits = line.cache_hits * 100.0,
        deployment = line.deployment.as_ref().map(standing).unwrap_or_default(),
    );
}

fn held(line: &SiteLine) -> String {
    let hold = line.held.as_ref().map(|held| held.hold.as_str());
    hold.map(|words| format!(" <span class=bad>{words}</span>")).unwrap_or_default()
}

fn unwell(line: &SiteLine) -> String {
    match line.unwell.len() {
        0 => String::new(),
        count => format!(" <span class=bad>{count} unwell</span>"),
    }
}

fn standing(deployment: &Deployment) -> String {
    if let Some(how) = deployment.as_automatic() {
        let how: String = how.chars().take(300).collect();
        return format!("<span class=bad>#{}: {}</span>", deployment.id.number, escaped(&how));
    }
    match &deployment.outcome {
        None => format!("#{} is {}", deployment.id.number, deployment.stage),
        Some(Outcome::Failed { at, reason }) => {
            let reason: String = reason.chars().take(300).collect();
            format!("<span class=bad>#{} failed while {at}: {}</span>", deployment.id.number, escaped(&reason))
        }
        Some(Outcome::Cancelled { at, by }) => format!("#{} was cancelled by {by} while {at}", deployment.id.number),
        Some(Outcome::Superseded { by }) => format!("#{} gave way to #{by}", deployment.id.number),
        Some(Outcome::Live { release }) => {
            format!("<span class=good>#{} serves as r{release}</span>", deployment.id.number)
        }
    }
}

/// `3 min`, `2 h`, `5 d`.
fn ago(since: SystemTime) -> String {
    match since.elapsed().unwrap_or_default().as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86400),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
