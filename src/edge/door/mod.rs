//! One HTTP/1 connection: waits for requests, reads one head at a time, answers what is at hand, and finds somebody for the
//! rest.
//!
//! Called by `connection`. Between two requests a connection is this small future and no buffers. The rule: a head is read
//! here, whole, under one deadline and its limits; nobody behind ever waits for one, and the stream comes back after each
//! request or the connection ends.

mod lanes;
mod waiting;

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::io::ReadBuf;
use tokio::sync::futures::OwnedNotified;

use super::admission::Place;
use super::answer::{self, Fetch, Time, What};
use super::cache::{self, Hit, Said};
use super::exchange::{self, Exchange};
use super::failure::Failure;
use super::fetch;
use super::id::RequestId;
use super::passage::Passage;
use super::request::Asked;
use super::respond::{self, Own, Told};
use super::stream::{SMALL, Stream};
use super::strict::request::{self as strict, Framing, Head, Version};
use super::timer::Timer;
use super::worker::Worker;

use lanes::{Lane, Request, Task, Unsent};
use waiting::Waiting;

/// What one read takes, in bytes: any ordinary head.
const READ: usize = 16 << 10;
/// Reads in one go before others on this worker have their turn.
const TURN: u32 = 32;
/// How long an idle connection may still send a request after the edge began to stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Serves requests until either side has enough.
pub async fn serve(stream: Box<Stream>, worker: Arc<Worker>, _place: Place) {
    let mut door = Door::new(stream, worker);
    while let Some(task) = poll_fn(|cx| door.poll_task(cx)).await {
        // Boxed, so that a connection that waits does not carry the room of one that works.
        match Box::pin(lanes::perform(door, task)).await {
            Some(same) => door = same,
            None => return,
        }
        door.rest();
    }
}

#[derive(Debug)]
struct Door {
    stream: Box<Stream>,
    worker: Arc<Worker>,
    timer: Timer,
    /// Requests that may still come over this connection.
    left: u32,
    waiting: Patience,
    stopped: Pin<Box<OwnedNotified>>,
    hears_stop: bool,
}

/// What the deadline that runs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// The first byte of a request.
    Idle,
    /// The first byte of the last one: the edge is stopping.
    Last,
    /// The rest of a head.
    Head,
}

/// What became of the bytes that were looked at.
enum Look {
    /// So many of them were a request, which is answered.
    Answered(usize),
    /// There is no whole head among them.
    Incomplete,
    /// So many of them were the head of what takes longer.
    Task(usize, Task),
    /// Nobody is there any more.
    End,
}

/// What a look at some bytes left to do.
enum Then {
    ReadOn,
    Perform(Task),
    End,
}

impl Door {
    fn new(stream: Box<Stream>, worker: Arc<Worker>) -> Self {
        let limits = worker.shared.settings.load().limits;
        let stopped = Box::pin(worker.shared.stopped_waiting.clone().notified_owned());
        let (timer, left) = (Timer::new(limits.keepalive_timeout), limits.keepalive_requests);
        Self { stream, worker, timer, left, waiting: Patience::Idle, stopped, hears_stop: false }
    }

    /// Waits again after a request.
    fn rest(&mut self) {
        self.stream.rest();
        self.waiting = Patience::Idle;
        self.timer.set(self.worker.shared.settings.load().limits.keepalive_timeout);
    }

