//! A response that the app was asked for once, on its way to everybody who wants it.
//!
//! Led by the `fill` of the request that asks, found through `flights` by the others, who wait for its head and then read along
//! by a `Reader` each. The rule: nobody's pace is another's. What comes is kept until the last has read it; only when it grows
//! too large to be kept does it come no faster than the slowest reads, and he is cut off when others wait for him.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::filling::{Filling, Held};
use super::memory::Epoch;
use super::stored::Head;
use super::vary::Variant;

/// What is kept for the slowest reader of a response that is too large to be stored, in bytes.
const WINDOW: usize = 64 << 10;
/// For how long those who have read all of it wait for who has not.
const PACE: Duration = Duration::from_secs(2);
/// What a part costs beside its bytes.
const PART: usize = 64;
/// Bodies up to this are copied when they have come, in bytes.
const SMALL: usize = 16 << 10;

/// The head of a response that others may read along with.
#[derive(Debug)]
pub struct Coming {
    pub head: Head,
    /// Of its body, where the app has said it.
    pub length: Option<u64>,
}

#[derive(Debug)]
pub struct Flight {
    /// What had been purged when it was asked for.
    pub epoch: Epoch,
    /// Whom it will be for, where that is known before.
    expected: Option<Variant>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Of the body, what somebody has still to read, or the store to get.
    parts: VecDeque<Bytes>,
    /// Parts before those.
    gone: usize,
    bytes: usize,
    /// How many parts each reader has read.
    readers: HashMap<u64, usize>,
    next_reader: u64,
    /// Those who may become readers.
    waiters: usize,
    /// Whether it will not be stored after all.
    is_passing: bool,
    /// Its room in what all may keep together: until the last reader has left.
    held: Option<Held>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Asked,
    Coming(Arc<Coming>),
    Over(End),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    /// There is none, or it broke off: the next may ask again.
    Lost,
    /// It is for whoever asked and nobody else: everybody asks by himself.
    Refused,
}

/// What can be seen of one.
#[derive(Debug)]
pub enum View {
    /// Nothing is known but, perhaps, whom it will be for.
    Asked(Option<Variant>),
    /// The head, and whether a part of the body has come.
    Coming(Arc<Coming>, bool),
    Over,
}

impl Flight {
    pub fn new(epoch: Epoch, expected: Option<Variant>) -> Arc<Self> {
        Arc::new(Self { epoch, expected, state: Mutex::default(), changed: Notify::new() })
    }

    /// Takes room for a part of the body, from this share; false when there is none left.
    pub fn grow(&self, filling: &Arc<Filling>, bytes: u64) -> bool {
        self.state().held.get_or_insert_with(|| Held::new(filling)).grow(bytes + PART as u64)
    }

    pub fn view(&self) -> View {
        let state = self.state();
        match &state.stage {
            Stage::Asked => View::Asked(self.expected.clone()),
            Stage::Coming(coming) => View::Coming(coming.clone(), state.gone + state.parts.len() > 0),
            Stage::Over(_) => View::Over,
        }
    }

