//! Points in time as they are stored and printed: RFC 3339 in UTC, for `#[serde(with = …)]`.

use std::time::SystemTime;

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    OffsetDateTime::from(*at).format(&Rfc3339).map_err(S::Error::custom)?.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    OffsetDateTime::parse(&text, &Rfc3339).map(SystemTime::from).map_err(D::Error::custom)
}

/// For what may not have happened yet.
pub mod option {
    use super::*;

    pub fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| OffsetDateTime::parse(&text, &Rfc3339).map(SystemTime::from);
        text.map(parse).transpose().map_err(D::Error::custom)
    }
}