    /// Reads on and answers what can be answered at once; ready with what takes longer, or with `None` at the end.
    fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<Option<Task>> {
        if self.waiting == Patience::Idle && !self.stream.ahead().is_empty() {
            // What the client sent behind the request before.
            let ahead = std::mem::take(self.stream.ahead());
            match self.take_in(cx, &ahead) {
                Then::ReadOn => {}
                Then::Perform(task) => return Poll::Ready(Some(task)),
                Then::End => return Poll::Ready(None),
            }
        }
        for _ in 0..TURN {
            let mut space = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut space);
            match self.stream.poll_socket(cx, &mut buffer) {
                Poll::Pending => return self.poll_patience(cx),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(None),
            }
            match self.take_in(cx, buffer.filled()) {
                Then::ReadOn => {}
                Then::Perform(task) => return Poll::Ready(Some(task)),
                Then::End => return Poll::Ready(None),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks at bytes that came. Only what cannot be answered at once is copied.
    fn take_in(&mut self, cx: &mut Context<'_>, came: &[u8]) -> Then {
        if self.stream.ahead().is_empty() {
            return self.look_through(cx, came);
        }
        self.stream.ahead().extend_from_slice(came);
        // Half a line more tells nothing new, until it is too long for a head.
        if memchr::memchr(b'\n', came).is_none() && self.stream.ahead().len() < READ {
            return Then::ReadOn;
        }
        let all = std::mem::take(self.stream.ahead());
        self.look_through(cx, &all)
    }

    /// Answers the requests in `bytes` one after the other; the rest is kept.
    fn look_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Then {
        let mut rest = bytes;
        let then = loop {
            match self.look(cx, rest) {
                Look::Answered(length) => {
                    rest = rest.get(length..).unwrap_or_default();
                    if rest.is_empty() {
                        return Then::ReadOn;
                    }
                }
                Look::Incomplete => break Then::ReadOn,
                Look::Task(length, task) => {
                    rest = rest.get(length..).unwrap_or_default();
                    break Then::Perform(task);
                }
                Look::End => return Then::End,
            }
        };
        self.stream.ahead().extend_from_slice(rest);
        then
    }

    /// Nothing has come: waits, for as long as it is its turn to.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Option<Task>> {
        if !self.hears_stop {
            // Once: the place among those who are woken is kept.
            self.hears_stop = self.stopped.as_mut().poll(cx).is_pending();
        }
        if self.waiting == Patience::Idle && self.worker.is_stopping() && self.worker.shared.hurries() {
            self.waiting = Patience::Last;
            self.timer.set(LAST_REQUEST);
        }
        match (self.timer.poll(cx), self.waiting) {
            (Poll::Pending, _) => Poll::Pending,
            (Poll::Ready(()), Patience::Head) => Poll::Ready(Some(Task::Refused(Failure::HeadTimeout))),
            (Poll::Ready(()), _) => Poll::Ready(None),
        }
    }

    fn look(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Look {
        let worker = self.worker.clone();
        let settings = worker.shared.settings.load();
        let head = match strict::judge(bytes, &settings.limits) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if self.waiting != Patience::Head {
                    self.waiting = Patience::Head;
                    self.timer.set(settings.limits.header_timeout);
                }
                return Look::Incomplete;
            }
            Err(failure) => return Look::Task(bytes.len(), Task::Refused(failure)),
        };
        // Nobody speaks another protocol before the app has agreed: this would be read as both.
        if head.framing == Framing::WebSocket && bytes.len() > head.length {
            return Look::Task(bytes.len(), Task::Refused(Failure::Malformed));
        }
        if head.is_absolute {
            return self.look_at_absolute(cx, &head, bytes);
        }
        let asked = match Asked::http1(&head, bytes, self.stream.visit(), &settings) {
            Ok(asked) => asked,
            Err(failure) => return Look::Task(bytes.len(), Task::Refused(failure)),
        };
        self.waiting = Patience::Idle;
        self.timer.set_from(asked.at, settings.limits.keepalive_timeout);
        self.left = self.left.saturating_sub(1);
        let keeps_alive = head.keeps_alive && self.left > 0 && !worker.is_stopping();
        let id = worker.shared.ids.of(asked.fields, asked.is_trusted);
        self.answer(cx, &asked, Entering { head: &head, bytes, id, keeps_alive })
    }

    /// The same request with a path for a target (RFC 9112 section 3.2.2).
    fn look_at_absolute(&mut self, cx: &mut Context<'_>, head: &Head, bytes: &[u8]) -> Look {
        let rewritten = match strict::in_origin_form(head, bytes) {
            Ok(rewritten) => rewritten,
            Err(failure) => return Look::Task(bytes.len(), Task::Refused(failure)),
        };
        match self.look(cx, &rewritten) {
            Look::Answered(_) => Look::Answered(head.length),
            Look::Task(_, task) => Look::Task(head.length, task),
            // It was whole before.
            Look::Incomplete | Look::End => Look::End,
        }
    }

    fn answer(&mut self, cx: &mut Context<'_>, asked: &Asked<'_>, entering: Entering<'_>) -> Look {
        let head = entering.head;
        let visit = self.stream.visit();
        let mut answer = answer::decide(&self.worker.shared, visit, asked, head.framing.length(), Time::First);
        let call = exchange::call(&self.worker, visit, asked, answer.entry.as_deref(), &entering.id);
        if let What::Meanwhile(hit, fetch) = answer.what {
            self.fetch_behind(asked, fetch, (head, entering.bytes), &entering.id);
            answer.what = What::Stored(hit);
        }
        if let What::Stored(hit) = &answer.what
            && let Some(body) = hit.stored.body.at_hand()
            && head.framing == Framing::Length(0)
            && hit.is_whole_for(asked)
        {
            exchange::count_hit(&self.worker, asked, &call, answer.entry.as_deref(), hit);
            let key = answer.entry.as_deref().and_then(|entry| cache::shown_key(entry, asked));
            let told = Told {
                id: &entering.id,
                cache: Some(Said { status: hit.status(), key: key.as_deref() }),
                date: self.worker.clock.date(),
                is_unlisted: answer.entry.as_ref().is_some_and(|entry| entry.is_unlisted),
            };
            return self.answer_hot(cx, asked, &entering, (hit, body, told));
        }
        let exchange = Exchange::new(&self.worker, asked, &call, answer.entry.as_deref(), entering.id.clone());
        let (lane, exchange) = self.lane(asked, answer.what, exchange, (head, entering.bytes));
        let request = Request {
            lane,
            exchange,
            accept: asked.fields.text("accept").unwrap_or_default().into(),
            method: asked.method.clone(),
            framing: head.framing,
            version: head.version,
            keeps_alive: entering.keeps_alive,
        };
        Look::Task(head.length, Task::Request(Box::new(request)))
    }

