//! Pulls, against a registry on loopback that can misbehave.

mod image_common;

use ferrokube_runtime::image::{Config, Credentials, DEFAULT_REGISTRY};
use ferrokube_testkit::image::{BuiltImage, ImageBuilder, Layer, digest};
use ferrokube_testkit::registry::{ACCESS_TOKEN, Auth, Fault, IDENTITY_TOKEN, Registry};
use ferrokube_testkit::tools::is_root;
use ferrokube_testkit::{free_port, wait_for};
use image_common::{TestStore, runtime, text};
use serde_json::json;
use std::time::Duration;

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(step).collect()
}

fn app(seed: u64) -> BuiltImage {
    ImageBuilder::new()
        .layer(Layer::new().dir("bin", 0o755).file("bin/base", 0o755, noise(200_000, 7)))
        .layer(Layer::new().dir("app", 0o755).file("app/data", 0o644, noise(300_000, seed)))
        .config("Cmd", json!(["/bin/base"]))
        .config("User", json!("1000:1000"))
        .build()
}

fn unauthorized(user: &str, password: &str) -> Credentials {
    Credentials { username: user.into(), password: password.into(), ..Credentials::default() }
}

#[test]
fn a_pull_brings_an_image_under_its_names() {
    if !is_root("a_pull_brings_an_image_under_its_names") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(1);
    let reference = built.push(&registry, "team/app", "v1");
    let test = TestStore::new();
    let image = runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    assert_eq!(image.id, built.id());
    assert_eq!(image.repo_tags, [reference.as_str()]);
    assert_eq!(image.repo_digests, [format!("{}/team/app@{}", registry.host(), built.digest())]);
    assert_eq!(image.config.cmd, ["/bin/base"]);
    let size: usize = built.layers.iter().map(|layer| layer.bytes.len()).sum();
    assert_eq!(image.size, (size + built.config.len()) as u64);
    for name in [&reference, &built.id(), &image.repo_digests[0], &built.id()[7..20].to_owned()] {
        assert!(test.store.resolve(name).is_some(), "{name} resolves");
    }
    assert!(test.store.resolve("nothing").is_none());

    // A second pull asks for the manifest's digest and nothing else; a reopened store knows the image.
    let before = registry.log().len();
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls again");
    let asked = registry.log();
    assert!(asked[before..].iter().all(|logged| logged.method == "HEAD"), "{:?}", &asked[before..]);
    let reopened = ferrokube_runtime::image::ImageStore::open(test.root(), Config::default()).expect("opens");
    assert_eq!(reopened.list().len(), 1);
}

#[test]
fn a_moved_tag_leaves_the_old_image_without_a_tag() {
    if !is_root("a_moved_tag_leaves_the_old_image_without_a_tag") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let (old, new) = (app(1), app(2));
    let test = TestStore::new();
    let reference = old.push(&registry, "app", "latest");
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    new.push(&registry, "app", "latest");
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    assert_eq!(test.store.resolve(&reference).expect("known").id, new.id());
    let before = test.store.resolve(&old.id()).expect("still there");
    assert!(before.repo_tags.is_empty() && before.repo_digests.len() == 1, "{before:?}");
    assert_eq!(registry.gets(&old.layers[0].digest), 1, "the shared layer came once");
}

#[test]
fn what_does_not_exist_is_said_in_kubelet_words() {
    let registry = Registry::start().expect("starts");
    let test = TestStore::new();
    let reference = format!("{}/no/such:v1", registry.host());
    let error = runtime().block_on(test.store.pull(&reference, None)).expect_err("is not there");
    let expected =
        format!("failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\": {reference}: not found");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.to_status().code(), tonic::Code::NotFound);
    let invalid = runtime().block_on(test.store.pull("Not A Reference", None)).expect_err("is refused");
    assert_eq!(invalid.to_status().code(), tonic::Code::InvalidArgument);
    let nobody = format!("{}/app", free_address());
    let unreachable = runtime().block_on(test.store.pull(&nobody, None)).expect_err("nobody is there");
    assert_eq!(unreachable.to_status().code(), tonic::Code::Unavailable);
    assert!(unreachable.to_string().contains("failed to do request: HEAD"), "{unreachable}");
}

