//! `opri pause`, `opri maintenance` and `opri resume`: what stands before a site's app.

use std::time::{Duration, SystemTime};

use super::client::Client;
use super::table::span;
use super::{Common, Done, block_on, print_json};
use crate::control::web::api::{HoldOrder, WasHeld};
use crate::model::hold::{Held, Hold, Notice};
use crate::model::name::Site;

/// How long a request waits when nobody says.
const WITHIN: Duration = Duration::from_secs(30);

pub fn pause(common: &Common, site: Site, within: Option<Duration>) -> Done {
    let within = within.unwrap_or(WITHIN);
    order(common, site, Some(Hold::Pause { within }), |site, _| {
        format!("{site} is paused: requests wait, each at most {}; `opri resume {site}` lets them go", span(within))
    })
}

pub fn maintenance(common: &Common, site: Site, message: Option<String>) -> Done {
    let notice = Notice { message, page: None };
    order(common, site, Some(Hold::Maintenance(notice)), |site, was| {
        let whose = match &was.hold {
            Some(Hold::Maintenance(Notice { page: Some(_), .. })) => "its own page",
            _ => "a page",
        };
        format!("{site} is in maintenance: every request is answered 503 with {whose}; `opri resume {site}` ends it")
    })
}

pub fn resume(common: &Common, site: Site) -> Done {
    order(common, site, None, |site, was| match &was.before {
        Some(before) => format!("{site} serves again; it was {}", before.as_str()),
        None => format!("{site} was neither paused nor in maintenance"),
    })
}

fn order(common: &Common, site: Site, hold: Option<Hold>, told: impl Fn(&Site, &WasHeld) -> String) -> Done {
    let client = Client::new(common)?;
    let order = HoldOrder { site, hold };
    let was: WasHeld = block_on(client.post("/v1/hold", &order))?;
    if common.json {
        return print_json(&was);
    }
    say!("{}", told(&order.site, &was));
    Ok(())
}

/// In words, for lists.
pub fn words(held: &Held) -> String {
    let since = span(SystemTime::now().duration_since(held.since).unwrap_or_default());
    format!("{} is {}, for {since}", held.site, held.hold.as_str())
}
