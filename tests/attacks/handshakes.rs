//! Handshakes that never end.

use std::time::Duration;

use crate::crowd::{End, Gate, crowd, trickle};
use crate::field::besiege;

#[test]
fn a_handshake_that_stops_is_closed_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    // The gateway may have begun to count before the attacker did.
    const EARLY: Duration = Duration::from_millis(2500);
    besiege("[limits]\nhandshake_timeout = \"3s\"\n", |field| {
        let gate = Gate::new(field.prime.address("https"));
        let ends: Vec<End> = field.withstands("2,000 half handshakes", 64.0, async move {
            crowd(2000, |n| {
                let gate = gate.clone();
                // Nothing at all, the first byte of a record, and a record that is announced and does not come.
                let beginning = [&b""[..], &b"\x16"[..], &b"\x16\x03\x01\x02\x00\x01"[..]][n % 3];
                async move { trickle(gate.connect(n).await.unwrap(), beginning, None).await }
            })
            .await
        });
        for end in &ends {
            let late = DEADLINE + Duration::from_secs(3);
            assert!((EARLY..late).contains(&end.after), "{end:?}");
        }
        assert_eq!(field.reached("handshake_timeout"), 2000.0);
    });
}
