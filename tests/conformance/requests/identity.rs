//! Who a client says it is, which nobody believes, in all the spellings that an app might read.

use crate::case::{BAD, Case, get};

/// `6.6.6.6` and `canary` must not reach an app in any of these; dropping the field and refusing the request are both right.
const CLAIMS: &[&[u8]] = &[
    b"X-Forwarded-For: 6.6.6.6\r\n",
    b"x-forwarded-for: 6.6.6.6\r\nX-FORWARDED-FOR: 6.6.6.6\r\n",
    b"X-Forwarded-For: 127.0.0.1, 6.6.6.6\r\n",
    b"X-Forwarded-For: 6.6.6.6\xff\r\n",
    b"X-Forwarded-For: \xff\r\nX-Forwarded-For: 6.6.6.6\r\n",
    b"X-Forwarded-Proto: canary\r\n",
    b"X-Forwarded-Host: canary.test\r\n",
    b"X-Forwarded-Port: 6.6.6.6\r\n",
    b"X-Forwarded-Prefix: /canary\r\n",
    b"X-Forwarded-Scheme: canary\r\n",
    b"X-Forwarded-Server: canary\r\n",
    b"X-Forwarded-Ssl: canary\r\n",
    b"X-Forwarded-User: canary\r\n",
    b"X-Forwarded-Anything: canary\r\n",
    b"X-Forwarded-: canary\r\n",
    b"X-Real-IP: 6.6.6.6\r\n",
    b"X-Client-IP: 6.6.6.6\r\n",
    b"Forwarded: for=6.6.6.6;proto=https;host=canary.test\r\n",
    b"Forwarded: for=1.1.1.1\r\nForwarded: for=6.6.6.6\r\n",
    b"X-Request-Id: canary\r\n",
    b"X-Request-Id: canary\r\nX-Request-Id: canary\r\n",
    b"X-Original-URL: /canary\r\n",
    b"X-Rewrite-URL: /canary\r\n",
    b"Client-IP: 6.6.6.6\r\n",
    b"True-Client-IP: 6.6.6.6\r\n",
    b"CF-Connecting-IP: 6.6.6.6\r\n",
    b"Fastly-Client-IP: 6.6.6.6\r\n",
    b"X-Cluster-Client-IP: 6.6.6.6\r\n",
    b"X-Forwarded: 6.6.6.6\r\n",
    b"Forwarded-For: 6.6.6.6\r\n",
    b"traceparent: 00-canary\r\n",
    b"tracestate: canary=1\r\n",
    // The HTTP_PROXY of what an app asks of others.
    b"Proxy: http://canary.test:80\r\n",
    b"Connection: Proxy\r\nProxy: http://canary.test:80\r\n",
    // One name to CGI and WSGI.
    b"X_Forwarded_For: 6.6.6.6\r\n",
    b"X-Forwarded_For: 6.6.6.6\r\n",
    b"X_Forwarded-For: 6.6.6.6\r\n",
    b"x_forwarded_proto: canary\r\n",
    b"X_Forwarded_Host: canary.test\r\n",
    b"X.Forwarded.For: 6.6.6.6\r\n",
    b"X-Forwarded.For: 6.6.6.6\r\n",
    b"X_Real_IP: 6.6.6.6\r\n",
    b"X.Real-IP: 6.6.6.6\r\n",
    b"X_Request_Id: canary\r\n",
    b"X_Original_URL: /canary\r\n",
    b"X_Client_IP: 6.6.6.6\r\n",
    b"Connection: X-Real-IP\r\nX-Real-IP: 6.6.6.6\r\n",
    b"Connection: X_Forwarded_For\r\nX_Forwarded_For: 6.6.6.6\r\n",
    b"Connection: close, X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n",
];

pub fn cases() -> Vec<Case> {
    CLAIMS
        .iter()
        .map(|lines| match lines.windows(5).any(|window| window == b"close") {
            true => Case::either(&[&get(lines)], BAD).get().closes(),
            false => Case::either(&[&get(lines)], BAD).get(),
        })
        .collect()
}
