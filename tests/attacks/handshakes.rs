//! Handshakes that never end.

use std::time::Duration;

use crate::crowd::{End, Gate, crowd, trickle};
use crate::field::besiege;

#[test]
fn a_handshake_that_stops_is_closed_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    besiege("[limits]\nhandshake_timeout = \"3s\"\n", |field| {
        let gate = Gate::new(field.prime.address("https"));
        let ends = field.withstands("2,000 half handshakes", 64.0, half(gate, 2000));
        for end in &ends {
            assert!(end.after < DEADLINE + Duration::from_secs(5), "{end:?}");
        }
        assert_eq!(field.reached("handshake_timeout"), 2000.0);
    });
}

/// Nothing at all, the first byte of a record, or a record that is announced and does not come.
pub async fn half(gate: Gate, count: usize) -> Vec<End> {
    crowd(count, |n| {
        let gate = gate.clone();
        let beginning = [&b""[..], &b"\x16"[..], &b"\x16\x03\x01\x02\x00\x01"[..]][n % 3];
        async move { trickle(gate.connect(n).await.unwrap(), beginning, None).await }
    })
    .await
}
