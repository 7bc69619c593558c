//! Deliveries of Travis.

use super::*;

#[tokio::test]
async fn a_passed_build_of_a_configured_branch_is_a_push() {
    let world = world();
    let payload = build("hasadna/SHOP", "dev").to_string();
    let Verdict::Push(pushes) = world.travis(&payload).await else { panic!("not accepted") };
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].site().to_string(), "shop/dev");
    assert_eq!((pushes[0].number, pushes[0].repository_id), (Some(7), Some(1)));
    assert_eq!(pushes[0].delivery, "7 2026-11-24T02:00:00Z passed");
    let fixed = with(build("hasadna/shop", "dev"), &[("/status_message", json!("Fixed")), ("/number", json!(8))]);
    assert_eq!(status(&world.travis(&fixed.to_string()).await), 202);
}

#[tokio::test]
async fn two_projects_of_one_repository_each_get_their_push() {
    let mut world = world();
    let mut twin = project("shop", Ci::Travis);
    twin.name = "twin".parse().unwrap();
    twin.branches.remove(&"dev".parse().unwrap());
    world.projects.insert(twin.name.clone(), twin);
    let sites = |verdict| match verdict {
        Verdict::Push(pushes) => pushes.iter().map(|push| push.site().to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(sites(world.travis(&build("hasadna/shop", "master").to_string()).await), ["shop/master", "twin/master"]);
    assert_eq!(sites(world.travis(&build("hasadna/shop", "dev").to_string()).await), ["shop/dev"]);
}

#[tokio::test]
async fn honest_travis_deliveries_that_deploy_nothing_say_why() {
    let world = world();
    let shop = || build("hasadna/shop", "master");
    let pull_request = json!("pull_request");
    let cases = [
        (with(shop(), &[("/type", pull_request), ("/pull_request", json!(true))]), "a pull request"),
        (with(shop(), &[("/pull_request", json!(true))]), "a pull request"),
        (with(shop(), &[("/pull_request_number", json!(3))]), "a pull request"),
        (with(shop(), &[("/type", json!("cron"))]), "a build of type `cron`, not a push"),
        (with(shop(), &[("/type", json!("api"))]), "a build of type `api`, not a push"),
        (with(shop(), &[("/type", Value::Null)]), "a build of type ``, not a push"),
        (with(shop(), &[("/tag", json!("master"))]), "a tag, not a branch"),
        (with(shop(), &[("/state", json!("failed")), ("/status", json!(1))]), "the build has not passed"),
        (with(shop(), &[("/state", json!("errored"))]), "the build has not passed"),
        (with(shop(), &[("/state", json!("started")), ("/status", Value::Null)]), "the build has not passed"),
        (with(shop(), &[("/state", Value::Null), ("/status", json!(1))]), "the build has not passed"),
        (with(shop(), &[("/status", json!(1))]), "the build has not passed"),
        (build("hasadna/shop", "feature"), "project `shop` has no branch `feature`"),
        (build("hasadna/shop", "MASTER"), "project `shop` has no branch `MASTER`"),
        (build("hasadna/blog", "master"), "project `blog` does not deploy on the word of travis"),
        (build("hasadna/wiki", "master"), "project `wiki` does not deploy on the word of travis"),
    ];
    for (payload, why) in cases {
        let verdict = world.travis(&payload.to_string()).await;
        assert_eq!((status(&verdict), reason(verdict).as_str()), (200, why), "{payload}");
    }
    let fallback = with(shop(), &[("/state", Value::Null)]);
    assert_eq!(status(&world.travis(&fallback.to_string()).await), 202);
}

#[tokio::test]
async fn dishonest_or_broken_travis_deliveries_are_refused() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let (form, good) = (body(&payload), TRAVIS.sign(&payload));
    let form = form.as_bytes();
    let foreign = build("evil/shop", "master").to_string();
    assert_eq!(status(&world.travis(&foreign).await), 404);
    let short = with(build("hasadna/shop", "master"), &[("/commit", json!("0123456"))]);
    assert_eq!(status(&world.travis(&short.to_string()).await), 400);
    let option = with(build("hasadna/shop", "master"), &[("/commit", json!("--upload-pack=x"))]);
    assert_eq!(status(&world.travis(&option.to_string()).await), 400);
    let twice = payload.replacen("\"branch\"", "\"branch\":\"dev\",\"branch\"", 1);
    assert_eq!(status(&world.travis(&twice).await), 400);
    assert_eq!(status(&world.travis("{}").await), 400);

    let kind = ("content-type", FORM);
    let (forged, moved) = (STRANGER.sign(&payload), TRAVIS.sign(&foreign));
    let refused = [
        (vec![kind], 401),
        (vec![kind, ("travis-repo-slug", "hasadna/shop")], 401),
        (vec![kind, ("signature", "")], 401),
        (vec![kind, ("signature", "!")], 401),
        (vec![kind, ("signature", &forged)], 401),
        (vec![kind, ("signature", &moved)], 401),
        (vec![kind, ("signature", &good), ("signature", &good)], 400),
        (vec![kind, ("signature", &good), ("content-encoding", "gzip")], 415),
        (vec![("content-type", "application/json"), ("signature", &good)], 415),
        (vec![("content-type", "application/json"), ("user-agent", "Travis CI Notifications")], 415),
        (vec![("content-type", "application/x-www-form-urlencoded; charset=utf-16"), ("signature", &good)], 415),
        (vec![("content-type", "application/json")], 400),
        (vec![], 400),
        (vec![kind, ("signature", &good), ("x-gitea-event", "push")], 401),
        (vec![kind, ("signature", &good), ("x-gitlab-event", "Push Hook")], 415),
        (vec![kind, ("signature", &good), ("webhook-id", "1")], 415),
        (vec![kind, ("signature", &good), ("x-github-event", "push")], 401),
    ];
    for (headers, expected) in refused {
        let verdict = world.judge(&headers, form).await;
        assert_eq!(status(&verdict), expected, "{headers:?}: {verdict:?}");
    }
    let signed = [kind, ("signature", good.as_str())];
    assert_eq!(status(&world.judge(&signed, form).await), 202);
    assert_eq!(status(&world.judge(&signed, &[form, b"&", form].concat()).await), 400);
    assert_eq!(status(&world.judge(&signed, &vec![b'a'; TRAVIS_BODY_MAX + 1]).await), 413);
}

#[tokio::test]
async fn no_flipped_bit_is_accepted() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let (original, signature) = (body(&payload).into_bytes(), TRAVIS.sign(&payload));
    let headers = [("content-type", FORM), ("signature", signature.as_str())];
    assert_eq!(status(&world.judge(&headers, &original).await), 202);
    for bit in 0..original.len() * 8 {
        let mut flipped = original.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // `%2F` and `%2f`, or a form's field cut by a new `&`, may still be the very same payload.
        if form::payload(&flipped).is_ok_and(|same| same == payload.as_bytes()) {
            continue;
        }
        let verdict = world.judge(&headers, &flipped).await;
        assert!(matches!(verdict, Verdict::Refused(_)), "bit {bit}: {verdict:?}");
    }
    let raw = STANDARD.decode(&signature).unwrap();
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let flipped = STANDARD.encode(flipped);
        let verdict = world.judge(&[("content-type", FORM), ("signature", &flipped)], &original).await;
        assert_eq!(status(&verdict), 401, "bit {bit} of the signature");
    }
}

