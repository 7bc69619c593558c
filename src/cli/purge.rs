//! `opri purge`: makes stored responses unreachable, or stale.

use super::client::Client;
use super::{Common, Done, block_on, print_json};
use crate::link::{Purge, PurgeScope};

pub fn run(common: &Common, purge: &Purge) -> Done {
    let client = Client::new(common)?;
    let purged: Purge = block_on(client.post("/v1/purge", purge))?;
    if common.json {
        return print_json(&purged);
    }
    say!("{}", told(&purged));
    Ok(())
}

fn told(purged: &Purge) -> String {
    let what = match &purged.scope {
        PurgeScope::All => "everything".to_owned(),
        PurgeScope::Url(url) => url.clone(),
        PurgeScope::Prefix(prefix) => format!("what begins with {prefix}"),
        PurgeScope::Tag(tag) => format!("what is tagged `{tag}`"),
    };
    let branch = purged.branch.as_ref().map(|branch| format!("/{branch}")).unwrap_or_default();
    let end = if purged.is_soft { "is stale now" } else { "is purged" };
    format!("{what} of {}{branch} {end}", purged.project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_purged_is_said_in_a_sentence() {
        let purge = |branch: Option<&str>, scope, is_soft| {
            let branch = branch.map(|branch| branch.parse().unwrap());
            told(&Purge { project: "shop".parse().unwrap(), branch, scope, is_soft })
        };
        let tag = PurgeScope::Tag("product-7".to_owned());
        assert_eq!(purge(None, PurgeScope::All, false), "everything of shop is purged");
        assert_eq!(purge(Some("dev"), tag, true), "what is tagged `product-7` of shop/dev is stale now");
        let prefix = PurgeScope::Prefix("/static/".to_owned());
        assert_eq!(purge(None, prefix, false), "what begins with /static/ of shop is purged");
    }
}