    /// Who answers, with what he needs of a head that is about to be gone.
    fn lane(&self, asked: &Asked<'_>, what: What, mut exchange: Exchange, head: (&Head, &[u8])) -> (Lane, Exchange) {
        let visit = self.stream.visit();
        let lane = match what {
            What::Refuse(failure) => Lane::refusal(&self.worker, failure, asked, &exchange),
            What::Redirect(location) => Lane::Own(Own::redirect(&location), true),
            What::Maintenance(notice) => Lane::maintenance(&self.worker, &notice, asked, &exchange),
            What::Purged => Lane::Own(Own::purged(), true),
            What::Stored(hit) => {
                exchange.cache = Some(hit.status());
                Lane::Own(Own::stored(&hit.stored, &asked.method, asked.fields, asked.at), true)
            }
            What::Spared(own, status) => {
                exchange.cache = Some(status);
                Lane::Own(*own, true)
            }
            What::Meanwhile(hit, fetch) => {
                self.fetch_behind(asked, fetch, head, &exchange.id);
                return self.lane(asked, What::Stored(hit), exchange, head);
            }
            What::Wait(awaited) => {
                let head = BytesMut::from(head.1.get(..head.0.length).unwrap_or_default());
                Lane::Wait(Waiting { awaited, head })
            }
            What::Along(along, status) => {
                exchange.cache = Some(status.collapsed());
                Lane::Along(Box::new(along))
            }
            What::Fetch(fetch) if head.0.is_plain(head.1) && fetch.is_light() => {
                let head = fetch::request::head(asked, visit, &exchange.id, &fetch);
                Lane::Light(Box::new(fetch), head)
            }
            What::Fetch(fetch) => {
                let passage = Passage::new(asked, visit, fetch, &exchange);
                Lane::Pingora(Box::new(passage), head.0.settled(head.1))
            }
        };
        (lane, exchange)
    }

    /// Has a newer answer fetched, where the request can be said again without its client.
    fn fetch_behind(&self, asked: &Asked<'_>, fetch: Fetch, head: (&Head, &[u8]), id: &RequestId) {
        if head.0.is_plain(head.1) {
            let head = fetch::request::head(asked, self.stream.visit(), id, &fetch);
            fetch::behind::fetch(&self.worker, fetch, head, id.clone());
        }
    }

    /// A stored answer, in one write.
    fn answer_hot(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Asked<'_>,
        entering: &Entering<'_>,
        (hit, body, told): (&Hit, &Bytes, Told<'_>),
    ) -> Look {
        let mut out = self.worker.buffers.take();
        respond::hot(&mut out, hit, asked, told, connection(entering.head.version, entering.keeps_alive));
        let mut body = if asked.method == Method::HEAD { Bytes::new() } else { body.clone() };
        if body.len() <= SMALL {
            out.extend_from_slice(&body);
            body.clear();
        }
        let parts = [IoSlice::new(&out), IoSlice::new(&body)];
        let parts = if body.is_empty() { &parts[..1] } else { &parts[..] };
        let sent = match self.stream.poll_parts(cx, parts) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(_)) => return Look::End,
            Poll::Pending => 0,
        };
        let is_sent = sent == out.len() + body.len() && self.stream.poll_pushed(cx);
        if is_sent && entering.keeps_alive {
            self.worker.buffers.put(out);
            return Look::Answered(entering.head.length);
        }
        let rest = if sent < out.len() { Bytes::copy_from_slice(&out[sent..]) } else { Bytes::new() };
        let sent_of_body = sent.saturating_sub(out.len());
        self.worker.buffers.put(out);
        let unsent = Unsent { parts: [rest, body.slice(sent_of_body..)], keeps_alive: entering.keeps_alive };
        Look::Task(entering.head.length, Task::Unsent(unsent))
    }
}

/// A request that was understood, with the bytes of its head.
struct Entering<'b> {
    head: &'b Head,
    bytes: &'b [u8],
    id: RequestId,
    /// Whether another request may follow.
    keeps_alive: bool,
}

/// What is said about the connection (RFC 9112 section 9.6).
fn connection(version: Version, keeps_alive: bool) -> Option<&'static str> {
    match (version, keeps_alive) {
        (_, false) => Some("close"),
        (Version::Http10, true) => Some("keep-alive"),
        (Version::Http11, true) => None,
    }
}