/// An address where nobody listens.
fn free_address() -> std::net::SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, free_port()).into()
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    if !is_root("an_interrupted_download_goes_on_where_it_stopped") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(3);
    let reference = built.push(&registry, "app", "v1");
    let layer = built.layers[1].digest.clone();
    registry.add_fault(Fault::Cut { digest: layer.clone(), after: 100_000, times: 2 });
    let test = TestStore::new();
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls in the end");
    let asked: Vec<_> = registry.log().into_iter().filter(|logged| logged.path.contains(&layer)).collect();
    assert_eq!(asked.len(), 3);
    let starts: Vec<_> = asked.iter().map(|logged| logged.range.clone()).collect();
    assert_eq!(starts[0], None);
    assert!(starts[1].is_some() && starts[2].is_some() && starts[1] != starts[2], "{starts:?}");
    assert_eq!(asked[2].status, 206);
    assert!(std::fs::read_dir(test.root().join("content/ingest")).expect("readable").next().is_none(), "no download is left over");
}

#[test]
fn a_later_pull_and_another_process_continue_a_failed_one() {
    if !is_root("a_later_pull_and_another_process_continue_a_failed_one") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(4);
    let reference = built.push(&registry, "app", "v1");
    let layer = built.layers[1].digest.clone();
    registry.add_fault(Fault::Cut { digest: layer.clone(), after: 50_000, times: 1 });
    // The download breaks off, and from then on the registry refuses: this pull fails.
    registry.add_fault(Fault::Later { path: layer.clone(), well: 1, status: 404 });
    let test = TestStore::new();
    let error = runtime().block_on(test.store.pull(&reference, None)).expect_err("fails");
    assert!(error.to_string().contains("failed to copy"), "{error}");
    assert!(test.store.list().is_empty(), "half an image is not an image");
    registry.clear_faults();
    let other = ferrokube_runtime::image::ImageStore::open(test.root(), Config::default()).expect("opens");
    runtime().block_on(other.pull(&reference, None)).expect("pulls");
    let last = registry.log().into_iter().rfind(|logged| logged.path.contains(&layer)).expect("was asked");
    assert!(last.range.is_some(), "it went on: {last:?}");
    assert_eq!(test.store.list().len(), 1, "the first handle sees what the second one pulled");
}

#[test]
fn a_registry_without_ranges_is_asked_from_the_start() {
    if !is_root("a_registry_without_ranges_is_asked_from_the_start") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(5);
    let reference = built.push(&registry, "app", "v1");
    registry.add_fault(Fault::NoRange);
    registry.add_fault(Fault::NoHead);
    registry.add_fault(Fault::Cut { digest: built.layers[0].digest.clone(), after: 10_000, times: 1 });
    let test = TestStore::new();
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
}

#[test]
fn a_download_that_stands_still_is_started_again() {
    if !is_root("a_download_that_stands_still_is_started_again") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(6);
    let reference = built.push(&registry, "app", "v1");
    registry.add_fault(Fault::Stall { digest: built.layers[0].digest.clone(), after: 10_000 });
    let test = TestStore::with(Config { progress_timeout: Duration::from_secs(2), ..Config::default() });
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let registry = Registry::start().expect("starts");
    let built = app(7);
    let reference = built.push(&registry, "app", "v1");
    registry.add_fault(Fault::Corrupt { digest: built.layers[1].digest.clone() });
    let test = TestStore::new();
    let error = runtime().block_on(test.store.pull(&reference, None)).expect_err("is refused");
    assert!(error.to_string().contains(&format!("expected {}: failed precondition", built.layers[1].digest)), "{error}");
    assert_eq!(error.to_status().code(), tonic::Code::FailedPrecondition);
    assert!(test.store.list().is_empty());
    registry.clear_faults();
    if is_root("wrong_bytes_are_refused_and_not_kept (second half)") {
        runtime().block_on(test.store.pull(&reference, None)).expect("pulls once the registry is right");
    }
    registry.add_fault(Fault::Corrupt { digest: built.id() });
    let fresh = TestStore::new();
    assert!(text(runtime().block_on(fresh.store.pull(&reference, None))).contains("unexpected digest"), "the config is checked too");
}

