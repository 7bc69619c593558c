//! What must not reach an app although the message around it is sound: fields of the connection, and claims of a client
//! about itself.
//!
//! Called for every request that the origin takes. A case writes a canary where a value must not get through.

use super::message::{Field, Request, values};

/// Stands in every field of a case that must not reach an app.
const CANARIES: [&str; 2] = ["6.6.6.6", "canary"];
const HOP_BY_HOP: [&str; 6] =
    ["keep-alive", "proxy-connection", "te", "trailer", "proxy-authenticate", "http2-settings"];
/// What an app could take for the gateway's own word, beside `X-Forwarded-…`.
const IDENTITY: [&str; 6] =
    ["forwarded", "x-real-ip", "x-request-id", "x-client-ip", "x-original-url", "x-rewrite-url"];
/// What CGI could take for what frames or addresses a message.
const FRAMING: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "upgrade"];
/// What every app is told, once.
const TOLD: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];

/// Says of each field why it should not have come, and of each that is missing.
pub fn leaks(request: &Request, is_secure: bool) -> Vec<String> {
    let mut leaks: Vec<String> = request.fields.iter().filter_map(leak).collect();
    let is_websocket = request.values("upgrade").eq(["websocket"]);
    for connection in request.values("connection") {
        let is_own = matches!(connection.to_ascii_lowercase().as_str(), "close" | "keep-alive");
        let is_agreed = is_websocket && connection.eq_ignore_ascii_case("upgrade");
        if !is_own && !is_agreed {
            leaks.push(format!("Connection: {connection}"));
        }
    }
    leaks.extend(request.values("upgrade").filter(|_| !is_websocket).map(|upgrade| format!("Upgrade: {upgrade}")));
    for name in TOLD {
        let told = request.values(name).count();
        if told != 1 {
            leaks.push(format!("{name} is there {told} times"));
        }
    }
    let is = |name: &str, value: &str| values(&request.fields, name).all(|it| it == value);
    let scheme = if is_secure { "https" } else { "http" };
    if !is("x-forwarded-for", "127.0.0.1") || !is("x-forwarded-proto", scheme) {
        leaks.push("an app is told a wrong address or scheme".to_owned());
    }
    leaks
}

fn leak(field: &Field) -> Option<String> {
    let name = field.name.to_ascii_lowercase();
    let canonical = name.replace(['_', '.'], "-");
    let is_twin = canonical != name;
    let is_identity = canonical.starts_with("x-forwarded-") || IDENTITY.contains(&canonical.as_str());
    let is_twin_of_ours = is_twin && (is_identity || FRAMING.contains(&canonical.as_str()));
    let is_hop = HOP_BY_HOP.contains(&name.as_str());
    let is_canary = CANARIES.iter().any(|canary| field.value.contains(canary));
    (is_twin_of_ours || is_hop || is_canary).then(|| format!("{}: {}", field.name, field.value))
}
