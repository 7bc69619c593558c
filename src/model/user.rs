//! The user that a process runs as, in numbers: names are looked up once, by control, and a name that means another
//! user tomorrow changes nothing for what runs.

use std::fmt;
use std::str::FromStr;

/// A user with its one group. Written `998:997`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let (uid, gid) =
            numbers.ok_or_else(|| format!("`{text}` is not a user and a group in numbers, like 998:997"))?;
        Ok(Self { uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_written_as_it_is_read() {
        let user = User { uid: 998, gid: 65534 };
        assert_eq!(user.to_string().parse(), Ok(user));
        for wrong in ["", "998", "998:", ":998", "-1:5", "4294967296:1", "nobody:nogroup", "1:2:3"] {
            assert!(wrong.parse::<User>().is_err(), "{wrong}");
        }
    }
}