#[test]
fn a_digest_reference_gets_exactly_that_image() {
    if !is_root("a_digest_reference_gets_exactly_that_image") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(8);
    built.push(&registry, "app", "v1");
    let test = TestStore::new();
    let reference = format!("{}/app:v1@{}", registry.host(), built.digest());
    let image = runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    assert!(image.repo_tags.is_empty(), "a digest reference makes no tag");
    // A registry that serves something else under the digest is caught.
    let lie = digest(b"other");
    registry.put_manifest("app", &lie, built.media_type, &built.manifest);
    let wrong = format!("{}/app@{lie}", registry.host());
    let error = text(runtime().block_on(test.store.pull(&wrong, None)));
    assert!(error.contains("unexpected digest") && error.contains(&lie), "{error}");
}

#[test]
fn an_index_gives_the_image_for_this_machine() {
    if !is_root("an_index_gives_the_image_for_this_machine") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let (here, elsewhere) = (app(9), ImageBuilder::new().architecture("mips64le").layer(Layer::new().file("x", 0o644, "x")).build());
    let reference = BuiltImage::push_index(&[&elsewhere, &here], &registry, "app", "multi");
    let test = TestStore::new();
    let image = runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    assert_eq!(image.id, here.id());
    let foreign = BuiltImage::push_index(&[&elsewhere], &registry, "app", "foreign");
    let error = runtime().block_on(test.store.pull(&foreign, None)).expect_err("nothing fits");
    assert!(error.to_string().contains("no match for platform in manifest") && error.to_string().ends_with("not found"), "{error}");
}

#[test]
fn docker_schema_2_works_like_oci() {
    if !is_root("docker_schema_2_works_like_oci") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = ImageBuilder::new().docker().layer(Layer::new().file("x", 0o644, "x")).build();
    let reference = built.push(&registry, "app", "docker");
    let test = TestStore::new();
    assert_eq!(runtime().block_on(test.store.pull(&reference, None)).expect("pulls").id, built.id());
}

#[test]
fn credentials_open_private_registries() {
    if !is_root("credentials_open_private_registries") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(10);
    let reference = built.push(&registry, "private/app", "v1");
    let good = unauthorized("me", "secret");
    let identity = Credentials { identity_token: IDENTITY_TOKEN.into(), ..Credentials::default() };
    let token = Credentials { registry_token: ACCESS_TOKEN.into(), ..Credentials::default() };
    let basic = Auth::Basic("me".into(), "secret".into());
    let bearer = Auth::Bearer("me".into(), "secret".into());
    for (auth, credentials, works) in [
        (&basic, None, false),
        (&basic, Some(unauthorized("me", "wrong")), false),
        (&basic, Some(good.clone()), true),
        (&bearer, None, false),
        (&bearer, Some(unauthorized("me", "wrong")), false),
        (&bearer, Some(good), true),
        (&bearer, Some(identity), true),
        (&bearer, Some(token), true),
    ] {
        registry.set_auth(auth.clone());
        let test = TestStore::new();
        let result = runtime().block_on(test.store.pull(&reference, credentials.as_ref()));
        assert_eq!(result.is_ok(), works, "{auth:?} {credentials:?}: {:?}", result.err());
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.contains("pull access denied, repository does not exist or may require authorization"), "{text}");
        }
    }
    assert_eq!(registry.gets("/token?service=tests&scope=repository%3Aprivate%2Fapp%3Apull"), 3, "{:?}", registry.log());
}

#[test]
fn a_mirror_serves_for_the_default_registry() {
    if !is_root("a_mirror_serves_for_the_default_registry") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(11);
    built.push(&registry, "library/app", "latest");
    let mut config = Config { mirror_only: true, ..Config::default() };
    config.add_mirror(&format!("{DEFAULT_REGISTRY}={}", registry.url())).expect("a valid mirror");
    let test = TestStore::with(config);
    let image = runtime().block_on(test.store.pull("app", None)).expect("pulls");
    assert_eq!(image.repo_tags, [format!("{DEFAULT_REGISTRY}/library/app:latest")], "the name is that of the registry, not of the mirror");
    let error = text(runtime().block_on(test.store.pull("nothing:here", None)));
    assert!(error.ends_with(&format!("{DEFAULT_REGISTRY}/library/nothing:here: not found")), "{error}");
    assert!(registry.log().iter().all(|logged| logged.authorization.is_none()));
    assert!(Config::default().add_mirror("nonsense").is_err());
}

