//! What the desk tells a deployment that runs: that a newer one waits, or that somebody cancelled it.
//!
//! Kept by the desk for each site, heard by the pipeline. The rule: it is heard only until the decision of a swap, after
//! which a deployment can no longer be called back.

use tokio::sync::watch;

use super::DeployError;

/// The newest that is known of a site.
#[derive(Debug, Clone, Default)]
pub struct Notice {
    /// The number of its newest deployment.
    pub newest: u64,
    /// The deployment that was cancelled last, and by whom.
    pub cancelled: Option<(u64, String)>,
}

/// The notices of a site, as one deployment hears them.
#[derive(Debug, Clone)]
pub struct Notices {
    own: u64,
    heard: watch::Receiver<Notice>,
}

impl Notice {
    /// Why the deployment of this number is not to go on: the newest push wins, and a person's word counts before.
    fn objection(&self, own: u64) -> Option<DeployError> {
        match &self.cancelled {
            Some((number, by)) if *number == own => Some(DeployError::Cancelled(by.clone())),
            _ => (self.newest > own).then_some(DeployError::Newer(self.newest)),
        }
    }

    fn is_cancelled(&self, own: u64) -> bool {
        self.cancelled.as_ref().is_some_and(|(number, _)| *number == own)
    }
}

impl Notices {
    pub fn new(own: u64, heard: watch::Receiver<Notice>) -> Self {
        Self { own, heard }
    }

    pub fn may_go_on(&self) -> Result<(), DeployError> {
        self.heard.borrow().objection(self.own).map_or(Ok(()), Err)
    }

    /// Does `work`, which is dropped as soon as this deployment is cancelled. A newer one lets it come to its end.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, DeployError>>,
    ) -> Result<T, DeployError> {
        tokio::select! {
            by = self.cancelled() => Err(DeployError::Cancelled(by)),
            done = work => done,
        }
    }

    /// By whom.
    async fn cancelled(&self) -> String {
        let mut heard = self.heard.clone();
        let cancelled = heard.wait_for(|notice| notice.is_cancelled(self.own)).await;
        match cancelled.ok().and_then(|notice| notice.cancelled.clone()) {
            Some((_, by)) => by,
            // The desk is gone, and nobody can cancel any more.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_one_that_is_meant_is_cancelled() {
        let desk = watch::Sender::new(Notice { newest: 2, cancelled: None });
        let [first, second] = [1, 2].map(|own| Notices::new(own, desk.subscribe()));
        assert!(matches!(first.may_go_on(), Err(DeployError::Newer(2))));
        assert!(second.may_go_on().is_ok());
        // An older one is not ended in the middle of its work.
        assert!(matches!(first.unless_cancelled(async { Ok(1) }).await, Ok(1)));
        desk.send_modify(|notice| notice.cancelled = Some((2, "ada".to_owned())));
        let never = std::future::pending::<Result<(), DeployError>>();
        assert!(matches!(second.unless_cancelled(never).await, Err(DeployError::Cancelled(by)) if by == "ada"));
        assert!(matches!(second.may_go_on(), Err(DeployError::Cancelled(_))));
        assert!(matches!(first.may_go_on(), Err(DeployError::Newer(2))));
    }
}