#[tokio::test]
async fn a_pinned_key_counts_as_it_stands_now() {
    let world = world();
    let payload = build("hasadna/shop", "master").to_string();
    let pem = world.dir.path().join("travis.pem");
    std::fs::write(&pem, STRANGER.public_pem()).unwrap();
    assert_eq!(status(&world.travis(&payload).await), 401);
    std::fs::write(&pem, "no key").unwrap();
    assert_eq!(status(&world.travis(&payload).await), 503);
    std::fs::write(&pem, TRAVIS.public_pem()).unwrap();
    assert_eq!(status(&world.travis(&payload).await), 202);
}

/// Travis' API on loopback: answers the given responses, one a connection, and tells how many it gave.
async fn travis_api(answers: Vec<String>) -> (String, tokio::task::JoinHandle<usize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/config", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        for (given, answer) in answers.iter().enumerate() {
            let within = std::time::Duration::from_millis(300);
            let Ok(Ok((mut stream, _))) = tokio::time::timeout(within, listener.accept()).await else { return given };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        answers.len()
    });
    (url, serve)
}

pub fn config_with(key: &Sender) -> String {
    let config = json!({"config": {"notifications": {"webhook": {"public_key": key.public_pem()}}}}).to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{config}", config.len())
}

#[tokio::test]
async fn a_fetched_key_is_kept_and_forgeries_fetch_once() {
    let mut world = world();
    let (url, api) = travis_api(vec![config_with(&TRAVIS), "HTTP/1.1 500 No\r\n\r\n".to_owned()]).await;
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
    let payload = build("hasadna/shop", "master").to_string();
    assert_eq!(status(&world.travis(&payload).await), 202);
    for forged in ["x", "y", "z"] {
        let headers = [("content-type", FORM), ("signature", &STRANGER.sign(forged))];
        assert_eq!(status(&world.judge(&headers, body(forged).as_bytes()).await), 401);
    }
    assert_eq!(api.await.unwrap(), 1, "a forgery fetched the key again");

    // Control again, and Travis away: the stored key holds, for this URL alone.
    world.hooks = Hooks::default();
    world.hooks.refresh(&world.machine).await;
    assert_eq!(status(&world.travis(&payload).await), 202);
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl("http://127.0.0.1:1/config".to_owned());
    assert_eq!(status(&world.travis(&payload).await), 503);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.dir.path().join("travis-key.pem")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_new_key_of_travis_is_found_by_the_first_delivery_it_signs() {
    let mut world = world();
    let stored_by = |url: &str| format!("{url}\n{}", STRANGER.public_pem());
    let (url, api) = travis_api(vec![config_with(&TRAVIS)]).await;
    std::fs::write(world.dir.path().join("travis-key.pem"), stored_by(&url)).unwrap();
    world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
    assert_eq!(status(&world.travis(&build("hasadna/shop", "master").to_string()).await), 202);
    assert_eq!(api.await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_not_the_whole_right_answer_is_no_key() {
    let empty = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned();
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    for answer in [empty, redirect, long] {
        let mut world = world();
        let (url, _api) = travis_api(vec![answer]).await;
        world.machine.hooks.travis = machine::TravisKey::ConfigUrl(url);
        assert_eq!(status(&world.travis(&build("hasadna/shop", "master").to_string()).await), 503);
    }
}
