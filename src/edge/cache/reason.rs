//! Why a request goes to the app, in the words of RFC 9211 and in those of people.
//!
//! Named by `wish`, `freshness` and `mod`, said by `status`, told by `opri why`. The rule: whoever decides names the reason
//! himself, so that what is told is what was decided.

/// Why what is stored does not answer a request by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing of this site is stored.
    Off,
    /// A rule of conf leaves the path out.
    Rule,
    /// Neither GET nor HEAD.
    Method,
    /// Has this field, which only the app can judge.
    ForApp(&'static str),
    /// Has a body, which could decide about the answer.
    Body,
    /// Carries credentials, and what is stored is not for everybody.
    Credentials,
    /// Carries a cookie, and nobody said of what is stored that it is for everybody.
    Cookie,
    /// Says that the app must be asked.
    Unwanted,
    /// Wants nothing that is as old.
    TooOld,
    /// Wants what is fresh for longer.
    TooShort,
    /// Its time is over.
    Stale,
    /// Its app wants to be asked each time.
    AlwaysAsked,
    /// Nothing is stored for the URL.
    Missing,
    /// What is stored for the URL answers other requests.
    Variant,
    /// Of what is stored, a part is missing.
    Partial,
}

impl Reason {
    /// The value of `fwd` (RFC 9211 section 2.2). `miss` is said for `uri-miss`, which it includes.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Off | Reason::Rule | Reason::ForApp(_) | Reason::Body => "bypass",
            Reason::Credentials | Reason::Cookie => "bypass",
            Reason::Method => "method",
            Reason::Unwanted | Reason::TooOld | Reason::TooShort => "request",
            Reason::Stale | Reason::AlwaysAsked => "stale",
            Reason::Missing => "miss",
            Reason::Variant => "vary-miss",
            Reason::Partial => "partial",
        }
    }

    /// Whether what is stored is not for this visitor, and so as good as not there.
    pub fn is_of_visitor(self) -> bool {
        matches!(self, Reason::Credentials | Reason::Cookie)
    }

    /// Whether the key was not even looked for.
    pub fn is_without_key(self) -> bool {
        matches!(self, Reason::Off | Reason::Rule | Reason::Method | Reason::ForApp(_) | Reason::Body)
    }

    /// For people, as what follows the word.
    pub fn explained(self) -> String {
        let text = match self {
            Reason::Off => "`[cache] enabled = false` leaves the whole project out",
            Reason::Rule => "a rule of `[cache] rules` leaves this path out",
            Reason::Method => "only GET and HEAD are answered from the cache",
            Reason::ForApp(field) => return format!("the request has `{field}`, which only the app can judge"),
            Reason::Body => "the request has a body, which could decide about the answer",
            Reason::Credentials => {
                "the request has `Authorization`, and what is stored says neither `public` nor `s-maxage` nor \
                 `must-revalidate`"
            }
            Reason::Cookie => {
                "the request has a cookie that is not in the key, and the app did not say of what is stored that it is \
                 everybody's"
            }
            Reason::Unwanted => "the request says `no-cache`, `no-store` or `Pragma: no-cache`",
            Reason::TooOld => "the request's `max-age` wants a younger one than what is stored",
            Reason::TooShort => "the request's `min-fresh` wants one that stays fresh for longer than what is stored",
            Reason::Stale => "what is stored is not fresh any more",
            Reason::AlwaysAsked => "the app said `no-cache` of what is stored: it is asked each time",
            Reason::Missing => "nothing is stored for this URL",
            Reason::Partial => "a part of what is asked for is stored, and the rest is not",
            Reason::Variant => "what is stored for this URL is for requests with other fields or cookies",
        };
        text.to_owned()
    }
}
