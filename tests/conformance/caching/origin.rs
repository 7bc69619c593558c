//! An app that answers each request by its row and step, and remembers what it was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::row::{Row, fields};
use crate::message::{self, Request};
use crate::origin::mark;

/// The field in which a request carries the number of its step.
pub const STEP: &str = "x-step";
/// A status in a row: the connection ends without an answer.
pub const NOTHING: u16 = 0;
/// A path in a row: the answer has no body.
pub const EMPTY: &str = "/empty";

#[derive(Debug, Clone)]
pub struct Origin {
    pub address: SocketAddr,
    rows: Arc<Mutex<HashMap<String, Row>>>,
    asked: Arc<Mutex<Vec<(String, usize, Request)>>>,
}

impl Origin {
    pub fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), rows: Arc::default(), asked: Arc::default() };
        let shared = origin.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        origin
    }

    /// From now on requests that carry the mark are answered by the row.
    pub fn play(&self, mark: &str, row: &Row) {
        self.rows.lock().unwrap().insert(mark.to_owned(), row.clone());
    }

    /// What it was asked at one step.
    pub fn asked(&self, mark: &str, step: usize) -> Vec<Request> {
        let asked = self.asked.lock().unwrap();
        let is_it = |(own, at, _): &&(String, usize, Request)| own == mark && *at == step;
        asked.iter().filter(is_it).map(|(.., request)| request.clone()).collect()
    }

    fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        let mark = mark(request.target.as_bytes())?;
        let step: usize = request.values(STEP).next()?.parse().ok()?;
        self.asked.lock().unwrap().push((mark.clone(), step, request.clone()));
        let rows = self.rows.lock().unwrap();
        let said = rows.get(&mark)?.steps.get(step)?;
        if said.status == NOTHING {
            return None;
        }
        let body = if said.path == EMPTY { String::new() } else { body(&mark, step, said.status) };
        let mut head = format!("HTTP/1.1 {} Said\r\n", said.status);
        for (name, value) in fields(said.answers) {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = !matches!(said.status, 204 | 304) && !head.to_lowercase().contains("\r\ncontent-length:");
        if has_length {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let body = if request.method == "HEAD" { "" } else { &body };
        Some(format!("{head}\r\n{body}").into())
    }
}

/// The body of the app's answer to a step.
pub fn body(mark: &str, step: usize, status: u16) -> String {
    if matches!(status, 204 | 304) { String::new() } else { format!("{mark} {step}") }
}

async fn serve(mut stream: TcpStream, origin: Origin) {
    let mut bytes = Vec::new();
    loop {
        while let Some((request, length)) = message::request(&bytes).unwrap() {
            bytes.drain(..length);
            match origin.answer(&request) {
                Some(answer) if stream.write_all(&answer).await.is_ok() => {}
                _ => return,
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