    /// A place among the readers; `None` when the beginning is gone.
    pub fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if state.is_passing {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, 0);
        Some(Reader { flight: self.clone(), id, read: 0 })
    }

    /// A place among those who wait until more is known.
    pub fn wait(self: &Arc<Self>) -> Waiter {
        self.state().waiters += 1;
        Waiter(self.clone())
    }

    /// Shows the head.
    pub fn come(&self, coming: Coming) {
        self.state().stage = Stage::Coming(Arc::new(coming));
        self.changed.notify_waiters();
    }

    /// Adds a part of the body.
    pub fn add(&self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        let part = Bytes::copy_from_slice(part);
        let mut state = self.state();
        state.bytes += part.len();
        state.parts.push_back(part);
        state.let_go();
        drop(state);
        self.changed.notify_waiters();
    }

    /// It has grown too large to be kept.
    pub fn pass(&self) {
        let mut state = self.state();
        state.is_passing = true;
        state.let_go();
    }

    /// Waits until more of the body may come: at once, but for what is only passing and somebody has still to read.
    pub async fn room(&self) {
        while timeout(PACE, self.until(|state| (!state.is_full()).then_some(()))).await.is_err() {
            self.leave_behind();
        }
    }

    /// Cuts the slowest off where others wait for him: the rest cannot be kept for him, and his pace is not to be theirs.
    fn leave_behind(&self) {
        let mut state = self.state();
        let came = state.gone + state.parts.len();
        if state.readers.values().any(|read| *read == came) {
            let slowest = state.readers.values().min().copied();
            state.readers.retain(|_, read| Some(*read) != slowest);
            state.let_go();
            drop(state);
            self.changed.notify_waiters();
        }
    }

    pub fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Whether somebody reads along, or may yet.
    pub fn has_readers(&self) -> bool {
        let state = self.state();
        !state.readers.is_empty() || state.waiters > 0
    }

    /// The body, as far as it has come, once more: so that no part that is still to be read keeps all of it.
    pub fn copied(&self) -> Bytes {
        let state = self.state();
        let mut body = BytesMut::with_capacity(state.bytes);
        state.parts.iter().for_each(|part| body.extend_from_slice(part));
        body.freeze()
    }

    /// The body, as far as it has come, in one piece. Whoever still reads reads from that, unless it is small: what nobody else
    /// has takes the least memory.
    pub fn gather(&self) -> Bytes {
        if self.state().bytes <= SMALL {
            return self.copied();
        }
        let mut state = self.state();
        let mut body = BytesMut::with_capacity(state.bytes);
        if let (Some(only), 1) = (state.parts.front(), state.parts.len()) {
            return only.clone();
        }
        state.parts.iter().for_each(|part| body.extend_from_slice(part));
        let body = body.freeze();
        let mut rest = body.clone();
        for part in &mut state.parts {
            *part = rest.split_to(part.len());
        }
        body
    }

    /// Says how it ended; only the first word counts.
    pub fn end(&self, end: End) {
        let mut state = self.state();
        if !matches!(state.stage, Stage::Over(_)) {
            state.stage = Stage::Over(end);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn until<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Whatever changes after the look wakes.
            changed.as_mut().enable();
            if let Some(found) = look(&self.state()) {
                return found;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.is_passing && self.bytes > WINDOW
    }

    /// Drops what everybody has read of what will not be stored.
    fn let_go(&mut self) {
        if !self.is_passing {
            return;
        }
        let slowest = self.readers.values().min().copied().unwrap_or(usize::MAX);
        while self.gone < slowest
            && let Some(part) = self.parts.pop_front()
        {
            self.bytes -= part.len();
            self.gone += 1;
            if let Some(held) = &mut self.held {
                held.shrink((part.len() + PART) as u64);
            }
        }
    }
}

/// One who waits until more is known. To be kept until it is decided what becomes of it.
#[derive(Debug)]
pub struct Waiter(Arc<Flight>);

impl Waiter {
    /// Waits until there is something to read along with, or there will be nothing; then how it ended.
    pub async fn settled(&self) -> Option<End> {
        let look = |state: &State| match &state.stage {
            Stage::Asked => None,
            Stage::Coming(_) if state.gone + state.parts.len() == 0 => None,
            Stage::Coming(_) => Some(None),
            Stage::Over(end) => Some(Some(*end)),
        };
        self.0.until(look).await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.state().waiters -= 1;
    }
}

/// One who reads along.
#[derive(Debug)]
pub struct Reader {
    flight: Arc<Flight>,
    id: u64,
    /// Parts it has read.
    read: usize,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Part(Bytes),
    End,
    /// The rest will not come.
    Torn,
}

impl Reader {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Waits for what comes next. May be dropped and called again.
    pub async fn next(&mut self) -> Next {
        let (read, id) = (self.read, self.id);
        let next = self
            .flight
            .until(|state| match (read.checked_sub(state.gone).and_then(|at| state.parts.get(at)), &state.stage) {
                _ if !state.readers.contains_key(&id) => Some(Next::Torn),
                (Some(part), _) => Some(Next::Part(part.clone())),
                (None, Stage::Over(End::Whole)) => Some(Next::End),
                (None, Stage::Over(_)) => Some(Next::Torn),
                (None, _) => None,
            })
            .await;
        if matches!(next, Next::Part(_)) {
            self.read += 1;
            self.step(Some(self.read));
        }
        next
    }

    /// Writes down how far it has come, or that it has left.
    fn step(&self, read: Option<usize>) {
        let mut state = self.flight.state();
        match read {
            Some(read) => drop(state.readers.get_mut(&self.id).map(|own| *own = read)),
            None => drop(state.readers.remove(&self.id)),
        }
        if state.is_passing {
            state.let_go();
            drop(state);
            self.flight.changed.notify_waiters();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.step(None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::super::memory::tests::{key, room, stored_head};
    use super::*;

    fn flight() -> Arc<Flight> {
        let flight = Flight::new(room(0).epoch(&key("/")), None);
        flight.come(Coming { head: stored_head(Variant::default()), length: None });
        flight
    }

    /// What comes at once.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn part(bytes: &'static [u8]) -> Option<Next> {
        Some(Next::Part(Bytes::from_static(bytes)))
    }

    #[test]
    fn everybody_reads_all_of_it_by_his_own_pace() {
        let flight = flight();
        let mut quick = flight.join().unwrap();
        assert_eq!(now(quick.next()), None);
        flight.add(b"one");
        flight.add(b"");
        flight.add(b"two");
        let mut late = flight.join().unwrap();
        assert_eq!((now(quick.next()), now(quick.next()), now(quick.next())), (part(b"one"), part(b"two"), None));
        flight.end(End::Whole);
        flight.end(End::Lost);
        assert_eq!(now(quick.next()), Some(Next::End));
        assert_eq!(
            (now(late.next()), now(late.next()), now(late.next())),
            (part(b"one"), part(b"two"), Some(Next::End))
        );
        assert_eq!(&flight.gather()[..], b"onetwo");
    }

    #[test]
    fn what_breaks_off_is_no_end() {
        let flight = flight();
        let mut reader = flight.join().unwrap();
        flight.add(b"one");
        flight.end(End::Lost);
        assert_eq!((now(reader.next()), now(reader.next())), (part(b"one"), Some(Next::Torn)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_large_to_be_kept_comes_no_faster_than_it_is_read() {
        let flight = flight();
        let (mut one, mut other) = (flight.join().unwrap(), flight.join().unwrap());
        flight.add(&[0; WINDOW]);
        assert!(now(flight.room()).is_some(), "it is going to be stored");
        flight.add(b"more");
        flight.pass();
        assert!(flight.join().is_none(), "the beginning may be gone");
        assert!(now(one.next()).is_some() && now(flight.room()).is_none(), "the other has read nothing");
        assert!(now(other.next()).is_some() && now(flight.room()).is_some());
        assert_eq!((now(one.next()), now(other.next())), (part(b"more"), part(b"more")));
        flight.add(&[0; 2 * WINDOW]);
        assert!(now(flight.room()).is_none());
        drop((one, other));
        assert!(now(flight.room()).is_some() && !flight.has_readers(), "nobody is left to wait for");
        let waiter = flight.wait();
        assert!(flight.has_readers(), "he may become one");
        drop(waiter);
        assert!(!flight.has_readers());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_others_waiting_for_too_long_is_left_behind() {
        let flight = flight();
        let (mut quick, mut slow) = (flight.join().unwrap(), flight.join().unwrap());
        flight.pass();
        flight.add(&[0; 2 * WINDOW]);
        assert!(timeout(2 * PACE, flight.room()).await.is_err(), "nobody has read it, so nobody waits");
        quick.next().await;
        flight.room().await;
        assert_eq!((slow.next().await, now(quick.next())), (Next::Torn, None));
        flight.add(b"more");
        assert_eq!(quick.next().await, part(b"more").unwrap());
    }

    #[test]
    fn what_is_read_along_is_of_the_share_of_all_that_are_on_their_way() {
        let (flight, filling) = (flight(), Filling::new(4000));
        let reader = flight.join().unwrap();
        assert!(flight.grow(&filling, 900) && !flight.grow(&filling, 900));
        flight.end(End::Whole);
        let (one, other) = (Flight::new(flight.epoch, None), Flight::new(flight.epoch, None));
        assert!(!one.grow(&filling, 900), "somebody still reads the first");
        drop((flight, reader, one));
        assert!(other.grow(&filling, 900));
    }
}
