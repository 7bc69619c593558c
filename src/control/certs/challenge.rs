//! HTTP-01 challenges that are open now: token to key authorization (RFC 8555 section 8.3).
//!
//! Put here by `issue`, read by the web server under `/.well-known/acme-challenge/`. The rule it keeps: a token is
//! answered as long as its order runs, and no longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The open challenges. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Challenges {
    open: Arc<Mutex<HashMap<String, String>>>,
}

impl Challenges {
    /// The body to answer a token with; `None` when no order of ours waits for it.
    pub fn get(&self, token: &str) -> Option<String> {
        self.lock().get(token).cloned()
    }

    /// Answers `token` until the returned value is dropped.
    pub fn open(&self, token: &str, authorization: &str) -> Open {
        self.lock().insert(token.to_owned(), authorization.to_owned());
        Open { challenges: self.clone(), token: token.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one challenge open.
#[derive(Debug)]
pub struct Open {
    challenges: Challenges,
    token: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.challenges.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_its_order_runs() {
        let challenges = Challenges::default();
        let open = challenges.clone().open("token", "token.thumbprint");
        assert_eq!(challenges.get("token").as_deref(), Some("token.thumbprint"));
        assert_eq!(challenges.get("other"), None);
        drop(open);
        assert_eq!(challenges.get("token"), None);
    }
}