#[test]
fn mirrors_do_not_get_the_credentials_of_the_registry() {
    let registry = Registry::start().expect("starts");
    registry.set_auth(Auth::Basic("me".into(), "secret".into()));
    app(12).push(&registry, "team/app", "latest");
    let mut config = Config { mirror_only: true, ..Config::default() };
    config.add_mirror(&format!("reg.invalid={}", registry.url())).expect("a valid mirror");
    let test = TestStore::with(config);
    let credentials = unauthorized("me", "secret");
    assert!(runtime().block_on(test.store.pull("reg.invalid/team/app", Some(&credentials))).is_err());
    assert!(registry.log().iter().all(|logged| logged.authorization.is_none()));
    // Those in the mirror's own URL are its.
    if !is_root("mirrors_do_not_get_the_credentials_of_the_registry (second half)") {
        return;
    }
    let mut config = Config { mirror_only: true, ..Config::default() };
    config.add_mirror(&format!("*=http://me:secret@{}", registry.host())).expect("a valid mirror");
    let test = TestStore::with(config);
    runtime().block_on(test.store.pull("reg.invalid/team/app", None)).expect("pulls");
}

#[test]
fn pulls_at_the_same_time_share_every_layer() {
    if !is_root("pulls_at_the_same_time_share_every_layer") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let (one, two) = (app(13), app(14));
    let (first, second) = (one.push(&registry, "one", "v1"), two.push(&registry, "two", "v1"));
    let test = TestStore::new();
    runtime().block_on(async {
        let pulls = [&first, &first, &first, &second, &second].map(|reference| test.store.pull(reference, None));
        for result in futures_util::future::join_all(pulls).await {
            result.expect("pulls");
        }
    });
    for layer in one.layers.iter().chain(&two.layers) {
        assert_eq!(registry.gets(&layer.digest), 1, "every layer came once");
    }
    assert_eq!(test.store.list().len(), 2);
    assert_eq!(test.layers().len(), 3, "the base is shared");
}

#[test]
fn a_cancelled_pull_leaves_nothing_half_done() {
    if !is_root("a_cancelled_pull_leaves_nothing_half_done") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(15);
    let reference = built.push(&registry, "app", "v1");
    registry.add_fault(Fault::Stall { digest: built.layers[1].digest.clone(), after: 10_000 });
    let test = TestStore::new();
    let partial = test.root().join("content/ingest").join(built.layers[1].digest.trim_start_matches("sha256:"));
    let standing_still = async || {
        let length = std::fs::metadata(&partial)?.len();
        anyhow::ensure!(length == 10_000, "{length} bytes are there");
        Ok(())
    };
    let cancelled: Result<(), _> = runtime().block_on(async {
        tokio::select! {
            pulled = test.store.pull(&reference, None) => Ok(drop(pulled)),
            still = wait_for("the download to stand still", Duration::from_secs(120), standing_still) => Err(still.expect("it stalls")),
        }
    });
    assert!(cancelled.is_err(), "it was standing still");
    assert!(test.store.list().is_empty());
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    let last = registry.log().into_iter().rfind(|logged| logged.path.contains(&built.layers[1].digest)).expect("was asked");
    assert_eq!(last.status, 206, "it went on where the cancelled one was");
}

#[test]
fn server_errors_are_retried_and_then_told() {
    if !is_root("server_errors_are_retried_and_then_told") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let built = app(16);
    let reference = built.push(&registry, "app", "v1");
    registry.add_fault(Fault::Status { path: built.layers[0].digest.clone(), status: 503, times: 2 });
    let test = TestStore::new();
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
    registry.add_fault(Fault::Status { path: "/manifests/".into(), status: 500, times: 9 });
    let error = text(runtime().block_on(test.store.pull(&reference, None)));
    assert!(error.contains("unexpected status from HEAD request") && error.contains("500 Internal Server Error"), "{error}");
}

