//! A hundred thousand deliveries that were good, and then changed in one of the ways that strangers change them.

use super::forges::{standard, tea_signature};
use super::*;

const DELIVERIES: u64 = 100_000;

/// xorshift64*: the same deliveries in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }
}

#[derive(Clone)]
struct Sent {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The bytes that are signed: a change that leaves them is none.
    signed: fn(&[u8]) -> Option<Vec<u8>>,
}

fn sent(headers: &[(&str, &str)], body: &str, signed: fn(&[u8]) -> Option<Vec<u8>>) -> Sent {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sent { headers, body: body.as_bytes().to_vec(), signed }
}

/// One good delivery of each kind that is signed.
fn originals() -> Vec<Sent> {
    let whole = |body: &[u8]| Some(body.to_vec());
    let json = ("content-type", "application/json");
    let travis = fixture("travis-passed", "shop").to_string();
    let github = fixture("github-push", "wiki").to_string();
    let run = fixture("github-workflow-run", "blog").to_string();
    let tea = fixture("forgejo-action-run-success", "tea").to_string();
    let any = fixture("generic", "any").to_string();
    let key = format!("whsec_{}", STANDARD.encode(SECRET));
    let (now, hub) = (NOW.to_string(), |text: &str| hub_signature(SECRET, text.as_bytes()));
    vec![
        sent(&[("content-type", FORM), ("signature", &TRAVIS.sign(&travis))], &body(&travis), |body| {
            form::payload(body).ok()
        }),
        sent(&[json, ("x-github-event", "push"), ("x-hub-signature-256", &hub(&github))], &github, whole),
        sent(&[json, ("x-github-event", "workflow_run"), ("x-hub-signature-256", &hub(&run))], &run, whole),
        sent(
            &[json, ("x-forgejo-event", "action_run_success"), ("x-forgejo-signature", &tea_signature(tea.as_bytes()))],
            &tea,
            whole,
        ),
        sent(
            &[
                json,
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", &now),
                ("webhook-signature", &standard(&key, "msg_1", NOW, &any)),
            ],
            &any,
            whole,
        ),
    ]
}

/// Changes what is signed, or what shows it; never what says nothing.
fn mutate(original: &Sent, dice: &mut Dice) -> Sent {
    let mut changed = original.clone();
    let proof = changed.headers.iter().position(|(name, _)| name.contains("signature")).unwrap();
    let at = dice.roll(changed.body.len());
    match dice.roll(11) {
        0 => changed.body[at] ^= 1 << dice.roll(8),
        1 => changed.body.truncate(at),
        2 => changed.body.insert(at, u8::try_from(dice.roll(256)).unwrap()),
        3 => drop(changed.body.remove(at)),
        4 => changed.body.extend_from_slice(&original.body),
        5 => drop(changed.headers.remove(proof)),
        6 => changed.headers.push(original.headers[proof].clone()),
        7 => changed.headers[proof].1.clear(),
        8 => {
            // Another digit in place of one; base64's last bits do not count, so not at the end.
            let value = &mut changed.headers[proof].1;
            let place = value.find(['=', ',']).map_or(0, |at| at + 1).min(value.len() - 12);
            let at = place + dice.roll(value.len() - 8 - place);
            let other = if value.as_bytes()[at] == b'a' { "b" } else { "a" };
            value.replace_range(at..=at, other);
        }
        9 => changed.headers[proof].0 = "x-hub-signature".to_owned(),
        _ => changed.headers.push(("content-encoding".to_owned(), "gzip".to_owned())),
    }
    changed
}

#[test]
fn none_of_a_hundred_thousand_mutated_deliveries_is_accepted_and_one_key_is_fetched() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = world();
        let (url, fetches) = counting_api().await;
        world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
        let originals = originals();
        for original in &originals {
            let verdict = world.judge(&borrowed(original), &original.body).await;
            assert_eq!(status(&verdict), 202, "{verdict:?}");
        }
        let before = fetches.load(std::sync::atomic::Ordering::SeqCst);
        let mut dice = Dice(20_261_124);
        let mut judged = 0;
        while judged < DELIVERIES {
            let original = &originals[dice.roll(originals.len())];
            let changed = mutate(original, &mut dice);
            let is_same = (changed.signed)(&changed.body) == (original.signed)(&original.body);
            if is_same && changed.headers == original.headers {
                continue;
            }
            judged += 1;
            let verdict = world.judge(&borrowed(&changed), &changed.body).await;
            let shown = String::from_utf8_lossy(&changed.body);
            assert!(matches!(verdict, Verdict::Refused(_)), "{judged}: {verdict:?} {:?} {shown}", changed.headers);
        }
        let fetched = fetches.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!((before, fetched), (1, 1), "forgeries fetched the key again");
    });
}

fn borrowed(sent: &Sent) -> Vec<(&str, &str)> {
    sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Travis' API on loopback, which counts how often it is asked.
async fn counting_api() -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/config", listener.local_addr().unwrap());
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    let answer = super::travis::config_with(&TRAVIS);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, count)
}