#[test]
fn an_https_registry_must_be_trusted() {
    if !is_root("an_https_registry_must_be_trusted") {
        return;
    }
    let (registry, certificate) = Registry::start_tls().expect("starts");
    let built = app(17);
    let reference = built.push(&registry, "app", "v1");
    let test = TestStore::new();
    let error = text(runtime().block_on(test.store.pull(&reference, None)));
    assert!(error.contains("certificate"), "{error}");
    assert!(registry.log().is_empty(), "nothing was asked of a stranger");

    // What is trusted is read once for a process, so another process tries with the certificate.
    let file = test.root().join("ca.pem");
    std::fs::write(&file, certificate).expect("writable");
    let child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "trusting_child", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", &file)
        .env("FERROKUBE_TEST_REFERENCE", &reference)
        .output()
        .expect("runs");
    assert!(child.status.success(), "{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(registry.gets(&built.layers[0].digest) == 1, "the child pulled over TLS");
}

#[test]
fn loopback_works_on_a_machine_without_certificates() {
    if !is_root("loopback_works_on_a_machine_without_certificates") {
        return;
    }
    let registry = Registry::start().expect("starts");
    let reference = app(19).push(&registry, "app", "v1");
    let child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "trusting_child", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .env("FERROKUBE_TEST_REFERENCE", &reference)
        .output()
        .expect("runs");
    assert!(child.status.success(), "{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "run by other tests, in another environment"]
fn trusting_child() {
    let Ok(reference) = std::env::var("FERROKUBE_TEST_REFERENCE") else { return };
    let test = TestStore::new();
    runtime().block_on(test.store.pull(&reference, None)).expect("pulls");
}

#[test]
fn the_image_service_answers_as_the_kubelet_expects() {
    if !is_root("the_image_service_answers_as_the_kubelet_expects") {
        return;
    }
    use ferrokube_cri::v1::{self, image_service_server::ImageService as _};
    let registry = Registry::start().expect("starts");
    registry.set_auth(Auth::Basic("me".into(), "secret".into()));
    let built = app(18);
    let reference = built.push(&registry, "app", "v1");
    let test = TestStore::new();
    let service = ferrokube_runtime::image::ImageServiceImpl::new(test.store.clone());
    let spec = |image: &str| Some(v1::ImageSpec { image: image.into(), ..Default::default() });
    runtime().block_on(async {
        let status = |image: &str, verbose| {
            let request = v1::ImageStatusRequest { image: spec(image), verbose };
            service.image_status(tonic::Request::new(request))
        };
        assert!(status(&reference, false).await.expect("answers").into_inner().image.is_none(), "absent is not an error");
        let auth = v1::AuthConfig { username: "me".into(), password: "secret".into(), ..Default::default() };
        let pull = v1::PullImageRequest { image: spec(&reference), auth: Some(auth), sandbox_config: None };
        let pulled = service.pull_image(tonic::Request::new(pull)).await.expect("pulls").into_inner();
        assert_eq!(pulled.image_ref, built.id());
        let answer = status(&pulled.image_ref, true).await.expect("answers").into_inner();
        let image = answer.image.expect("present");
        assert_eq!((image.uid.map(|uid| uid.value), image.username.as_str(), image.pinned), (Some(1000), "", false));
        assert!(answer.info["info"].contains("/bin/base"), "{:?}", answer.info);
        let list = service.list_images(tonic::Request::new(v1::ListImagesRequest::default())).await.expect("lists").into_inner();
        assert_eq!(list.images, [image]);
        let info = service.image_fs_info(tonic::Request::new(v1::ImageFsInfoRequest {})).await.expect("answers").into_inner();
        let used = info.image_filesystems[0].used_bytes.as_ref().expect("measured").value;
        assert!(used >= 500_000, "{used}");
        let remove = v1::RemoveImageRequest { image: spec(&reference) };
        service.remove_image(tonic::Request::new(remove.clone())).await.expect("goes");
        service.remove_image(tonic::Request::new(remove)).await.expect("going twice is fine");
        let failed = service.pull_image(tonic::Request::new(v1::PullImageRequest { image: spec("-"), ..Default::default() })).await;
        assert_eq!(failed.expect_err("is refused").code(), tonic::Code::InvalidArgument);
    });
}
